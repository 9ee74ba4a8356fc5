"""The cast every test may ask for, the refusal of outside network, and flushing past triggers."""

import gc
import os
import socket
import ssl
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import hypothesis
import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import connection
from django.test import Client, TransactionTestCase
from whitenoise.middleware import WhiteNoiseMiddleware

from config import bundle_store
from orgs.models import Membership, Organization, User, Workspace
from tests import factories

JOURNEYS = "tests/journeys/"
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

# No test asserts a time: a busy machine finds nothing wrong with the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collected tests stay in memory: looking for garbage among them costs a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys come first: they wait longest, and other tests run meanwhile."""
    items.sort(key=lambda item: not item.nodeid.startswith(JOURNEYS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` one worker has all journeys, which share a platform."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class JourneysTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return JOURNEYS if nodeid.startswith(JOURNEYS) else super()._split_scope(nodeid)

    return JourneysTogether(config, log)


@pytest.fixture(autouse=True)
def _no_outside_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine in no test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            raise RuntimeError(f"A test tried to reach {address!r}.")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="session")
def _flush_past_immutability_triggers() -> Iterator[None]:
    """Tests with real transactions end by emptying tables, which our triggers forbid."""
    from tests.immutability import empty

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _: empty(connection))
        yield


@pytest.fixture(autouse=True, scope="session")
def _passwords_hash_in_one_round() -> Iterator[None]:
    """Hashing is slow so that guessing is; each of a million rounds, for every user of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PBKDF2PasswordHasher, "iterations", 1)
        yield


@pytest.fixture(autouse=True, scope="session")
def _root_certificates_are_read_once() -> Iterator[None]:
    """Each HTTP client parses all of them, though no test's connection leaves this machine."""
    make = ssl.create_default_context
    read = cache(make)
    named_here = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    roots = {None, certifi.where(), *named_here}

    def shared(*arguments: Any, **named: Any) -> ssl.SSLContext:
        if arguments or not named or named.keys() - {"cafile", "capath"}:
            return make(*arguments, **named)
        return read(**named) if set(named.values()) <= roots else make(**named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", shared)
        yield


@pytest.fixture(autouse=True, scope="session")
def _static_files_are_found_once() -> Iterator[None]:
    """A process has one WhiteNoise, which looks for them at its start; tests, one per client."""
    find = WhiteNoiseMiddleware.add_files_from_finders
    found: dict[str, Any] = {}

    def share(self: WhiteNoiseMiddleware) -> None:
        if not found:
            find(self)
            found.update(self.files)
        self.files.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", share)
        yield


@pytest.fixture(autouse=True)
def _data_in_a_folder_of_its_own(settings: Any, tmp_path: Any) -> None:
    """Bundles, releases and sockets of a test go to its own folder."""
    bundles = bundle_store.local(tmp_path / "bundles")
    settings.STORAGES = {**settings.STORAGES, "bundles": bundles}
    settings.INCOMING_DIR = tmp_path / "bundles" / "incoming"
    settings.RELEASES_DIR = tmp_path / "releases"
    settings.RUNTIME_DIR = tmp_path / "run"
    settings.FUNCTIONS_IN_PROCESS = True
    settings.FUNCTION_DRIVER = "local-plain"  # its functions see files that a test makes
    settings.JOURNAL_DIR = tmp_path / "journal"
    settings.JOURNAL_SEGMENT_BYTES = 1024 * 1024
    settings.JOURNAL_SLOTS = 128
    # Whoever saw the end of an answer finds its record in the database.
    settings.BILLING_BARRIER = "database"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for sockets: the system limits theirs to 104 characters."""
    with tempfile.TemporaryDirectory(prefix="aig-test-") as folder:
        yield Path(folder)


@pytest.fixture
def organization(db: None) -> Organization:
    return factories.make_organization(name="Acme")


@pytest.fixture
def workspace(organization: Organization) -> Workspace:
    return factories.make_workspace(organization=organization)


@pytest.fixture
def other_organization(db: None) -> Organization:
    return factories.make_organization(name="Other")


@pytest.fixture
def other_workspace(other_organization: Organization) -> Workspace:
    return factories.make_workspace(organization=other_organization)


@pytest.fixture
def owner(organization: Organization) -> User:
    return factories.make_member(organization=organization, role=Membership.Role.OWNER)


@pytest.fixture
def member(organization: Organization) -> User:
    return factories.make_member(organization=organization)


@pytest.fixture
def outsider(other_organization: Organization) -> User:
    return factories.make_member(organization=other_organization, role=Membership.Role.OWNER)


def _client_of(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def owner_client(owner: User) -> Client:
    return _client_of(owner)


@pytest.fixture
def member_client(member: User) -> Client:
    return _client_of(member)


@pytest.fixture
def outsider_client(outsider: User) -> Client:
    return _client_of(outsider)


@pytest.fixture
def token(workspace: Workspace) -> str:
    """The acting workspace's token."""
    return factories.make_token(workspace=workspace)


@pytest.fixture
def outsider_token(other_workspace: Workspace) -> str:
    return factories.make_token(workspace=other_workspace)


def _data_api(secret: str) -> Any:
    """A function (path, body=None) -> response that calls the data API with this token."""
    client = Client()

    def call(path: str, body: Any = None, **headers: str) -> Any:
        return client.post(
            f"/api/data/{path}",
            data=body if body is not None else "",
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret}", **headers},
        )

    return call


@pytest.fixture
def agent(token: str) -> Any:
    return _data_api(token)


@pytest.fixture
def outsider_agent(outsider_token: str) -> Any:
    return _data_api(outsider_token)
