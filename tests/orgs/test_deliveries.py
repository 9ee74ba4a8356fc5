"""Webhooks: signed, once per event, tried again, and never posted into our own network."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orgs import deliveries, outbound, tasks
from orgs.models import Organization, WebhookDelivery, WebhookEndpoint
from orgs.outbound import UnableToPost
from tests.orgs.receiver import Receiver, receiving

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def secret(organization: Organization, receiver: Receiver) -> str:
    """The organization hears of events at the receiver."""
    return deliveries.set_url(organization, receiver.url, at=NOW)[1]


def queue(organization: Organization, event_id: str = "evt_1") -> WebhookDelivery:
    delivery = deliveries.queue(
        organization, event_id=event_id, kind="budget.threshold", data={"n": 1}, at=NOW
    )
    assert delivery is not None
    return delivery


def attempt(delivery: WebhookDelivery, at: datetime = NOW) -> bool:
    claimed = deliveries.claim(delivery.pk, at=at)
    assert claimed is not None
    heard = deliveries.attempt(claimed, at=at)
    delivery.refresh_from_db()
    return heard


def is_signed(header: str, secret: str, body: bytes) -> bool:
    """Checked by the very example that docs/webhooks.md gives customers, at the time of signing."""
    text = (settings.BASE_DIR / "docs" / "webhooks.md").read_text()
    example: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], example)
    example["time"] = type("Clock", (), {"time": staticmethod(lambda: signed_at(header) + 1)})
    return bool(example["is_ours"](header, secret, body))


def signed_at(header: str) -> int:
    return int(header.partition(",")[0].removeprefix("t="))


def test_an_event_arrives_signed(
    organization: Organization, receiver: Receiver, secret: str
) -> None:
    delivery = queue(organization)
    assert attempt(delivery)
    ((path, headers, body),) = receiver.posts
    assert path == "/hook"
    assert headers["host"] == receiver.url.split("/")[2]
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "evt_1"
    assert is_signed(headers["webhook-signature"], secret, body)
    assert not is_signed(headers["webhook-signature"], secret, body + b" ")
    assert not is_signed(headers["webhook-signature"], "whsec_other", body)
    assert f"t={int(NOW.timestamp())}," in headers["webhook-signature"]
    assert json.loads(body) == {
        "id": "evt_1",
        "type": "budget.threshold",
        "created_at": NOW.isoformat(),
        "data": {"n": 1},
    }
    assert (delivery.http_status, delivery.attempts) == (200, 1)
    assert delivery.delivered_at == NOW
    assert delivery.next_attempt_at is None


def test_an_event_is_queued_once(organization: Organization, secret: str) -> None:
    assert queue(organization) == queue(organization)
    assert WebhookDelivery.objects.count() == 1


def test_without_an_endpoint_nothing_is_queued(organization: Organization) -> None:
    assert deliveries.queue(organization, event_id="e", kind="k", data={}, at=NOW) is None


def test_a_server_that_fails_is_asked_again_later_and_later_and_then_no_more(
    organization: Organization, receiver: Receiver, secret: str
) -> None:
    receiver.answers = [500]
    delivery = queue(organization)
    at, waits = NOW, []
    while delivery.next_attempt_at is not None:
        at = max(at, delivery.next_attempt_at)
        assert not attempt(delivery, at)
        if delivery.next_attempt_at is not None:
            waits.append(delivery.next_attempt_at - at)
    assert waits == list(deliveries.WAITS)
    assert len(receiver.posts) == delivery.attempts == len(waits) + 1
    assert delivery.http_status == 500
    assert delivery.delivered_at is None
    assert list(deliveries.due(NOW + timedelta(days=100))) == []


def test_the_next_attempt_is_heard(
    organization: Organization, receiver: Receiver, secret: str
) -> None:
    receiver.answers = [503, 204]
    delivery = queue(organization)
    assert not attempt(delivery)
    assert deliveries.claim(delivery.pk, at=NOW) is None
    assert attempt(delivery, NOW + deliveries.WAITS[0])
    assert [body for _, _, body in receiver.posts] == [delivery.body.encode()] * 2


def test_a_delivery_in_one_workers_hands_is_not_in_anothers(
    organization: Organization, secret: str
) -> None:
    delivery = queue(organization)
    assert deliveries.claim(delivery.pk, at=NOW) is not None
    assert deliveries.claim(delivery.pk, at=NOW) is None
    # A worker that died leaves it to others.
    assert deliveries.claim(delivery.pk, at=NOW + deliveries.CLAIM) is not None


def test_a_server_that_is_not_there_is_a_failed_attempt(
    organization: Organization, receiver: Receiver
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        deliveries.set_url(organization, url, at=NOW)
        delivery = queue(organization)
        assert not attempt(delivery)
    assert delivery.http_status is None
    assert delivery.problem == "The connection failed (ConnectError)."


def test_a_host_with_letters_beyond_ascii_is_posted_to(
    organization: Organization, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = receiver.url.split(":")[2].partition("/")[0]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]
    monkeypatch.setattr(outbound.socket, "getaddrinfo", lambda *_, **__: found)
    deliveries.set_url(organization, f"http://bücher.example:{port}/hook", at=NOW)
    assert attempt(queue(organization))
    ((_, headers, _),) = receiver.posts
    assert headers["host"] == f"xn--bcher-kva.example:{port}"


def test_a_mistake_of_ours_is_no_attempt_repeated_for_ever(
    organization: Organization, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(outbound, "post", broken)
    delivery = queue(organization)
    assert not attempt(delivery)
    assert delivery.next_attempt_at == NOW + deliveries.WAITS[0]
    assert (delivery.attempts, delivery.problem) == (1, "It could not be posted.")


def test_redirects_are_not_followed(
    organization: Organization, receiver: Receiver, secret: str
) -> None:
    receiver.answers, receiver.location = [302], receiver.url
    delivery = queue(organization)
    assert not attempt(delivery)
    assert delivery.http_status == 302
    assert len(receiver.posts) == 1


def test_after_a_rotation_both_secrets_sign_for_a_day(
    organization: Organization, receiver: Receiver, secret: str
) -> None:
    endpoint = WebhookEndpoint.objects.get()
    new = deliveries.rotate(endpoint, at=NOW)
    assert new != secret
    later = NOW + deliveries.ROTATION_GRACE
    attempt(queue(organization))
    attempt(queue(organization, "evt_2"), later)
    first, second = ((headers["webhook-signature"], body) for _, headers, body in receiver.posts)
    assert is_signed(first[0], secret, first[1])
    assert is_signed(first[0], new, first[1])
    assert not is_signed(second[0], secret, second[1])
    assert is_signed(second[0], new, second[1])


def test_tasks_deliver_what_is_due(
    organization: Organization, receiver: Receiver, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = queue(organization)
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(
        tasks.current_app, "send_task", lambda name, kwargs: sent.append({"name": name, **kwargs})
    )
    assert tasks.deliver_webhooks() == 1
    assert sent == [{"name": "orgs.deliver_webhook", "delivery_id": delivery.pk}]
    assert tasks.deliver_webhook(delivery_id=delivery.pk)
    assert not tasks.deliver_webhook(delivery_id=delivery.pk)
    assert len(receiver.posts) == 1
    assert tasks.deliver_webhooks() == 0


def test_old_deliveries_are_forgotten_and_those_on_their_way_are_not(
    organization: Organization, receiver: Receiver, secret: str
) -> None:
    attempt(queue(organization))
    waiting = queue(organization, "evt_2")
    assert deliveries.purge(NOW + deliveries.KEPT_FOR) == 0
    assert deliveries.purge(NOW + deliveries.KEPT_FOR + timedelta(seconds=1)) == 1
    assert list(WebhookDelivery.objects.all()) == [waiting]


def test_the_database_refuses_an_event_twice_and_one_that_was_heard_and_is_due(
    organization: Organization, secret: str
) -> None:
    delivery = queue(organization)
    with pytest.raises(IntegrityError), transaction.atomic():
        WebhookDelivery.objects.create(
            endpoint=delivery.endpoint, event_id="evt_1", kind="k", body="", created_at=NOW
        )
    with pytest.raises(IntegrityError), transaction.atomic():
        WebhookDelivery.objects.filter(pk=delivery.pk).update(delivered_at=NOW)


# --- where nothing is posted ------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "ftp://example.com/",
        "https://",
        "https:///path",
        "https://user:secret@example.com/",
        "https://example.com/#fragment",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://[::1/",
        "https://example.com/" + "a" * 500,
        "javascript:alert(1)",
        "https://exa mple.com/hook",
        "https://example.com/my hook",
        "https://example.com/\tho\nok",
        "",
    ],
)
def test_what_is_no_https_address_is_refused(url: str, settings: Any) -> None:
    settings.WEBHOOKS_TO_LOOPBACK = False
    with pytest.raises(UnableToPost):
        outbound.check_url(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
    ],
)
def test_hosts_inside_a_private_network_are_refused_whatever_their_name(
    address: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOKS_TO_LOOPBACK = False
    public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 443))
    hidden = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))
    for found in ([hidden], [public, hidden]):
        monkeypatch.setattr(outbound.socket, "getaddrinfo", lambda *_, found=found, **__: found)
        with pytest.raises(UnableToPost, match="private network"):
            outbound.post("https://hooks.example.com/", b"{}", {})


@pytest.mark.parametrize("url", ["https://127.1/", "https://2130706433/", "https://0x7f000001/"])
def test_other_spellings_of_loopback_are_refused(url: str, settings: Any) -> None:
    settings.WEBHOOKS_TO_LOOPBACK = False
    with pytest.raises(UnableToPost):
        outbound.post(url, b"{}", {})


def test_loopback_is_for_a_machine_of_ones_own(receiver: Receiver, settings: Any) -> None:
    settings.WEBHOOKS_TO_LOOPBACK = True
    assert outbound.post(receiver.url, b"{}", {}) == 200
    with pytest.raises(UnableToPost, match="private network"):
        outbound.post("http://10.0.0.1/", b"{}", {})


# --- the console ------------------------------------------------------------------------------


def page(organization: Organization, name: str = "detail") -> str:
    return reverse(f"orgs:webhook-{name}", args=[organization.slug])


def test_an_owner_adds_tests_rotates_and_removes_a_webhook(
    owner_client: Client, organization: Organization, receiver: Receiver
) -> None:
    assert "Add webhook" in owner_client.get(page(organization)).content.decode()
    made = owner_client.post(page(organization, "set"), {"url": receiver.url}).content.decode()
    assert "whsec_" in made
    assert "whsec_" not in owner_client.get(page(organization)).content.decode()
    owner_client.post(page(organization, "test"))
    delivery = WebhookDelivery.objects.get()
    assert delivery.kind == "test"
    assert "On its way" in owner_client.get(page(organization)).content.decode()
    attempt(delivery, timezone.now())
    assert "Delivered" in owner_client.get(page(organization)).content.decode()
    assert "whsec_" in owner_client.post(page(organization, "rotate")).content.decode()
    moved = owner_client.post(page(organization, "set"), {"url": "https://example.com/other"})
    assert moved.status_code == 302
    assert WebhookEndpoint.objects.get().url == "https://example.com/other"
    owner_client.post(page(organization, "remove"))
    assert WebhookEndpoint.objects.count() == 0
    assert owner_client.post(page(organization, "rotate")).status_code == 404


def test_an_address_that_cannot_be_posted_to_is_explained(
    owner_client: Client, organization: Organization
) -> None:
    answer = owner_client.post(page(organization, "set"), {"url": "example.com"})
    assert answer.status_code == 400
    assert "begins with https://" in answer.content.decode()
    assert WebhookEndpoint.objects.count() == 0


def test_members_see_the_log_and_change_nothing(
    member_client: Client, organization: Organization, secret: str
) -> None:
    queue(organization)
    text = member_client.get(page(organization)).content.decode()
    assert "evt_1" in text
    assert secret not in text
    for name in ("set", "rotate", "test", "remove"):
        assert member_client.post(page(organization, name), {"url": "x"}).status_code == 403
