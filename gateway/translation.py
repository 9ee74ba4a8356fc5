"""One request, ready to be written for any candidate: read once, written per provider. Pure.

Where client and provider speak the same dialect the client's own body goes through, so that fields
we have never heard of survive. Must not call anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from gateway import refusals
from gateway.catalog import Candidate
from gateway.dialects import UPSTREAM_DIALECTS, extras, tool_names
from gateway.dialects.base import ClientDialect, Inspection, Json, Target, UpstreamDialect
from gateway.events import Event, ToolCallDelta, ToolCallStarted
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

LIMIT_NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")


@dataclass(slots=True)
class Translation:
    """A client's request and how to say it to a provider."""

    dialect: ClientDialect
    inspection: Inspection
    body: Json
    # Headers that a provider needs to understand the body as it is.
    client_headers: Mapping[str, str] = field(default_factory=dict)
    _request: GenerationRequest | None = field(default=None, init=False)
    # The body written last, so that checking and sending do not write it twice.
    _written: tuple[Candidate, bytes] | None = field(default=None, init=False)
    _written_max: int | None = field(default=None, init=False)
    # The client's names of functions that a wire does not take as they are, by wire and by ours.
    _given_names: dict[str, Mapping[str, str]] = field(default_factory=dict, init=False)

    @property
    def request(self) -> GenerationRequest:
        """The request in our own terms. Raises Refusal naming what is wrong with it."""
        if self._request is None:
            self._request = self.dialect.read_request(self.body)
        return self._request

    @request.setter
    def request(self, request: GenerationRequest) -> None:
        self._request = request

    @property
    def output_tokens_max(self) -> int | None:
        """The most the provider was asked to write in the body written last, if it was limited."""
        return self._written_max or self.inspection.output_tokens_max

    def wire(self, candidate: Candidate) -> UpstreamDialect:
        """The dialect this candidate is called in."""
        return UPSTREAM_DIALECTS[candidate.dialect_for(self.dialect.name)]

    def passes_through(self, candidate: Candidate) -> bool:
        """Whether bytes go through as they are."""
        return candidate.provider.forwards_bytes and self.dialect.name in candidate.dialects

    def headers(self, candidate: Candidate) -> Mapping[str, str]:
        """The client's headers that go with its own body."""
        return self.client_headers if self.passes_through(candidate) else {}

    def write(self, candidate: Candidate) -> bytes:
        """The provider's request body. Raises Refusal for what its wire cannot express."""
        if self._written is None or self._written[0] is not candidate:
            self._written = (candidate, self._write(candidate))
        return self._written[1]

    def leaves_out(self, event: Event) -> bool:
        """Whether the client wanted no such event: calls beside the first, one by one being asked.

        Not every provider has a word for that, so that some make them nevertheless.
        """
        if not isinstance(event, ToolCallStarted | ToolCallDelta) or not event.index:
            return False
        return self.request.parameters.parallel_tool_calls is False

    def as_asked(self, event: Event, candidate: Candidate) -> Event:
        """The candidate's event in the client's own words: its names of functions."""
        given = self._given_names.get(self.wire(candidate).name)
        return tool_names.restore(event, given) if given else event

    def _write(self, candidate: Candidate) -> bytes:
        target = Target(candidate.upstream_name, candidate.output_tokens_max)
        wire = self.wire(candidate)
        if self.passes_through(candidate):
            extras.refuse_unpriced(self.dialect.name, self.body)
            prepared = wire.prepare_pass_through(
                self.body, target, is_stream=self.inspection.is_stream
            )
        else:
            request, self._given_names[wire.name] = tool_names.fit(self.request, wire.tool_name)
            try:
                prepared = wire.write_request(request, target)
                extras.refuse_unpriced(wire.name, prepared)
            except Refusal as refusal:
                raise refusal.reworded(self.dialect.parameter_names) from None
        self._written_max = _limit_of(prepared)
        return write_json(prepared)


def _limit_of(prepared: Json) -> int | None:
    """The limit of output tokens in a provider's body, whatever its wire calls it."""
    inner = prepared.get("generationConfig")
    holder = {**prepared, **inner} if isinstance(inner, dict) else prepared
    limits = [holder.get(name) for name in LIMIT_NAMES]
    return max((limit for limit in limits if isinstance(limit, int)), default=None)


def write_json(body: Json) -> bytes:
    """A body as JSON. Raises Refusal: reading allows four times the depth that writing does."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise refusals.invalid_json() from None
