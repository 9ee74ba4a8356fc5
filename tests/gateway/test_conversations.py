"""Responses that continue one another: kept once each, walked, kept alive and forgotten."""

from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from gateway import conversations, store
from gateway.conversations import UnableToFind
from gateway.models import StoredItem
from gateway.store import Kind, Row
from orgs.models import Organization
from tests import factories
from tests.gateway.conftest import ApiClient, Provider, Tenant

pytestmark = pytest.mark.django_db


def turn(number: int, *, padding: int = 0) -> Row:
    """The turn of `resp_<number>`, which continues the one before it; its item and tool call."""
    payload = {
        "input": [{"said": number}],
        "response": {
            "id": f"resp_{number}",
            "output": [{"answered": number, "pad": "x" * padding}],
        },
        "belongings": [[Kind.ITEM, f"msg_{number}"], [Kind.TOOL_CALL, f"call_{number}"]],
    }
    previous = f"resp_{number - 1}" if number > 1 else ""
    return Row(Kind.RESPONSE, f"resp_{number}", payload, previous)


def talk(organization: Organization, turns: int, **options: Any) -> None:
    for number in range(1, turns + 1):
        belongings = [Row(Kind.ITEM, f"msg_{number}", 1), Row(Kind.TOOL_CALL, f"call_{number}", 1)]
        conversations.save(organization.pk, [turn(number, **options), *belongings])


def said(organization: Organization, response_id: str) -> list[Any]:
    turns = conversations.turns(organization.pk, response_id)
    return [item.get("said") or item["answered"] for item in conversations.items(turns)]


def kept(organization: Organization, kind: str) -> list[str]:
    rows = StoredItem.objects.filter(organization=organization, kind=kind)
    return sorted(rows.values_list("item_id", flat=True))


def test_a_chain_is_walked_to_its_beginning(organization: Organization) -> None:
    talk(organization, 3)
    assert said(organization, "resp_3") == [1, 1, 2, 2, 3, 3]
    assert said(organization, "resp_1") == [1, 1]


def test_a_conversation_may_fork(organization: Organization) -> None:
    talk(organization, 2)
    fork = turn(9)
    conversations.save(organization.pk, [Row(fork.kind, fork.item_id, fork.payload, "resp_1")])
    assert said(organization, "resp_9") == [1, 1, 9, 9]
    assert said(organization, "resp_2") == [1, 1, 2, 2]


def test_an_outsider_continues_nothing(
    organization: Organization, other_organization: Organization
) -> None:
    talk(organization, 2)
    with pytest.raises(UnableToFind):
        conversations.turns(other_organization.pk, "resp_2")
    conversations.save(other_organization.pk, [turn(3)])
    with pytest.raises(UnableToFind) as missing:
        conversations.turns(other_organization.pk, "resp_3")
    assert missing.value.response_id == "resp_2"
    assert conversations.forget(other_organization.pk, "resp_2") is False
    assert said(organization, "resp_2") == [1, 1, 2, 2]


def test_every_turn_is_kept_once_however_long_the_conversation(organization: Organization) -> None:
    talk(organization, 40, padding=10_000)
    sizes = [len(row.payload_sealed) for row in StoredItem.objects.filter(kind=Kind.RESPONSE)]
    assert max(sizes) < 2 * min(sizes)


def test_a_long_conversation_takes_no_more_queries(organization: Organization) -> None:
    talk(organization, 40)
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert len(conversations.turns(organization.pk, "resp_40")) == 40
    assert len(captured) == 2


