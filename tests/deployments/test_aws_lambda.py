"""What only the AWS Lambda driver does: functions, versions and aliases, refusals, retries.

The fake service is our own, so the control plane is held to moto, too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from deployments.runtime import aws_functions
from deployments.runtime.aws_functions import Configuration, Functions, function_name
from deployments.runtime.aws_lambda import AwsLambda
from deployments.runtime.driver import Failure, FunctionSpec, InvokeContext, UnableToPrepare
from tests.deployments.fake_lambda import (
    ACCESS_KEY,
    REGION,
    SECRET_KEY,
    FakeLambda,
    Function,
    fake_lambda,
)
from tests.deployments.functions import Lines, body_of, failure_of, invoke, write_function

ROLE = "arn:aws:iam::123456789012:role/functions"
HELLO = "export const handler = async () => 'hello'"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture
def spec(tmp_path: Path) -> FunctionSpec:
    return write_function(tmp_path / "code", HELLO, environment={"COLOUR": "red"})


# --- The control plane, by moto ----------------------------------------------------------------


@pytest.fixture
def moto() -> Iterator[str]:
    """The address of moto's server, which keeps functions and runs none."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    httpx.post(f"{address}/moto-api/reset")  # what other tests of this process left
    yield address
    server.stop()


@pytest.fixture
def configuration(moto: str) -> Configuration:
    iam = boto3.client("iam", region_name=REGION, endpoint_url=moto)
    role = iam.create_role(RoleName="functions", AssumeRolePolicyDocument="{}")
    return Configuration(region=REGION, role=role["Role"]["Arn"], endpoint_url=moto)


@pytest.fixture
def client(moto: str) -> Any:
    return boto3.client("lambda", region_name=REGION, endpoint_url=moto)


def test_a_release_is_an_alias_of_a_version_with_its_code_and_environment(
    configuration: Configuration, client: Any, spec: FunctionSpec
) -> None:
    functions = Functions(replace(configuration, reserved_concurrency=7))
    functions.prepare(spec)
    name = functions.name_of(spec)
    alias = client.get_alias(FunctionName=name, Name=spec.release_id)
    published = client.get_function(FunctionName=name, Qualifier=alias["FunctionVersion"])
    kept = published["Configuration"]
    assert kept["Handler"] == "index.handler"
    assert kept["Runtime"] == "nodejs22.x"
    assert (kept["MemorySize"], kept["Timeout"]) == (1024, 30)
    assert kept["Environment"]["Variables"] == {"COLOUR": "red"}
    concurrency = client.get_function_concurrency(FunctionName=name)
    assert concurrency["ReservedConcurrentExecutions"] == 7


def test_a_new_release_leaves_the_old_ones_version_as_it_is(
    configuration: Configuration, client: Any, spec: FunctionSpec, tmp_path: Path
) -> None:
    functions = Functions(configuration)
    functions.prepare(spec)
    newer = write_function(
        tmp_path / "code", HELLO + " // 2", release_id="rel_2", environment={"COLOUR": "blue"}
    )
    functions.prepare(newer)
    name = functions.name_of(spec)
    old, new = (
        client.get_function_configuration(FunctionName=name, Qualifier=each.release_id)
        for each in (spec, newer)
    )
    assert old["CodeSha256"] != new["CodeSha256"]
    assert old["Environment"]["Variables"] == {"COLOUR": "red"}
    assert new["Environment"]["Variables"] == {"COLOUR": "blue"}


def test_retiring_and_deleting_leave_nothing_and_can_be_repeated(
    configuration: Configuration, client: Any, spec: FunctionSpec
) -> None:
    functions = Functions(configuration)
    newer = replace(spec, release_id="rel_2", environment={"COLOUR": "blue"})
    for each in (spec, newer):
        functions.prepare(each)
    name = functions.name_of(spec)
    for _ in range(2):
        functions.retire(spec)
        aliases = client.list_aliases(FunctionName=name)["Aliases"]
        assert [alias["Name"] for alias in aliases] == ["rel_2"]
    for _ in range(2):
        functions.delete(spec.deploy_id, [spec.function_name, "never-there"])
        assert client.list_functions()["Functions"] == []


