"""Functions of releases as AWS Lambda keeps them: created, updated, published, removed.

Owns names, packages and the order of calls. One Lambda function per deployment and function name;
every release is an alias, named by the release, of a published version, so that invoking needs no
look-up and an old release keeps its code and environment. Must not know how functions are invoked.

Blocking: boto3. Limits: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""

import base64
import contextlib
import hashlib
import json
import logging
import re
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deployments.runtime.driver import MEBIBYTE, FunctionSpec, UnableToPrepare

logger = logging.getLogger(__name__)

NAME_CHARACTERS_MAX = 64
DIGEST_CHARACTERS = 10
PACKAGE_BYTES_MAX = 50 * MEBIBYTE  # sent directly; more goes through S3
UNPACKED_BYTES_MAX = 250 * MEBIBYTE
ENVIRONMENT_BYTES_MAX = 4096
VARIABLE_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+", re.ASCII)
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html; what is reserved with
# every driver is refused before (deployments/variables.py).
RESERVED = frozenset(
    {
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
)
READY_SECONDS_MAX = 120.0
POLL_SECONDS = (0.1, 2.0)  # doubled from the first up to the second
ATTEMPTS_MAX = 5
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# What AWS says of these is about the function and holds nothing of the account.
TOLD_TO_OWNERS = frozenset(
    {"InvalidParameterValueException", "InvalidZipFileException", "CodeStorageExceededException"}
)


@dataclass(frozen=True)
class Configuration:
    """The operator's choices; see docs/configuration.md."""

    region: str
    role: str = ""  # ARN of the role functions run as; needed to prepare them
    runtime: str = "nodejs22.x"
    prefix: str = "aig-"
    timeout_seconds: int = 30
    reserved_concurrency: int = 0  # of each function; 0: what the account has
    bucket: str = ""
    endpoint_url: str = ""
    connections: int = 200  # invocations at a time of this process
    wait_seconds: float = 10.0  # for a connection, and for Lambda while it throttles
    init_seconds: float = 10.0  # Lambda gives a function as long to load, beside its timeout


class _Overtaken(Exception):
    """Another process is changing the same function."""


@dataclass(frozen=True)
class _Package:
    """A function's zip. `code_sha256` is how Lambda names it: base64."""

    file: IO[bytes]
    size: int
    code_sha256: str


def function_name(prefix: str, deploy_id: str, name: str) -> str:
    """The Lambda function's name: readable, and of this deployment's function alone."""
    digest = hashlib.sha256(f"{deploy_id}\0{name}".encode()).hexdigest()[:DIGEST_CHARACTERS]
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", f"{prefix}{deploy_id}-{name}")
    return f"{readable[: NAME_CHARACTERS_MAX - DIGEST_CHARACTERS - 1]}-{digest}"


