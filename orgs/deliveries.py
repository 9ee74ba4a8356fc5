"""Webhooks: telling an organization's own server what happened, signed, until it has heard.

Owns endpoints, their secrets, the signature and the schedule of attempts. A delivery is a row:
what is lost with a broker or a worker is found again by the next beat. Must not know what the
events mean.

The signature: `webhook-signature: t=<epoch seconds>,v1=<hex of HMAC-SHA256(secret, "t.body")>`,
one `v1` more while an old secret is in its grace. docs/webhooks.md has a verifying example.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from orgs import identifiers, outbound, vault
from orgs.models import Organization, WebhookDelivery, WebhookEndpoint
from orgs.outbound import UnableToPost

log = structlog.get_logger(__name__)

SIGNATURE_HEADER = "webhook-signature"
ROTATION_GRACE = timedelta(hours=24)
# Waits after the first, second, ... failed attempt; then it is given up.
WAITS = tuple(
    timedelta(seconds=seconds) for seconds in (30, 120, 600, 1_800, 7_200, 21_600, 43_200)
)
# An attempt may take so long before another worker makes it again.
CLAIM = timedelta(seconds=120)
LOG_ROWS = 50
KEPT_FOR = timedelta(days=30)


def endpoint_of(organization: Organization) -> WebhookEndpoint | None:
    """The organization's endpoint; None when it has none."""
    return WebhookEndpoint.objects.filter(organization=organization).first()


@transaction.atomic
def set_url(organization: Organization, url: str, *, at: datetime) -> tuple[WebhookEndpoint, str]:
    """Post events to `url` from now on; the secret's text when one was made, else "".

    Raises UnableToPost when nothing may be posted there.
    """
    outbound.check_url(url)
    endpoint = WebhookEndpoint.objects.select_for_update().filter(organization=organization).first()
    if endpoint is not None:
        endpoint.url = url
        endpoint.save(update_fields=["url"])
        return endpoint, ""
    endpoint = WebhookEndpoint(organization=organization, url=url, created_at=at)
    secret = _seal_new_secret(endpoint)
    endpoint.save()
    return endpoint, secret


@transaction.atomic
def rotate(endpoint: WebhookEndpoint, *, at: datetime) -> str:
    """A new secret's text; the old one signs, too, for a day."""
    locked = WebhookEndpoint.objects.select_for_update().get(pk=endpoint.pk)
    old = _reveal(locked, "secret", locked.secret_sealed)
    locked.old_secret_sealed = vault.encrypt(old, context=_context(locked, "old_secret"))
    locked.old_secret_until = at + ROTATION_GRACE
    secret = _seal_new_secret(locked)
    locked.save()
    return secret


def _seal_new_secret(endpoint: WebhookEndpoint) -> str:
    secret = f"whsec_{identifiers.random_secret()}"
    endpoint.secret_sealed = vault.encrypt(secret, context=_context(endpoint, "secret"))
    return secret


def _context(endpoint: WebhookEndpoint, name: str) -> str:
    return f"orgs.WebhookEndpoint:{endpoint.public_id}:{name}"


def _reveal(endpoint: WebhookEndpoint, name: str, sealed: str) -> str:
    return vault.decrypt(sealed, context=_context(endpoint, name))


def remove(endpoint: WebhookEndpoint) -> None:
    """Post nothing any more; its log goes with it."""
    endpoint.delete()


def sign(secrets: Iterable[str], body: bytes, at: int) -> str:
    """The signature header's value; `at` in epoch seconds."""
    signed = f"{at}.".encode() + body
    digests = (hmac.new(one.encode(), signed, hashlib.sha256).hexdigest() for one in secrets)
    return ",".join([f"t={at}", *(f"v1={digest}" for digest in digests)])


def queue(
    organization: Organization, *, event_id: str, kind: str, data: Mapping[str, Any], at: datetime
) -> WebhookDelivery | None:
    """Note an event for the organization's endpoint, once per id; None without an endpoint.

    It is sent by the next `send_due`.
    """
    endpoint = endpoint_of(organization)
    if endpoint is None:
        return None
    body = {"id": event_id, "type": kind, "created_at": at.isoformat(), "data": data}
    try:
        with transaction.atomic():
            return WebhookDelivery.objects.create(
                endpoint=endpoint,
                event_id=event_id,
                kind=kind,
                body=json.dumps(body, separators=(",", ":")),
                created_at=at,
                next_attempt_at=at,
            )
    except IntegrityError:
        return WebhookDelivery.objects.get(endpoint=endpoint, event_id=event_id)


def due(at: datetime) -> "QuerySet[WebhookDelivery]":
    """Deliveries whose time has come."""
    return WebhookDelivery.objects.filter(next_attempt_at__lte=at).order_by("next_attempt_at")


def claim(delivery_id: int, *, at: datetime) -> WebhookDelivery | None:
    """Take a due delivery for one attempt; None when another worker has it or it is done."""
    is_mine = WebhookDelivery.objects.filter(pk=delivery_id, next_attempt_at__lte=at).update(
        next_attempt_at=at + CLAIM
    )
    if not is_mine:
        return None
    return WebhookDelivery.objects.select_related("endpoint").get(pk=delivery_id)


def attempt(delivery: WebhookDelivery, *, at: datetime) -> bool:
    """Post a claimed delivery once, and note what became of it; whether it was heard."""
    endpoint, body = delivery.endpoint, delivery.body.encode()
    delivery.attempts += 1
    delivery.attempted_at = at
    delivery.http_status, delivery.problem = None, ""
    try:
        headers = {
            "content-type": "application/json",
            "user-agent": "AIGateway-Webhook/1",
            "webhook-id": delivery.event_id,
            SIGNATURE_HEADER: sign(_secrets(endpoint, at), body, int(at.timestamp())),
        }
        delivery.http_status = outbound.post(endpoint.url, body, headers)
    except (UnableToPost, vault.UnableToDecrypt) as error:
        delivery.problem = str(error)[:200]
    except Exception:
        # A bug of ours: an attempt that is not counted would be repeated for ever.
        log.exception("a webhook could not be posted", delivery_id=delivery.pk)
        delivery.problem = "It could not be posted."
    is_heard = delivery.http_status is not None and 200 <= delivery.http_status < 300
    if is_heard:
        delivery.delivered_at, delivery.next_attempt_at = at, None
    elif delivery.attempts > len(WAITS):
        delivery.next_attempt_at = None
    else:
        delivery.next_attempt_at = at + WAITS[delivery.attempts - 1]
    delivery.save()
    return is_heard


def _secrets(endpoint: WebhookEndpoint, at: datetime) -> list[str]:
    secrets = [_reveal(endpoint, "secret", endpoint.secret_sealed)]
    if endpoint.old_secret_until is not None and endpoint.old_secret_until > at:
        secrets.append(_reveal(endpoint, "old_secret", endpoint.old_secret_sealed))
    return secrets


def log_of(endpoint: WebhookEndpoint) -> "QuerySet[WebhookDelivery]":
    """The latest deliveries, newest first."""
    return endpoint.deliveries.order_by("-pk")[:LOG_ROWS]


def purge(at: datetime) -> int:
    """Forget deliveries that ended long ago; how many."""
    old = WebhookDelivery.objects.filter(created_at__lt=at - KEPT_FOR, next_attempt_at=None)
    return old.delete()[0]
