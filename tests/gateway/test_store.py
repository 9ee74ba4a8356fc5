"""The store: what one organization keeps, nobody else reads."""

import asyncio
import threading
from datetime import timedelta

import pytest
from django.utils import timezone

from gateway import store
from gateway.models import StoredItem
from gateway.store import Kind, Row
from orgs.models import Organization

pytestmark = pytest.mark.django_db


def test_what_is_kept_is_found_again_and_replaced(organization: Organization) -> None:
    store.save_rows(organization.pk, [Row(Kind.ITEM, "msg_1", {"text": "one"})])
    store.save_rows(organization.pk, [Row(Kind.ITEM, "msg_1", {"text": "two"})])
    assert store.load_rows(organization.pk, Kind.ITEM, ["msg_1", "msg_2"]) == {
        "msg_1": {"text": "two"}
    }


def test_an_outsider_finds_nothing(
    organization: Organization, other_organization: Organization
) -> None:
    store.save_rows(organization.pk, [Row(Kind.RESPONSE, "resp_1", {"output": []})])
    assert store.load_rows(other_organization.pk, Kind.RESPONSE, ["resp_1"]) == {}
    assert store.load_rows(organization.pk, Kind.RESPONSE, ["resp_1"]) != {}


def test_nothing_is_stored_in_the_clear(organization: Organization) -> None:
    store.save_rows(organization.pk, [Row(Kind.ITEM, "msg_1", {"text": "the secret plan"})])
    assert "secret" not in StoredItem.objects.get().payload_sealed


def test_kinds_do_not_mix(organization: Organization) -> None:
    store.save_rows(organization.pk, [Row(Kind.ITEM, "x", 1)])
    assert store.load_rows(organization.pk, Kind.TOOL_CALL, ["x"]) == {}


def test_what_has_expired_is_not_found_and_is_purged(organization: Organization) -> None:
    store.save_rows(organization.pk, [Row(Kind.ITEM, "old", 1), Row(Kind.ITEM, "new", 2)])
    StoredItem.objects.filter(item_id="old").update(
        expires_at=timezone.now() - timedelta(seconds=1)
    )
    assert store.load_rows(organization.pk, Kind.ITEM, ["old", "new"]) == {"new": 2}
    assert store.purge(at=timezone.now()) == 1


def test_what_is_too_large_is_left_out(organization: Organization) -> None:
    large = "x" * (store.ITEM_BYTES_MAX + 1)
    store.save_rows(organization.pk, [Row(Kind.ITEM, "big", large), Row(Kind.ITEM, "small", 1)])
    assert store.load_rows(organization.pk, Kind.ITEM, ["big", "small"]) == {"small": 1}


def test_an_id_given_twice_is_kept_as_it_was_last(organization: Organization) -> None:
    rows = [Row(Kind.ITEM, "msg_1", 1), Row(Kind.ITEM, "msg_2", 2), Row(Kind.ITEM, "msg_1", 3)]
    store.save_rows(organization.pk, rows)
    found = store.load_rows(organization.pk, Kind.ITEM, ["msg_1", "msg_2"])
    assert found == {"msg_1": 3, "msg_2": 2}


def test_what_is_nested_too_deep_to_write_is_left_out(organization: Organization) -> None:
    deep: list[object] = []
    for _ in range(300):  # orjson reads 1024 levels and writes 254
        deep = [deep]
    store.save_rows(organization.pk, [Row(Kind.RESPONSE, "deep", deep), Row(Kind.ITEM, "flat", 1)])
    assert store.load_rows(organization.pk, Kind.RESPONSE, ["deep"]) == {}
    assert store.load_rows(organization.pk, Kind.ITEM, ["flat"]) == {"flat": 1}


def test_what_cannot_be_decrypted_is_not_found(organization: Organization) -> None:
    store.save_rows(organization.pk, [Row(Kind.ITEM, "good", 1), Row(Kind.ITEM, "moved", 2)])
    good = StoredItem.objects.get(item_id="good")
    StoredItem.objects.filter(item_id="moved").update(payload_sealed=good.payload_sealed)
    assert store.load_rows(organization.pk, Kind.ITEM, ["good", "moved"]) == {"good": 1}


def test_an_id_too_long_for_the_column_costs_no_other(organization: Organization) -> None:
    rows = [Row(Kind.ITEM, "x" * 201, 1), Row(Kind.ITEM, "y" * 200, 2)]
    store.save_rows(organization.pk, rows)
    assert [row.item_id for row in StoredItem.objects.all()] == ["y" * 200]


# --- a database that hangs --------------------------------------------------------------------


async def test_what_waits_for_a_hanging_database_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_go_on, done = threading.Event(), []

    def hang(*arguments: object) -> dict[str, object]:
        may_go_on.wait(timeout=30)
        done.append(arguments)
        return {}

    monkeypatch.setattr(store, "load_rows", hang)
    monkeypatch.setattr(store, "QUEUE_MAX", 3)
    kept = store.Store()
    waiting = [asyncio.ensure_future(kept.load(1, Kind.ITEM, ["x"])) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(store.UnableToUseStore, match="Too much waits"):
        await kept.load(1, Kind.ITEM, ["x"])
    may_go_on.set()
    await asyncio.gather(*waiting)
    assert await kept.load(1, Kind.ITEM, ["x"]) == {}
    assert len(done) == 4
    await asyncio.to_thread(kept.close)


async def test_what_nobody_waits_for_any_more_keeps_its_place_and_is_not_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_go_on, done = threading.Event(), []

    def hang(*arguments: object) -> dict[str, object]:
        may_go_on.wait(timeout=30)
        done.append(arguments)
        return {}

    monkeypatch.setattr(store, "load_rows", hang)
    monkeypatch.setattr(store, "QUEUE_MAX", store.THREADS + 1)
    monkeypatch.setattr(store, "SECONDS_MAX", 0.05)
    kept = store.Store()
    waiting = [kept.load(1, Kind.ITEM, ["x"]) for _ in range(store.THREADS + 1)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, store.UnableToUseStore) for result in results)
    with pytest.raises(store.UnableToUseStore, match="Too much waits"):
        await kept.load(1, Kind.ITEM, ["x"])
    may_go_on.set()
    await asyncio.to_thread(kept.close)
    assert len(done) == store.THREADS