class Functions:
    """The functions of one platform in one account and region. Thread-safe, as boto3's clients."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._session = boto3.session.Session()
        self._lambda = self._client("lambda")

    def _client(self, service: str) -> Any:
        return self._session.client(
            service,
            region_name=self.configuration.region,
            endpoint_url=self.configuration.endpoint_url or None,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 4},
                s3={"addressing_style": "path"} if self.configuration.endpoint_url else None,
            ),
        )

    def name_of(self, spec: FunctionSpec) -> str:
        """See `function_name`."""
        return function_name(self.configuration.prefix, spec.deploy_id, spec.function_name)

    # --- Preparing ---------------------------------------------------------------------------

    def prepare(self, spec: FunctionSpec) -> None:
        """Have the release's alias point at a version with its code and environment.

        Does nothing when it does already. Raises UnableToPrepare.
        """
        _check_environment(spec)
        name = self.name_of(spec)
        wanted = self._wanted(spec)
        with _told(spec):
            found = self._find(name, spec.release_id)
            if found is None or found.get("Description") != wanted["Description"]:
                self._publish_release(spec, name, wanted)
            if limit := self.configuration.reserved_concurrency:
                self._lambda.put_function_concurrency(
                    FunctionName=name, ReservedConcurrentExecutions=limit
                )

    def _wanted(self, spec: FunctionSpec) -> dict[str, Any]:
        """The function's configuration; its description is a digest of it and of the code."""
        if not self.configuration.role:
            raise UnableToPrepare(
                "AWS_LAMBDA_ROLE is not set: the operator has to name the role functions run as."
            )
        wanted: dict[str, Any] = {
            "Role": self.configuration.role,
            "Runtime": self.configuration.runtime,
            "Handler": f"{Path(spec.entry).stem}.handler",
            "MemorySize": spec.memory_mb,
            "Timeout": self.configuration.timeout_seconds,
            "Environment": {"Variables": dict(spec.environment)},
        }
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
        unpacked = 0
        for path in _files(spec.folder):
            content = path.read_bytes()
            unpacked += len(content)
            digest.update(f"\0{path.relative_to(spec.folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(content).digest())
        if unpacked > UNPACKED_BYTES_MAX:
            raise UnableToPrepare(
                f"The function '{spec.function_name}' has {unpacked // MEBIBYTE} MB of files; "
                f"AWS Lambda takes at most {UNPACKED_BYTES_MAX // MEBIBYTE} MB."
            )
        return {**wanted, "Description": f"sha256:{digest.hexdigest()}"}

    def _publish_release(self, spec: FunctionSpec, name: str, wanted: dict[str, Any]) -> None:
        with _packed(spec.folder) as package, self._code(spec, package) as code:
            for attempt in range(ATTEMPTS_MAX):
                try:
                    version = self._publish(name, wanted, package, code)
                    self._point(name, spec.release_id, version)
                except _Overtaken:
                    time.sleep(min(POLL_SECONDS[0] * 2**attempt, POLL_SECONDS[1]))
                else:
                    return
        raise UnableToPrepare(
            f"Another deploy is changing the function '{spec.function_name}'. Deploy again."
        )

    @contextlib.contextmanager
    def _code(self, spec: FunctionSpec, package: _Package) -> Iterator[dict[str, Any]]:
        """The package as the API takes it: in the call, or in S3 for as long as needed."""
        if package.size <= PACKAGE_BYTES_MAX:
            package.file.seek(0)
            yield {"ZipFile": package.file.read()}
            return
        bucket = self.configuration.bucket
        if not bucket:
            raise UnableToPrepare(
                f"The function '{spec.function_name}' has {package.size // MEBIBYTE} MB zipped; "
                f"AWS Lambda takes at most {PACKAGE_BYTES_MAX // MEBIBYTE} MB directly. Make it "
                "smaller, or have the operator set AWS_LAMBDA_S3_BUCKET."
            )
        key = f"functions/{hashlib.sha256(package.code_sha256.encode()).hexdigest()}.zip"
        s3 = self._client("s3")
        package.file.seek(0)
        s3.put_object(Bucket=bucket, Key=key, Body=package.file)
        try:
            yield {"S3Bucket": bucket, "S3Key": key}
        finally:
            s3.delete_object(Bucket=bucket, Key=key)

    def _publish(
        self, name: str, wanted: dict[str, Any], package: _Package, code: dict[str, Any]
    ) -> str:
        """The version with this code and configuration, made if needed. Raises _Overtaken.

        Lambda answers with the latest version when nothing changed since it was published.
        """
        latest = self._find(name)
        if latest is None:
            with _overtaken("ResourceConflictException"):
                self._lambda.create_function(FunctionName=name, Code=code, **wanted)
        elif not _is(latest, wanted, package):
            self._wait(name)
            with _overtaken("ResourceConflictException"):
                self._lambda.update_function_code(FunctionName=name, **code)
                self._wait(name)
                self._lambda.update_function_configuration(FunctionName=name, **wanted)
        latest = self._wait(name)
        if not _is(latest, wanted, package):
            raise _Overtaken
        with _overtaken("ResourceConflictException", "PreconditionFailedException"):
            published = self._lambda.publish_version(
                FunctionName=name,
                CodeSha256=package.code_sha256,
                Description=wanted["Description"],
                # So that nothing is published that another process has changed since.
                **{key: latest[key] for key in ("RevisionId",) if key in latest},
            )
        self._wait(name, published["Version"])
        return str(published["Version"])

    def _point(self, name: str, alias: str, version: str) -> None:
        """Have the alias name the version. Raises _Overtaken when the version was removed."""
        with _overtaken("ResourceNotFoundException", "ResourceConflictException"):
            try:
                self._lambda.update_alias(FunctionName=name, Name=alias, FunctionVersion=version)
            except self._lambda.exceptions.ResourceNotFoundException:
                self._lambda.create_alias(FunctionName=name, Name=alias, FunctionVersion=version)

    def _find(self, name: str, qualifier: str | None = None) -> dict[str, Any] | None:
        """The configuration of the function, or of one of its aliases or versions; None without."""
        which = {"Qualifier": qualifier} if qualifier else {}
        try:
            found: dict[str, Any] = self._lambda.get_function_configuration(
                FunctionName=name, **which
            )
        except self._lambda.exceptions.ResourceNotFoundException:
            return None
        return found

    def _wait(self, name: str, version: str | None = None) -> dict[str, Any]:
        """The configuration once Lambda has finished working on it. Raises UnableToPrepare."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        pause, longest = POLL_SECONDS
        while True:
            found = self._find(name, version)
            if found is None:
                raise _Overtaken  # removed meanwhile
            states = {found.get("State", "Active"), found.get("LastUpdateStatus", "Successful")}
            if "Failed" in states:
                reason = found.get("StateReason") or found.get("LastUpdateStatusReason") or ""
                raise UnableToPrepare(f"AWS Lambda could not set the function up: {reason}")
            if states <= {"Active", "Inactive", "Successful"}:
                return found
            if time.monotonic() > deadline:
                raise UnableToPrepare(
                    f"AWS Lambda did not finish within {READY_SECONDS_MAX:.0f} s. Deploy again."
                )
            time.sleep(pause)
            pause = min(pause * 2, longest)

    # --- Removing ----------------------------------------------------------------------------

    def retire(self, spec: FunctionSpec) -> None:
        """Remove the release's alias, and its version unless another release has it, too."""
        name = self.name_of(spec)
        with contextlib.suppress(self._lambda.exceptions.ResourceNotFoundException):
            alias = self._lambda.get_alias(FunctionName=name, Name=spec.release_id)
            self._lambda.delete_alias(FunctionName=name, Name=spec.release_id)
            version = alias["FunctionVersion"]
            others = self._lambda.list_aliases(FunctionName=name, FunctionVersion=version)
            if not others["Aliases"]:
                with contextlib.suppress(self._lambda.exceptions.ResourceConflictException):
                    self._lambda.delete_function(FunctionName=name, Qualifier=version)

    def delete(self, deploy_id: str, function_names: Collection[str]) -> None:
        """Remove the deployment's functions with all their versions and aliases."""
        for each in function_names:
            with contextlib.suppress(self._lambda.exceptions.ResourceNotFoundException):
                self._lambda.delete_function(
                    FunctionName=function_name(self.configuration.prefix, deploy_id, each)
                )

    # --- Invoking ----------------------------------------------------------------------------

    @property
    def endpoint_url(self) -> str:
        """Where the API is."""
        return str(self._lambda.meta.endpoint_url)

    def credentials(self) -> Any:
        """Frozen credentials to sign with; may ask AWS for new ones. Raises BotoCoreError."""
        found = self._session.get_credentials()
        return found.get_frozen_credentials() if found else None


def _is(latest: dict[str, Any], wanted: dict[str, Any], package: _Package) -> bool:
    """Whether the function's latest state is the wanted one.

    The description is written last, in one call with the configuration it stands for.
    """
    return (
        latest.get("Description") == wanted["Description"]
        and latest.get("CodeSha256") == package.code_sha256
    )


def _check_environment(spec: FunctionSpec) -> None:
    """Raises UnableToPrepare for an environment Lambda would refuse."""
    for name in spec.environment:
        if name in RESERVED:
            raise UnableToPrepare(f"{name} is reserved by AWS Lambda; choose another name.")
        if not VARIABLE_NAME.fullmatch(name):
            raise UnableToPrepare(
                f"AWS Lambda does not take the variable name '{name}': it must start with a letter "
                "and have two or more letters, digits or underscores."
            )
    size = sum(len(f"{name}{value}".encode()) for name, value in spec.environment.items())
    if size > ENVIRONMENT_BYTES_MAX:
        raise UnableToPrepare(
            f"The environment has {size:,} bytes; AWS Lambda takes at most "
            f"{ENVIRONMENT_BYTES_MAX:,}. Remove variables or put large values into a file."
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _packed(folder: Path) -> Iterator[_Package]:
    """The folder's files as a zip that is the same whenever it is made of the same files."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path in _files(folder):
                info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), ZIP_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16  # Lambda's own user has to read it
                archive.writestr(info, path.read_bytes())
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        yield _Package(file, size, base64.b64encode(digest).decode())


@contextlib.contextmanager
def _overtaken(*codes: str) -> Iterator[None]:
    """Errors of these codes mean that another process works on the function."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] in codes:
            raise _Overtaken from None
        raise


@contextlib.contextmanager
def _told(spec: FunctionSpec) -> Iterator[None]:
    """What AWS refuses becomes a sentence for the owner; the rest of it is for the operator."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        name = spec.function_name
        code, message = type(error).__name__, str(error)
        if isinstance(error, ClientError):
            code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        logger.error("AWS Lambda did not take %s of %s: %s", name, spec.release_id, error)
        if code in TOLD_TO_OWNERS:
            raise UnableToPrepare(
                f"AWS Lambda did not take the function '{name}': {message}"
            ) from None
        raise UnableToPrepare(
            f"AWS Lambda did not take the function '{name}' ({code}). The operator finds the "
            "reason in the server's log."
        ) from None
