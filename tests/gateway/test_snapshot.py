"""What the hot path knows: how fresh it is, how often it is loaded, how much it keeps."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, DataError, InterfaceError, OperationalError, connections
from django.utils import timezone

from gateway import keys, snapshot
from gateway.app import GatewayApp
from gateway.catalog import Catalog
from gateway.models import GatewayKey
from gateway.snapshot import Caller, Snapshot, UnableToLoad
from tests.gateway.conftest import ApiClient, Tenant, until


def keep_nothing_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the database for every call, unless it is away."""
    monkeypatch.setattr(snapshot, "RENEW_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(snapshot, "REFUSE_AFTER_SECONDS", 0.0)


@pytest.fixture
async def known(transactional_db: None) -> AsyncIterator[Snapshot]:
    snapshot = Snapshot()
    yield snapshot
    await asyncio.to_thread(snapshot.close)
    await sync_to_async(connections.close_all)()


def made_up(deploy_id: str) -> Caller:
    return Caller(1, deploy_id, 1, 1, "acme", 0, ())


def loads_with(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], Any]) -> list[str]:
    """Replace the look-up of callers; the list grows by every deployId looked up."""
    asked: list[str] = []

    def counted(deploy_id: str) -> Any:
        asked.append(deploy_id)
        return load(deploy_id)

    monkeypatch.setattr(snapshot, "load_caller", counted)
    return asked


async def test_a_revoked_key_is_refused_within_a_second(
    app: GatewayApp, api: ApiClient, tenant: Tenant
) -> None:
    """Under load: calls keep the entry warm, which must not keep it alive."""
    assert (await api.call("/models", method="GET")).status == 200
    await sync_to_async(keys.revoke_all)(tenant.deployment, at=timezone.now())
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        await api.call("/models", method="GET")
        await asyncio.sleep(0.02)
    assert (await api.call("/models", method="GET")).status == 401


async def test_a_new_key_works_although_its_deployment_was_asked_for_before(
    known: Snapshot, tenant: Tenant
) -> None:
    await GatewayKey.objects.all().adelete()
    before = await known.caller(tenant.deployment.deploy_id)
    assert before is not None
    assert before.keys == ()
    await sync_to_async(keys.issue)(tenant.deployment, at=timezone.now())

    async def has_a_key() -> bool:
        caller = await known.caller(tenant.deployment.deploy_id)
        return caller is not None and len(caller.keys) == 1

    await until(has_a_key)
    caller = await known.caller(tenant.deployment.deploy_id)
    assert caller is not None
    assert caller.organization_slug == tenant.organization.slug
    assert caller.workspace_id == tenant.workspace.pk


async def test_keys_that_ended_long_ago_are_not_carried_along(
    known: Snapshot, tenant: Tenant
) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await GatewayKey.objects.aupdate(expires_at=past)
    await sync_to_async(keys.issue)(tenant.deployment, at=timezone.now())
    caller = await known.caller(tenant.deployment.deploy_id)
    assert caller is not None
    assert len(caller.keys) == 1