def test_a_conversation_has_a_limit(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(organization, 4, padding=1000)
    monkeypatch.setattr(conversations, "TURNS_MAX", 3)
    assert said(organization, "resp_3") == [1, 1, 2, 2, 3, 3]
    with pytest.raises(conversations.TooLong):
        conversations.turns(organization.pk, "resp_4")
    monkeypatch.setattr(conversations, "TURNS_MAX", 4)
    monkeypatch.setattr(conversations, "CHARACTERS_MAX", 3000)
    with pytest.raises(conversations.TooLong):
        conversations.turns(organization.pk, "resp_3")


def test_responses_that_name_each_other_in_a_ring_end_somewhere(organization: Organization) -> None:
    ring = turn(1)
    conversations.save(organization.pk, [Row(ring.kind, "resp_1", ring.payload, "resp_2"), turn(2)])
    with pytest.raises(conversations.TooLong):
        conversations.turns(organization.pk, "resp_2")


def test_what_is_continued_is_kept_as_long_as_what_continues_it(organization: Organization) -> None:
    talk(organization, 2)
    soon = timezone.now() + timedelta(days=1)
    StoredItem.objects.update(expires_at=soon)
    conversations.save(organization.pk, [turn(3)])
    rows = StoredItem.objects.filter(kind=Kind.RESPONSE)
    assert all(row.expires_at > soon + timedelta(days=20) for row in rows)


def test_what_has_expired_is_named(organization: Organization) -> None:
    talk(organization, 3)
    StoredItem.objects.filter(item_id="resp_1").update(expires_at=timezone.now())
    with pytest.raises(UnableToFind) as missing:
        conversations.turns(organization.pk, "resp_3")
    assert missing.value.response_id == "resp_1"


# --- forgetting -------------------------------------------------------------------------------


def test_the_last_response_goes_with_its_items_and_tool_calls(organization: Organization) -> None:
    talk(organization, 2)
    assert conversations.forget(organization.pk, "resp_2") is True
    assert kept(organization, Kind.RESPONSE) == ["resp_1"]
    assert kept(organization, Kind.ITEM) == ["msg_1"]
    assert kept(organization, Kind.TOOL_CALL) == ["call_1"]
    assert conversations.forget(organization.pk, "resp_2") is False


def test_a_response_that_is_continued_is_history_only(organization: Organization) -> None:
    talk(organization, 3)
    assert conversations.forget(organization.pk, "resp_2") is True
    assert conversations.forget(organization.pk, "resp_2") is False
    assert store.load_rows(organization.pk, Kind.RESPONSE, ["resp_2"]) == {}
    with pytest.raises(UnableToFind):
        conversations.turns(organization.pk, "resp_2")
    assert said(organization, "resp_3") == [1, 1, 2, 2, 3, 3]
    assert kept(organization, Kind.ITEM) == ["msg_1", "msg_3"]
    # A provider wants the state of earlier tool calls back as long as they are in the history.
    assert kept(organization, Kind.TOOL_CALL) == ["call_1", "call_2", "call_3"]


def test_history_goes_with_the_last_response_that_needs_it(organization: Organization) -> None:
    talk(organization, 3)
    fork = turn(9)
    conversations.save(organization.pk, [Row(fork.kind, fork.item_id, fork.payload, "resp_2")])
    for number in (1, 2, 3):
        conversations.forget(organization.pk, f"resp_{number}")
    assert kept(organization, Kind.FORGOTTEN) == ["resp_1", "resp_2"]
    assert said(organization, "resp_9") == [1, 1, 2, 2, 9, 9]
    conversations.forget(organization.pk, "resp_9")
    assert not StoredItem.objects.filter(organization=organization).exists()


# --- through the API --------------------------------------------------------------------------


async def answer(request: web.Request) -> web.Response:
    message = {"role": "assistant", "content": "Yes."}
    return web.json_response(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    )


@pytest.mark.django_db(transaction=True)
async def test_a_conversation_is_continued_listed_and_outlives_what_is_deleted(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = answer

    async def say(text: str, previous: str = "", status: int = 200) -> Any:
        body = {"model": "gpt-4o", "input": text}
        body |= {"previous_response_id": previous} if previous else {}
        answered = await api.call("/responses", body)
        assert answered.status == status, answered.json
        return answered.json

    def add_route() -> None:
        # Served on chat completions only, so that what is sent is easy to read.
        from gateway.models import ModelRoute

        ModelRoute.objects.filter(public_name="gpt-4o").update(dialect="openai_chat")
        factories.make_price(provider="local", model="unused")
        connection.close()

    await sync_to_async(add_route)()
    first = await say("One?")
    second = await say("Two?", first["id"])
    third = await say("Three?", second["id"])
    asked = [message["content"] for message in provider.requests[-1]["messages"]]
    assert asked == ["One?", "Yes.", "Two?", "Yes.", "Three?"]

    listed = await api.call(
        f"/responses/{third['id']}/input_items", method="GET", query=b"order=asc"
    )
    texts = [item["content"] for item in listed.json["data"]]
    assert len(texts) == 5
    assert "Three?" in str(texts[-1])

    gone = await api.call(f"/responses/{second['id']}", method="DELETE")
    assert gone.json["deleted"] is True
    assert (await api.call(f"/responses/{second['id']}", method="GET")).status == 404
    assert (await api.call(f"/responses/{second['id']}", method="DELETE")).status == 404
    refused = await say("Two and a half?", second["id"], status=404)
    assert refused["error"]["code"] == "previous_response_not_found"
    await say("Four?", third["id"])
    asked = [message["content"] for message in provider.requests[-1]["messages"]]
    assert asked == ["One?", "Yes.", "Two?", "Yes.", "Three?", "Yes.", "Four?"]


@pytest.mark.django_db(transaction=True)
async def test_a_conversation_too_long_to_continue_says_so(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.handler = answer
    monkeypatch.setattr(conversations, "CHARACTERS_MAX", 10)
    await sync_to_async(conversations.save)(tenant.organization.pk, [turn(1)])
    body = {"model": "gpt-4o", "input": "x", "previous_response_id": "resp_1"}
    refused = await api.call("/responses", body)
    assert refused.status == 400
    assert refused.json["error"]["param"] == "previous_response_id"
    assert "too long to be continued" in refused.json["error"]["message"]
