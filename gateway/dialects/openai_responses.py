"""OpenAI Responses, both roles: what clients post to `/responses`, and providers of that wire.

Facts: platform.openai.com/docs/api-reference/responses and the Open Responses specification. Its
parts: requests (read, written), the client's stream, the provider's events, objects and items.
Pure: no clock, no network; knows no provider.
"""

from collections.abc import Mapping, Sequence

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects import (
    media,
    openai_models,
    provider_errors,
    responses_events,
    responses_objects,
    responses_requests,
    responses_upstream,
)
from gateway.dialects.base import Inspection, Json, Reply, Target, UpstreamFailure
from gateway.dialects.media import Medium
from gateway.dialects.responses_events import (
    ResponsesPassThrough,
    ResponsesStreamDecoder,
    with_our_state,
)
from gateway.dialects.responses_stream import ResponsesStreamEncoder, ResponsesWriter
from gateway.events import Event
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

NAME = "openai_responses"


class ResponsesClient:
    """Clients that speak Responses."""

    name = NAME
    ping = sse.PING
    parameter_names: Mapping[str, str] = {
        "messages": "input",
        "logprobs": "top_logprobs",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
        "verbosity": "text.verbosity",
    }

    def inspect(self, body: Json) -> Inspection:
        """See ClientDialect."""
        return responses_requests.inspect(body)

    def media(self, body: Json) -> list[Medium]:
        """See ClientDialect."""
        return media.in_responses(body)

    def expand(self, body: Json, items: Mapping[str, Json], previous: Sequence[Json]) -> Json:
        """See ClientDialect. Raises Refusal for a referenced item that is not among `items`."""
        return responses_requests.expand(body, items, previous)

    def read_request(self, body: Json) -> GenerationRequest:
        """See ClientDialect."""
        return responses_requests.read(body)

    def response_writer(self, inspection: Inspection, reply: Reply) -> ResponsesWriter:
        """See ClientDialect."""
        return ResponsesWriter(inspection, reply)

    def stream_encoder(self, inspection: Inspection, reply: Reply) -> ResponsesStreamEncoder:
        """See ClientDialect."""
        return ResponsesStreamEncoder(inspection, reply)

    def status_of(self, refusal: Refusal) -> int:
        """See ClientDialect."""
        return refusal.status

    def write_refusal(self, refusal: Refusal, request_id: str) -> Json:
        """See ClientDialect."""
        return refusal.body()


class ResponsesUpstream:
    """Providers that speak Responses."""

    name = NAME
    tool_name = openai_models.TOOL_NAME
    characters_per_token = 0

    def path(self, model: str, *, is_stream: bool) -> str:
        """See UpstreamDialect."""
        return "/responses"

    def write_request(self, request: GenerationRequest, target: Target) -> Json:
        """See UpstreamDialect."""
        return responses_upstream.write(request, target)

    def prepare_pass_through(self, body: Json, target: Target, *, is_stream: bool) -> Json:
        """See UpstreamDialect. The body must be expanded. Raises Refusal for files by id."""
        return responses_upstream.prepare(body, target)

    def pass_through(self, inspection: Inspection, reply: Reply) -> ResponsesPassThrough:
        """See UpstreamDialect."""
        return ResponsesPassThrough(inspection, reply)

    def amend(self, body: Json, inspection: Inspection) -> Json:
        """See UpstreamDialect: state is kept here and not there."""
        return with_our_state(body, inspection)

    def read_usage(self, body: Json) -> Usage | None:
        """See UpstreamDialect. Raises UnreadableAnswer for an error with status 200."""
        responses_events.check_response(body)
        return responses_objects.read_usage(body.get("usage"))

    def read_response(self, body: Json) -> Sequence[Event]:
        """See UpstreamDialect."""
        return responses_events.read_response(body)

    def stream_decoder(self) -> ResponsesStreamDecoder:
        """See UpstreamDialect."""
        return ResponsesStreamDecoder()

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
    ) -> UpstreamFailure:
        """See UpstreamDialect. A model the provider does not know is our route's fault: a 400
        on this wire, where chat completions say 404."""
        failure = provider_errors.read(status, headers, body, secrets=secrets)
        if failure.refusal.code == "model_not_found":
            refusal = refusals.upstream_failed(retryable=False)
            return UpstreamFailure(refusal, False, failure.detail)
        return failure
