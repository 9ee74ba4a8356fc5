"""Records: a call's description and its settlement as bytes, and back. Pure.

MessagePack arrays with typed fields: decoding refuses a wrong type or a negative amount, so nothing
that is read from a journal can be nonsense of the wrong shape. Fields are only ever appended, with
defaults. Text from outside is cut to its column here, so that every record fits into a frame.
Must not know files; prices are looked up by whoever decodes.

A settlement is read as it was written, in fields that suit a database: making `Opening` and
`Ending` of it again, as metering has them, took a third of the time in which it is booked.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any
from uuid import UUID

import msgspec

from billing.calls import Ending, Opening, Served
from billing.pricing import BUCKETS, RECORDED, Price, cost_of_counts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ATTEMPTS_MAX = 4
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
# The last moment that a `datetime` can say.
Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999_999)]
Counts = Annotated[
    tuple[Whole, ...], msgspec.Meta(min_length=len(RECORDED), max_length=len(RECORDED))
]
CallId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
PriceOf = Callable[[int], Price]


class UnreadableRecord(Exception):
    """Bytes that are no record of ours, or that name a price that does not exist."""


class Description(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A call as it was sent; times in microseconds since 1970."""

    call_id: CallId
    organization_id: Whole
    workspace_id: Whole
    deployment_id: Whole
    deploy_id: str
    key_id: Whole
    request_id: str
    endpoint: str
    is_stream: bool
    model_requested: str
    provider: str
    upstream_model: str
    price_version_id: Whole
    margin_basis_points: Whole
    hold_nanos: Whole
    started_at_us: Moment
    input_tokens_estimate: Whole
    output_tokens_max: Whole


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a call ended, and what it cost; `usage` are the counts of RECORDED."""

    status: str
    http_status: Whole
    usage: Counts
    usage_source: str
    model_served: str
    upstream_request_id: str
    error_code: str
    # Flat: what cannot be kept as JSON, or is nested without end, is refused here.
    attempts: list[dict[str, str | int]]
    duration_ms: Whole
    first_token_ms: Whole | None
    cost_nanos: Whole


_encode = msgspec.msgpack.Encoder().encode
_decode_description = msgspec.msgpack.Decoder(Description).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """One settled call, as read from a journal, with the price that it was sent at."""

    description: Description
    outcome: Outcome
    price: Price


def _described(opening: Opening, served: Served | None) -> tuple[Any, ...]:
    """The fields of a Description; without making one, which metering has no use for."""
    serving = served or opening
    return (
        opening.call_id.bytes,
        opening.organization_id,
        opening.workspace_id,
        opening.deployment_id,
        opening.deploy_id[:63],
        opening.key_id,
        opening.request_id[:64],
        opening.endpoint[:40],
        opening.is_stream,
        _cut(opening.model_requested, 120),
        serving.provider[:40],
        _cut(serving.upstream_model, 120),
        serving.price.version_id,
        opening.margin_basis_points,
        opening.hold_nanos,
        (opening.started_at - EPOCH) // MICROSECOND,
        opening.input_tokens_estimate,
        opening.output_tokens_max,
    )


def encode_opening(opening: Opening, served: Served | None = None) -> bytes:
    """The description of a call as bytes; with `served`, as one that it serves instead."""
    return _encode(_described(opening, served))


def decode_opening(data: bytes, price_of: PriceOf) -> Opening:
    """The call that was described. Raises UnreadableRecord."""
    try:
        row = _decode_description(data)
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
    except (msgspec.MsgspecError, ValueError, LookupError) as error:
        raise UnreadableRecord(f"No description of a call: {error!r}") from error


def _concluded(ending: Ending, cost_nanos: int) -> tuple[Any, ...]:
    """The fields of an Outcome, likewise."""
    return (
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


def encode_settlement(description: bytes, ending: Ending, cost_nanos: int) -> bytes:
    """A settlement: the description of the call as it was served, and how it ended."""
    return (
        len(description).to_bytes(2, "big") + description + _encode(_concluded(ending, cost_nanos))
    )


def settlement_of(opening: Opening, ending: Ending, cost_nanos: int) -> Settlement:
    """What would be read of a call that was settled like this."""
    return Settlement(
        Description(*_described(opening, ending.served)),
        Outcome(*_concluded(ending, cost_nanos)),
        (ending.served or opening).price,
    )


def bare(ending: Ending) -> Ending:
    """The ending without what came from outside: it can always be encoded."""
    return replace(ending, model_served="", upstream_request_id="", error_code="", attempts=())


def decode_settlement(payload: bytes, price_of: PriceOf) -> Settlement:
    """The settlement. Raises UnreadableRecord."""
    end = 2 + int.from_bytes(payload[:2], "big")
    try:
        description = _decode_description(payload[2:end])
        price = price_of(description.price_version_id)
    except (msgspec.MsgspecError, ValueError, LookupError) as error:
        raise UnreadableRecord(f"No description of a call: {error!r}") from error
    try:
        outcome = _decode_outcome(payload[end:])
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableRecord(f"No ending of a call: {error!r}") from error
    return Settlement(description, outcome, price)


def cost_nanos(settlement: Settlement) -> int:
    """What its quantities cost, whatever it says. Raises UnpricedBucket."""
    call, usage = settlement.description, settlement.outcome.usage
    return cost_of_counts(settlement.price, usage[: len(BUCKETS)], call.margin_basis_points)


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
