"""Deploys while functions are kept elsewhere: prepared before they go live, removed afterwards."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from deployments import deploying, environment, releases, sites, tasks
from deployments.models import Deployment, Release
from orgs.models import Workspace
from tests import factories
from tests.deployments.fake_lambda import ACCESS_KEY, REGION, SECRET_KEY, FakeLambda, fake_lambda
from tests.deployments.test_releases import deploy
from tests.deployments.test_sites import Visit
from tests.deployments.zips import function_site, static_site

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("functions_end"),
]

ROLE = "arn:aws:iam::000000000000:role/functions"


@pytest.fixture
async def service(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FakeLambda]:
    """The platform set up to run functions at a fake AWS Lambda."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setattr(sites, "FRESH_SECONDS", 0)
    async with fake_lambda(tmp_path / "fake") as (service, address):
        settings.FUNCTION_DRIVER = "aws-lambda"
        settings.AWS_LAMBDA = {"region": REGION, "role": ROLE, "endpoint_url": address}
        yield service


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The tasks that were enqueued."""
    enqueued: list[dict[str, Any]] = []
    monkeypatch.setattr(
        deploying.current_app,
        "send_task",
        lambda name, **options: enqueued.append({"name": name, **options}),
    )
    return enqueued


@pytest.fixture
async def deployment(workspace: Workspace) -> Deployment:
    return await in_thread(factories.make_deployment)(workspace=workspace, deployed=False)


in_thread = sync_to_async


def code(word: str) -> bytes:
    handler = f"exports.handler = async () => ({{statusCode: 200, body: '{word}'}});"
    return function_site(**{"functions/default.func/index.js": handler})


async def visit(deployment: Deployment) -> Visit:
    return await Visit(deployment.deploy_id).run()


async def test_a_deploy_is_served_from_there(
    service: FakeLambda, sent: list[Any], deployment: Deployment
) -> None:
    release = await in_thread(deploy)(deployment, code("hello"))
    (function,) = service.functions.values()
    assert function.aliases == {release.public_id: "1"}
    answer = await visit(deployment)
    assert (answer.status, answer.text) == (200, "hello")


async def test_a_static_site_needs_nothing_there(
    service: FakeLambda, sent: list[Any], deployment: Deployment
) -> None:
    await in_thread(deploy)(deployment, static_site())
    assert service.functions == {}


async def test_what_is_refused_there_fails_the_release_and_the_old_one_serves(
    service: FakeLambda, sent: list[Any], deployment: Deployment
) -> None:
    await in_thread(deploy)(deployment, code("old"))
    await in_thread(environment.update)(deployment, {"LARGE": "x" * 5000})
    with pytest.raises(releases.UnableToRelease, match="AWS Lambda takes at most 4,096"):
        await in_thread(deploy)(deployment, code("new"))
    failed = await Release.objects.filter(deployment=deployment).order_by("-pk").afirst()
    assert failed is not None
    assert failed.status == Release.Status.FAILED
    assert "Remove variables" in failed.failure
    assert (await visit(deployment)).text == "old"


async def test_a_driver_that_is_not_set_up_fails_the_release_with_the_setting(
    settings: Any, deployment: Deployment
) -> None:
    settings.FUNCTION_DRIVER = "aws-lambda"
    settings.AWS_LAMBDA = {"region": "", "role": ""}
    with pytest.raises(releases.UnableToRelease, match="AWS_LAMBDA_REGION"):
        await in_thread(deploy)(deployment, code("hello"))


async def test_only_the_active_release_and_the_one_before_are_kept_there(
    service: FakeLambda, sent: list[Any], deployment: Deployment
) -> None:
    made = [await in_thread(deploy)(deployment, code(word)) for word in ("one", "two", "three")]
    assert {task["name"] for task in sent} == {"deployments.tidy_functions"}
    await in_thread(tasks.tidy_functions)(**sent[-1]["kwargs"])
    (function,) = service.functions.values()
    assert list(function.aliases) == [release.public_id for release in made[1:]]
    # The first one is not gone for good: going back prepares it again.
    await in_thread(deploying.roll_back)(deployment, made[0].public_id, at=timezone.now())
    assert (await visit(deployment)).text == "one"


async def test_a_function_that_releases_no_longer_have_is_removed_there(
    service: FakeLambda, sent: list[Any], deployment: Deployment
) -> None:
    both = {"functions/extra.func/index.js": "exports.handler = async () => 'extra'"}
    for bundle in (function_site(**both), code("two"), code("three")):
        assert len(service.functions) == (2 if sent else 0)
        await in_thread(deploy)(deployment, bundle)
    await in_thread(tasks.tidy_functions)(**sent[-1]["kwargs"])
    assert [name.split("-")[-2] for name in service.functions] == ["default"]
    assert (await visit(deployment)).text == "three"


async def test_a_deleted_deployment_leaves_nothing_there(
    service: FakeLambda, sent: list[Any], deployment: Deployment, other_workspace: Workspace
) -> None:
    theirs = await in_thread(factories.make_deployment)(
        workspace=other_workspace, prefix="theirs", deployed=False
    )
    for each in (deployment, theirs):
        await in_thread(deploy)(each, code(each.prefix))
    await in_thread(deploying.delete)(deployment, at=timezone.now())
    await in_thread(tasks.tidy_functions)(**sent[-1]["kwargs"])
    assert len(service.functions) == 1
    assert (await visit(theirs)).text == "theirs"


async def test_a_deployment_deleted_while_it_was_deployed_leaves_nothing_there(
    service: FakeLambda,
    sent: list[Any],
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare = releases._prepare

    def prepare_and_lose(release: Release) -> None:
        prepare(release)
        deploying.delete(deployment, at=timezone.now())

    monkeypatch.setattr(releases, "_prepare", prepare_and_lose)
    with pytest.raises(releases.UnableToRelease, match="deleted"):
        await in_thread(deploy)(deployment, code("hello"))
    await in_thread(tasks.tidy_functions)(**sent[-1]["kwargs"])
    assert service.functions == {}


async def test_nothing_is_to_be_removed_where_functions_run_on_this_machine(
    sent: list[Any], deployment: Deployment
) -> None:
    await in_thread(deploy)(deployment, code("hello"))
    await in_thread(deploying.delete)(deployment, at=timezone.now())
    assert sent == []