def test_a_large_package_goes_through_s3_and_is_removed_there(
    configuration: Configuration,
    client: Any,
    moto: str,
    spec: FunctionSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aws_functions, "PACKAGE_BYTES_MAX", 10)
    s3 = boto3.client("s3", region_name=REGION, endpoint_url=moto)
    s3.create_bucket(Bucket="packages", CreateBucketConfiguration={"LocationConstraint": REGION})
    functions = Functions(replace(configuration, bucket="packages"))
    functions.prepare(spec)
    assert client.get_alias(FunctionName=functions.name_of(spec), Name=spec.release_id)
    assert s3.list_objects_v2(Bucket="packages")["KeyCount"] == 0


def test_a_large_package_without_a_bucket_is_refused(
    configuration: Configuration, spec: FunctionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_functions, "PACKAGE_BYTES_MAX", 10)
    with pytest.raises(UnableToPrepare, match="AWS_LAMBDA_S3_BUCKET"):
        Functions(configuration).prepare(spec)


# --- What is refused before AWS is asked -------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"AWS_REGION": "x"}, "AWS_REGION is reserved by AWS Lambda"),
        ({"_PRIVATE": "x"}, "does not take the variable name '_PRIVATE'"),
        ({"A": "x"}, "does not take the variable name 'A'"),
        ({"LARGE": "x" * 4092}, "The environment has 4,097 bytes; AWS Lambda takes at most 4,096"),
    ],
)
def test_an_environment_lambda_would_refuse_is_refused_with_a_reason(
    spec: FunctionSpec, environment: dict[str, str], complaint: str
) -> None:
    functions = Functions(Configuration(region=REGION, role=ROLE))
    with pytest.raises(UnableToPrepare, match=complaint):
        functions.prepare(replace(spec, environment=environment))


def test_too_many_files_are_refused(spec: FunctionSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_functions, "UNPACKED_BYTES_MAX", 10)
    with pytest.raises(UnableToPrepare, match="of files; AWS Lambda takes at most"):
        Functions(Configuration(region=REGION, role=ROLE)).prepare(spec)


def test_a_role_is_needed(spec: FunctionSpec) -> None:
    with pytest.raises(UnableToPrepare, match="AWS_LAMBDA_ROLE"):
        Functions(Configuration(region=REGION)).prepare(spec)


def test_names_fit_lambda_and_are_of_one_function_alone() -> None:
    names = [
        ("shop-0123456789", "default"),
        ("shop-0123456789-a-0123456789", "b"),
        ("shop-0123456789", "a-0123456789-b"),
        ("s" * 52 + "-0123456789", "very-long" * 7),
        ("shop-0123456789", "with.dot"),
        ("shop-0123456789", "with_dot"),
    ]
    made = [function_name("aig-", *each) for each in names]
    assert len(set(made)) == len(made)
    assert all(len(name) <= 64 and "." not in name for name in made)
    assert made[0].startswith("aig-shop-0123456789-default-")


# --- The driver, by our own service ------------------------------------------------------------


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[FakeLambda, str]]:
    async with fake_lambda(tmp_path / "fake") as found:
        yield found


@pytest.fixture
async def make_driver(
    service: tuple[FakeLambda, str], lines: Lines
) -> AsyncIterator[Callable[..., AwsLambda]]:
    """A function (**Configuration fields) -> a driver of the fake service."""
    async with AsyncExitStack() as stack:

        def make(**fields: Any) -> AwsLambda:
            values = {"region": REGION, "role": ROLE, "endpoint_url": service[1], **fields}
            driver = AwsLambda(Configuration(**values), lines)
            stack.push_async_callback(driver.close)
            return driver

        yield make


@pytest.fixture
def lines() -> Lines:
    return Lines()


