"""Records: a call's description and its settlement as bytes, and back. Pure.

MessagePack arrays with typed fields: decoding refuses a wrong type or a negative amount, so nothing
that is read from a journal can be nonsense of the wrong shape. Fields are only ever appended, with
defaults. Text from outside is cut to its column here, so that every record fits into a frame.
Must not know files; prices are looked up by whoever decodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any
from uuid import UUID

import msgspec

from billing.calls import Ending, Opening, Served
from billing.pricing import RECORDED, Price, recorded

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ATTEMPTS_MAX = 4
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
PriceOf = Callable[[int], Price]


class UnreadableRecord(Exception):
    """Bytes that are no record of ours, or that name a price that does not exist."""


class _OpeningRow(msgspec.Struct, array_like=True, gc=False):
    call_id: bytes
    organization_id: int
    workspace_id: int
    deployment_id: int
    deploy_id: str
    key_id: int
    request_id: str
    endpoint: str
    is_stream: bool
    model_requested: str
    provider: str
    upstream_model: str
    price_version_id: int
    margin_basis_points: int
    hold_nanos: Count
    started_at_us: Count
    input_tokens_estimate: Count
    output_tokens_max: Count


class _EndingRow(msgspec.Struct, array_like=True, gc=False):
    status: str
    http_status: int
    usage: tuple[Count, ...]
    usage_source: str
    model_served: str
    upstream_request_id: str
    error_code: str
    attempts: list[dict[str, Any]]
    duration_ms: Count
    first_token_ms: Count | None
    cost_nanos: Count


_encode = msgspec.msgpack.Encoder().encode
_decode_opening = msgspec.msgpack.Decoder(_OpeningRow).decode
_decode_ending = msgspec.msgpack.Decoder(_EndingRow).decode


@dataclass(frozen=True, slots=True)
class Settlement:
    """One settled call, as read from a journal; cost in nano-dollars."""

    opening: Opening
    ending: Ending
    cost_nanos: int


def encode_opening(opening: Opening, served: Served | None = None) -> bytes:
    """The description of a call; with `served`, as one that this other candidate serves."""
    serving = served or opening
    return _encode(
        _OpeningRow(
            opening.call_id.bytes,
            opening.organization_id,
            opening.workspace_id,
            opening.deployment_id,
            opening.deploy_id[:63],
            opening.key_id,
            _cut(opening.request_id, 64),
            opening.endpoint[:40],
            opening.is_stream,
            _cut(opening.model_requested, 120),
            _cut(serving.provider, 40),
            _cut(serving.upstream_model, 120),
            serving.price.version_id,
            opening.margin_basis_points,
            opening.hold_nanos,
            (opening.started_at - EPOCH) // MICROSECOND,
            opening.input_tokens_estimate,
            opening.output_tokens_max,
        )
    )


def decode_opening(data: bytes, price_of: PriceOf) -> Opening:
    """The call that was described. Raises UnreadableRecord."""
    try:
        row = _decode_opening(data)
        return Opening(
            call_id=UUID(bytes=row.call_id),
            organization_id=row.organization_id,
            workspace_id=row.workspace_id,
            deployment_id=row.deployment_id,
            deploy_id=row.deploy_id,
            key_id=row.key_id,
            request_id=row.request_id,
            endpoint=row.endpoint,
            is_stream=row.is_stream,
            model_requested=row.model_requested,
            provider=row.provider,
            upstream_model=row.upstream_model,
            price=price_of(row.price_version_id),
            margin_basis_points=row.margin_basis_points,
            hold_nanos=row.hold_nanos,
            started_at=EPOCH + row.started_at_us * MICROSECOND,
            input_tokens_estimate=row.input_tokens_estimate,
            output_tokens_max=row.output_tokens_max,
        )
    except (msgspec.MsgspecError, ValueError, OverflowError, LookupError) as error:
        raise UnreadableRecord(f"No description of a call: {error!r}") from error


def encode_settlement(description: bytes, ending: Ending, cost_nanos: int) -> bytes:
    """A settlement: the description of the call as it was served, and how it ended."""
    row = _EndingRow(
        ending.status,
        ending.http_status,
        _counts(ending.usage),
        ending.usage_source,
        _cut(ending.model_served, 120),
        _cut(ending.upstream_request_id, 200),
        _cut(ending.error_code, 64),
        [_cut_attempt(attempt) for attempt in ending.attempts[:ATTEMPTS_MAX]],
        ending.duration_ms if ending.duration_ms > 0 else 0,
        ending.first_token_ms,
        cost_nanos,
    )
    return len(description).to_bytes(2, "big") + description + _encode(row)


def bare(ending: Ending) -> Ending:
    """The ending without what came from outside: it can always be encoded."""
    return replace(ending, model_served="", upstream_request_id="", error_code="", attempts=())


def decode_settlement(payload: bytes, price_of: PriceOf) -> Settlement:
    """The settlement. Raises UnreadableRecord."""
    length = int.from_bytes(payload[:2], "big")
    opening = decode_opening(payload[2 : 2 + length], price_of)
    try:
        row = _decode_ending(payload[2 + length :])
        ending = Ending(
            status=row.status,
            http_status=row.http_status,
            usage=recorded(row.usage),
            usage_source=row.usage_source,
            model_served=row.model_served,
            upstream_request_id=row.upstream_request_id,
            error_code=row.error_code,
            attempts=tuple(row.attempts),
            duration_ms=row.duration_ms,
            first_token_ms=row.first_token_ms,
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableRecord(f"No ending of a call: {error!r}") from error
    return Settlement(opening, ending, row.cost_nanos)


_counts: "attrgetter[tuple[int, ...]]" = attrgetter(*RECORDED)


def _cut(text: str, length_max: int) -> str:
    """Text of outside origin in at most so many bytes, without what PostgreSQL refuses to keep."""
    if len(text) <= length_max and text.isascii() and "\x00" not in text:
        return text
    raw = text.replace("\x00", "").encode(errors="replace")[:length_max]
    return raw.decode(errors="ignore")


def _cut_attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _cut(value, 120) if isinstance(value, str) else value
        for name, value in attempt.items()
    }
