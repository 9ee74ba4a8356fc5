"""A metered call as values: what is known when it opens, how it ended, and what it used.

Must not know how or when it is written down.
"""

import itertools
import os
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from billing import pricing
from billing.models import UsageRecord

_epoch = 0
_counter = itertools.count()


def _begin_epoch() -> None:
    """A process (also one made by fork) numbers its calls under its own random epoch."""
    global _epoch, _counter
    _epoch = int.from_bytes(os.urandom(6), "big")
    _counter = itertools.count()


_begin_epoch()
os.register_at_fork(after_in_child=_begin_epoch)


def new_call_id(at_ms: int) -> uuid.UUID:
    """48 bits of milliseconds (for order only), 48 of process epoch, 32 of counter (uniqueness)."""
    return uuid.UUID(int=(at_ms << 80) | (_epoch << 32) | (next(_counter) & 0xFFFFFFFF))


@dataclass(frozen=True, slots=True)
class Opening:
    """A call about to be sent; `hold_nanos` is its worst case (0: nothing to reserve)."""

    call_id: uuid.UUID
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
    price: pricing.Price
    margin_basis_points: int
    hold_nanos: int
    started_at: datetime
    # What is charged for when the provider reports nothing; see `usage_at_end`.
    input_tokens_estimate: int = 0
    output_tokens_max: int = 0
    # What a stream must hold at least (its input), and for every further OUTPUT_SLICE_TOKENS of
    # output, when there is too little credit for its worst case. 0: it cannot be sliced.
    input_nanos: int = 0
    slice_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered a call when it was not who it was opened for: another candidate."""

    provider: str
    upstream_model: str
    price: pricing.Price


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended and what it used; `status` and `usage_source` as in UsageRecord."""

    status: str
    http_status: int
    usage: pricing.Usage
    usage_source: str
    model_served: str = ""
    upstream_request_id: str = ""
    error_code: str = ""
    attempts: tuple[dict[str, Any], ...] = ()
    duration_ms: int = 0
    first_token_ms: int | None = None
    served: Served | None = None


def cost_nanos(opening: Opening, ending: Ending) -> int:
    """What the call costs: the price of whoever served it, and the caller's margin."""
    price = (ending.served or opening).price
    return pricing.cost_nanos(price, ending.usage, opening.margin_basis_points)


OUTPUT_SLICE_TOKENS = 2048


def usage_at_end(
    reported: pricing.Usage | None,
    *,
    pieces_relayed: int,
    opening: Opening,
    is_whole: bool,
) -> tuple[pricing.Usage, str]:
    """What a call that has ended used, and how that is known (UsageRecord.Source).

    The provider's final report counts as it is, an explicit zero included. A report from before
    the end (Anthropic's first message says one token) counts at least what was relayed. Without a
    report it is estimated: the input's estimate, and one token for each piece relayed, never more
    than was asked for, so never more than was generated; a report with numbers that can be no
    counts keeps the others. A call that brought nothing costs nothing.
    """
    relayed = min(pieces_relayed, opening.output_tokens_max)
    if reported is not None and not reported.is_doubtful:
        if is_whole:
            return reported, UsageRecord.Source.PROVIDER.value
        used = replace(reported, output=_output(reported, relayed))
        return used, UsageRecord.Source.PROVIDER_PARTIAL.value
    if not pieces_relayed and not is_whole:
        return pricing.Usage(), UsageRecord.Source.NONE.value
    told = reported or pricing.Usage()
    estimate = replace(
        told,
        input=told.input if told.whole_input else opening.input_tokens_estimate,
        output=_output(told, relayed),
        is_doubtful=False,
    )
    return estimate, UsageRecord.Source.ESTIMATED.value


def _output(told: pricing.Usage, relayed: int) -> int:
    """Plain output, so that all output is what was relayed at least.

    A piece may have been sound or an image, which is told in a bucket of its own.
    """
    return told.output + max(0, relayed - told.whole_output)