async def test_a_release_that_is_ready_costs_one_call(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver()
    await driver.prepare(spec)
    service[0].calls.clear()
    await driver.prepare(spec)
    assert service[0].calls == ["get_function_configuration"]


async def test_a_setting_that_changed_makes_a_new_version(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    await make_driver().prepare(spec)
    await make_driver(runtime="nodejs24.x").prepare(spec)
    (function,) = service[0].functions.values()
    assert function.aliases == {"rel_1": "2"}
    assert function.versions["2"].configuration["Runtime"] == "nodejs24.x"


async def test_releases_without_a_difference_share_a_version_until_both_are_retired(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver()
    same = write_function(
        spec.folder.parents[1], HELLO, release_id="rel_2", environment=spec.environment
    )
    for each in (spec, same):
        await driver.prepare(each)
    (function,) = service[0].functions.values()
    assert function.aliases == {"rel_1": "1", "rel_2": "1"}
    await driver.retire(spec)
    assert list(function.versions) == ["1"]
    await driver.retire(same)
    assert (function.aliases, function.versions) == ({}, {})


async def test_a_function_another_process_changes_meanwhile_is_done_again(
    service: tuple[FakeLambda, str],
    make_driver: Callable[..., AwsLambda],
    spec: FunctionSpec,
) -> None:
    driver = make_driver()
    await driver.prepare(spec)
    others = iter([True])

    def interrupt(function: Function) -> None:
        if next(others, False):  # another process was faster, once
            function.latest.configuration["Description"] = "of another release"
            function.touch()

    service[0].before_publish = interrupt
    (function,) = service[0].functions.values()
    newer = replace(spec, release_id="rel_2", environment={"COLOUR": "blue"})
    await driver.prepare(newer)
    version = function.versions[function.aliases["rel_2"]]
    assert version.configuration["Environment"]["Variables"] == {"COLOUR": "blue"}


async def test_a_throttled_call_is_tried_again_for_a_while(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver()
    await driver.prepare(spec)
    service[0].throttle = 2
    assert body_of(await invoke(driver, spec)) == "hello"
    service[0].throttle = 1_000
    failed = failure_of(await invoke(make_driver(wait_seconds=0.3), spec))
    assert failed.kind == Failure.THROTTLED
    assert "TooManyRequestsException" in failed.message


async def test_more_requests_than_connections_are_refused(
    make_driver: Callable[..., AwsLambda], tmp_path: Path
) -> None:
    driver = make_driver(connections=1, wait_seconds=0.1)
    spec = write_function(
        tmp_path / "code",
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream.write('begun'); await new Promise((go) => setTimeout(go, 3000)); })",
    )
    await driver.prepare(spec)
    first = driver.invoke(spec, b"{}", InvokeContext("r1"))
    await anext(first)
    assert failure_of(await invoke(driver, spec)).kind == Failure.THROTTLED
    await first.aclose()


async def test_a_release_that_is_not_there_is_put_there_once_for_all_who_ask_for_it(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver()
    answers = await asyncio.gather(*(invoke(driver, spec) for _ in range(3)))
    assert [body_of(items) for items in answers] == ["hello"] * 3
    assert service[0].calls.count("create_function") == 1


async def test_a_release_that_cannot_be_put_there_says_why(
    make_driver: Callable[..., AwsLambda], spec: FunctionSpec, lines: Lines
) -> None:
    driver = make_driver(role="")
    failed = failure_of(await invoke(driver, spec))
    assert failed.kind == Failure.PLATFORM
    assert "AWS_LAMBDA_ROLE is not set" in failed.message
    assert lines.text == failed.message


async def test_a_connection_is_used_again(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver()
    await driver.prepare(spec)
    service[0].peers.clear()
    for _ in range(3):
        assert body_of(await invoke(driver, spec)) == "hello"
    assert len(service[0].peers) == 1


async def test_wrong_credentials_are_told_without_a_secret(
    make_driver: Callable[..., AwsLambda], spec: FunctionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    driver = make_driver()
    with pytest.raises(UnableToPrepare, match="InvalidSignatureException") as caught:
        await driver.prepare(spec)
    assert "another" not in str(caught.value)
    assert "InvalidSignatureException" in failure_of(await invoke(driver, spec)).message


async def test_a_service_that_is_not_there_is_unavailable(
    make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver(endpoint_url="http://127.0.0.1:9")
    assert failure_of(await invoke(driver, spec)).kind == Failure.UNAVAILABLE
    with pytest.raises(UnableToPrepare, match="EndpointConnectionError"):
        await driver.prepare(spec)


async def test_an_answer_that_breaks_off_is_a_failure(
    service: tuple[FakeLambda, str], make_driver: Callable[..., AwsLambda], spec: FunctionSpec
) -> None:
    driver = make_driver()
    await driver.prepare(spec)
    service[0].breaks_off = True
    failed = failure_of(await invoke(driver, spec))
    assert failed.kind == Failure.PLATFORM


async def test_long_output_is_cut_and_says_so(
    make_driver: Callable[..., AwsLambda], tmp_path: Path, lines: Lines
) -> None:
    driver = make_driver()
    spec = write_function(
        tmp_path / "code",
        "export const handler = async () => {"
        " for (let i = 0; i < 200; i++) console.log(i, 'x'.repeat(50)); return 1; }",
    )
    await driver.prepare(spec)
    assert body_of(await invoke(driver, spec)) == "1"
    assert "AWS Lambda hands over the last 4 KB" in lines.rows[0].message
    assert lines.rows[-1].message.startswith("199 x")
