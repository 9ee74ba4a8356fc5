"""Settled calls as rows of usage records: adding many at a time, and asking which are there.

Owns the order of the columns. Must not know journals' positions or the ledger. Texts have been cut
to their columns when the call was settled (billing/journal/records.py).
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from django.db import connection

from billing import pricing, rows
from billing.journal.records import EPOCH, MICROSECOND, Settlement

TABLE = "billing_usagerecord"
COLUMNS = (
    "call_id",
    "organization_id",
    "workspace_id",
    "deployment_id",
    "deploy_id",
    "key_id",
    "request_id",
    "endpoint",
    "is_stream",
    "model_requested",
    "model_served",
    "provider",
    "upstream_model",
    "upstream_request_id",
    "status",
    "http_status",
    "error_code",
    "attempts",
    "usage_source",
    *(f"{bucket}_tokens" for bucket in pricing.BUCKETS),
    "reasoning_tokens",
    "price_version_id",
    "margin_basis_points",
    "cost_nanos",
    "held_nanos",
    "transfer_id",
    "started_at",
    "duration_ms",
    "first_token_ms",
)
ASKED = "SELECT call_id FROM billing_usagerecord WHERE call_id"


def add(settled: Iterable[tuple[Settlement, int | None]]) -> None:
    """Record settlements, each with the id of the transfer that paid for it.

    Raises IntegrityError, DataError and, of SQLite's driver, OverflowError: none is recorded.
    """
    rows.copy(TABLE, COLUMNS, _rows(settled))


def known(call_ids: Iterable[bytes]) -> set[bytes]:
    """Which of these calls are recorded."""
    digits = [call_id.hex() for call_id in call_ids]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # One parameter: the driver takes a twentieth of a batch's time to find a thousand.
            cursor.execute(f"{ASKED} = ANY(%s::uuid[])", ["{" + ",".join(digits) + "}"])
            return {call_id.bytes for (call_id,) in cursor.fetchall()}
        cursor.execute(f"{ASKED} IN ({rows.placeholders(digits)})", digits)
        return {bytes.fromhex(call_id) for (call_id,) in cursor.fetchall()}


def _rows(settled: Iterable[tuple[Settlement, int | None]]) -> Iterator[tuple[Any, ...]]:
    """Values for COLUMNS."""
    keep_time = rows.time_keeper()
    for settlement, transfer_id in settled:
        call, end = settlement.description, settlement.outcome
        yield (
            call.call_id.hex(),
            call.organization_id,
            call.workspace_id,
            call.deployment_id,
            call.deploy_id,
            call.key_id,
            call.request_id,
            call.endpoint,
            call.is_stream,
            call.model_requested,
            end.model_served,
            call.provider,
            call.upstream_model,
            end.upstream_request_id,
            end.status,
            end.http_status,
            end.error_code,
            json.dumps(end.attempts) if end.attempts else "[]",
            end.usage_source,
            *end.usage,
            call.price_version_id,
            call.margin_basis_points,
            end.cost_nanos,
            call.hold_nanos,
            transfer_id,
            keep_time(EPOCH + call.started_at_us * MICROSECOND),
            end.duration_ms,
            end.first_token_ms,
        )