async def test_many_waiting_callers_cause_one_load(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def load(deploy_id: str) -> Caller:
        go.wait(timeout=5)
        return made_up(deploy_id)

    asked = loads_with(monkeypatch, load)
    waiting = [asyncio.ensure_future(known.caller("app")) for _ in range(200)]
    await asyncio.sleep(0)
    go.set()
    assert {caller.deploy_id for caller in await asyncio.gather(*waiting) if caller} == {"app"}
    assert asked == ["app"]
    await known.caller("app")
    assert asked == ["app"]


async def test_a_caller_that_gives_up_does_not_take_the_others_along(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def load(deploy_id: str) -> Caller:
        go.wait(timeout=5)
        return made_up(deploy_id)

    asked = loads_with(monkeypatch, load)
    first = asyncio.ensure_future(known.caller("app"))
    second = asyncio.ensure_future(known.caller("app"))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == made_up("app")
    assert asked == ["app"]


async def test_unknown_deployments_are_remembered_as_such(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = loads_with(monkeypatch, lambda _: None)
    assert await known.caller("nobody") is None
    assert await known.caller("nobody") is None
    assert asked == ["nobody"]


async def test_what_is_remembered_is_bounded(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "CALLERS_MAX", 5)
    loads_with(monkeypatch, made_up)
    for number in range(20):
        await known.caller(f"app-{number}")
        known.touch(number)
        known.mark_exposed(number)
    assert list(known._callers) == [f"app-{number}" for number in range(15, 20)]
    assert len(known._touched) == 5


async def test_a_load_that_began_long_ago_is_not_joined(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have read the database before a revocation that must count for the second caller."""
    monkeypatch.setattr(snapshot, "REFUSE_AFTER_SECONDS", 0.1)
    gates = [threading.Event(), threading.Event()]
    answers = iter(range(2))

    def load(_: str) -> Caller:
        number = next(answers)
        gates[number].wait(timeout=5)
        return made_up(f"answer {number}")

    loads_with(monkeypatch, load)
    first = asyncio.ensure_future(known.caller("app"))
    await asyncio.sleep(0.15)
    second = asyncio.ensure_future(known.caller("app"))
    await asyncio.sleep(0.02)
    gates[1].set()
    assert await second == made_up("answer 1")
    gates[0].set()
    assert await first == made_up("answer 0")
    # The late answer does not replace the newer one.
    assert known._callers["app"].value == made_up("answer 1")


async def test_a_slow_load_is_as_old_as_its_beginning(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def load(deploy_id: str) -> Caller:
        go.wait(timeout=5)
        return made_up(deploy_id)

    loads_with(monkeypatch, load)
    began_at = time.monotonic()
    first = asyncio.ensure_future(known.caller("app"))
    await asyncio.sleep(0.2)
    joined = asyncio.ensure_future(known.caller("app"))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, joined)
    assert known._callers["app"].loaded_at < began_at + 0.2


@pytest.mark.parametrize("error", [DatabaseError, OperationalError, InterfaceError])
async def test_without_a_database_nobody_can_be_checked(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def load(_: str) -> Caller:
        raise error("server closed the connection")

    loads_with(monkeypatch, load)
    with pytest.raises(UnableToLoad):
        await known.caller("app")


async def test_a_database_that_hangs_is_given_up(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOAD_SECONDS_MAX", 0.05)
    go = threading.Event()
    loads_with(monkeypatch, lambda _: go.wait(timeout=5))
    with pytest.raises(UnableToLoad):
        await known.caller("app")
    go.set()


async def test_loads_that_wait_for_a_hanging_database_are_bounded(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOADS_MAX", 3)
    go = threading.Event()

    def load(deploy_id: str) -> Caller:
        go.wait(timeout=5)
        return made_up(deploy_id)

    loads_with(monkeypatch, load)
    waiting = [asyncio.ensure_future(known.caller(f"app-{number}")) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(UnableToLoad):
        await known.caller("app-4")
    go.set()
    await asyncio.gather(*waiting)
    assert await known.caller("app-4") == made_up("app-4")


async def test_an_entry_is_renewed_in_the_background_before_it_ends(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "RENEW_AFTER_SECONDS", 0.0)
    go = threading.Event()
    go.set()

    def load(deploy_id: str) -> Caller:
        go.wait(timeout=5)
        return made_up(deploy_id)

    asked = loads_with(monkeypatch, load)
    await known.caller("app")
    go.clear()
    for _ in range(5):  # answered at once, from what is known
        assert await asyncio.wait_for(known.caller("app"), timeout=0.5) == made_up("app")
    assert len(asked) <= 2
    go.set()


async def test_a_failing_renewal_is_noticed_by_whoever_needs_it(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "RENEW_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(snapshot, "REFUSE_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(snapshot, "AWAY_SECONDS_MAX", 0.3)
    loads_with(monkeypatch, once(made_up("app"), OperationalError("gone")))
    assert await known.caller("app")
    assert await known.caller("app")  # its renewal fails
    await asyncio.sleep(0.35)
    with pytest.raises(UnableToLoad):
        await known.caller("app")


def once(value: Any, error: Exception) -> Callable[[str], Any]:
    """A load that succeeds the first time, and then fails."""
    answers = iter([value])

    def load(_: str) -> Any:
        for answer in answers:
            return answer
        raise error

    return load


@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("closed")])
async def test_while_the_database_is_away_what_it_said_last_counts(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    keep_nothing_fresh(monkeypatch)
    loads_with(monkeypatch, once(made_up("app"), error))
    for _ in range(5):
        assert await known.caller("app") == made_up("app")
    with pytest.raises(UnableToLoad):
        await known.caller("another")


async def test_a_database_that_hangs_is_waited_for_once(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_nothing_fresh(monkeypatch)
    monkeypatch.setattr(snapshot, "LOAD_SECONDS_MAX", 0.5)
    go = threading.Event()
    go.set()

    def load(deploy_id: str) -> Caller:
        go.wait(timeout=5)
        return made_up(deploy_id)

    loads_with(monkeypatch, load)
    await known.caller("app")
    go.clear()
    assert await known.caller("app") == made_up("app")
    for _ in range(20):
        assert await asyncio.wait_for(known.caller("app"), timeout=0.4) == made_up("app")
    go.set()


async def test_with_too_many_loads_waiting_what_was_said_last_counts(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_nothing_fresh(monkeypatch)
    monkeypatch.setattr(snapshot, "SEEN_AWAY_SECONDS", 0.2)
    loads_with(monkeypatch, once(made_up("app"), OperationalError("gone")))
    await known.caller("app")
    assert await known.caller("app") == made_up("app")
    monkeypatch.setattr(snapshot, "LOADS_MAX", 0)
    for _ in range(6):  # longer than an outage counts that nobody has seen
        await asyncio.sleep(0.05)
        assert await known.caller("app") == made_up("app")


async def test_a_flood_of_loads_is_no_outage(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever makes one could go on with a revoked key."""
    keep_nothing_fresh(monkeypatch)
    loads_with(monkeypatch, made_up)
    await known.caller("app")
    monkeypatch.setattr(snapshot, "LOADS_MAX", 0)
    with pytest.raises(UnableToLoad):
        await known.caller("app")


async def test_a_database_that_is_back_is_believed_again(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_nothing_fresh(monkeypatch)
    loads_with(monkeypatch, once(made_up("app"), OperationalError("gone")))
    await known.caller("app")
    assert await known.caller("app") == made_up("app")
    loads_with(monkeypatch, lambda _: None)  # it was deleted meanwhile

    async def is_deleted() -> bool:
        return await known.caller("app") is None

    await until(is_deleted)
    loads_with(monkeypatch, lambda _: made_up("app"))
    assert await known.caller("app") == made_up("app")  # asked for, and not what is known


async def test_a_database_that_answers_with_an_error_is_not_away(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_nothing_fresh(monkeypatch)
    loads_with(monkeypatch, once(made_up("app"), DataError("what a question")))
    await known.caller("app")
    with pytest.raises(UnableToLoad):
        await known.caller("app")


async def test_an_outage_that_nobody_has_seen_lately_is_over(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_nothing_fresh(monkeypatch)
    monkeypatch.setattr(snapshot, "SEEN_AWAY_SECONDS", 0.3)
    loads_with(monkeypatch, once(made_up("app"), OperationalError("gone")))
    await known.caller("app")
    await known.caller("app")
    await asyncio.sleep(0.35)
    loads_with(monkeypatch, lambda _: None)
    assert await known.caller("app") is None


async def test_the_catalog_is_loaded_once_for_many(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(*, at: datetime) -> Catalog:
        loaded.append(at)
        return Catalog({})

    monkeypatch.setattr(snapshot.catalog, "load", load)
    await asyncio.gather(*(known.catalog() for _ in range(50)))
    assert len(loaded) == 1


async def test_the_use_of_a_key_is_written_now_and_then_only(
    known: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, int]] = []
    monkeypatch.setattr(snapshot, "_write", lambda *what: written.append(what))
    for _ in range(100):
        known.touch(7)
        known.mark_exposed(7)

    async def are_both() -> bool:
        return len(written) >= 2

    await until(are_both)
    assert sorted(written) == [("exposed_at", 7), ("last_used_at", 7)]


async def test_with_the_database_away_a_call_is_503_not_401(
    app: GatewayApp, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: str) -> Caller:
        raise OperationalError("server closed the connection")

    loads_with(monkeypatch, load)
    for answer in (await api.chat(), await api.call("/models", method="GET")):
        assert answer.status == 503
        assert answer.json["error"]["code"] == "service_unavailable"
        assert answer.headers["retry-after"] == "1"


async def test_with_the_catalog_away_a_call_is_503(
    app: GatewayApp, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*, at: datetime) -> Catalog:
        raise OperationalError("server closed the connection")

    monkeypatch.setattr(snapshot.catalog, "load", load)
    for answer in (
        await api.chat(),
        await api.call("/models", method="GET"),
        await api.call("/models/gpt-4o", method="GET"),
    ):
        assert (answer.status, answer.json["error"]["code"]) == (503, "service_unavailable")
