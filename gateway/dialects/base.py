"""What a dialect must offer, and the values its two roles exchange with the proxy. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from billing.pricing import Usage
from gateway.events import Event
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

Json = dict[str, Any]


class TruncatedStream(Exception):
    """The provider's stream stopped before its end."""


class UnreadableAnswer(Exception):
    """The provider's answer is not what its wire format says."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What must be known of a request before it is priced, without translating it."""

    model: str
    is_stream: bool
    output_tokens_max: int | None
    choices: int
    wants_usage: bool


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """A provider's error answer. `refusal` is what the client sees; `detail` is for our log."""

    refusal: Refusal
    is_retryable: bool
    detail: str


class StreamDecoder(Protocol):
    """Reads one upstream stream; keeps what it must remember."""

    def feed(self, piece: bytes) -> list[Event]:
        """Events completed by these bytes."""
        ...

    def close(self) -> list[Event]:
        """Called once at the end of input. Raises TruncatedStream when the end is missing."""
        ...


class StreamEncoder(Protocol):
    """Writes one client stream."""

    def write(self, event: Event) -> bytes:
        """The bytes for this event, b"" when the client needs none."""
        ...

    def write_end(self, usage: Usage) -> bytes:
        """The terminal frames, released only once the call is settled."""
        ...

    def write_failure(self, refusal: Refusal) -> bytes:
        """An error after the stream began, in the form this dialect's clients notice."""
        ...


class PassThrough(Protocol):
    """Forwards a stream of the client's own dialect unchanged, reading usage on the way."""

    usage: Usage | None
    failure: str
    model: str
    relayed_messages: int

    def feed(self, piece: bytes) -> bytes:
        """Bytes to forward now: whole messages only, the terminal ones kept back."""
        ...

    def close(self) -> bytes:
        """The terminal frames. Raises TruncatedStream when the end never came."""
        ...


class ClientDialect(Protocol):
    """How a client asks and what it wants to hear."""

    name: str

    def inspect(self, body: Json) -> Inspection:
        """What pricing and routing need. Raises Refusal for a malformed request."""
        ...

    def read_request(self, body: Json) -> GenerationRequest:
        """The whole request. Raises Refusal naming the parameter that is wrong."""
        ...

    def write_response(self, events: Iterable[Event], *, response_id: str, created_at: int) -> Json:
        """A whole answer."""
        ...

    def stream_encoder(
        self, inspection: Inspection, *, response_id: str, created_at: int
    ) -> StreamEncoder:
        """A new encoder for one stream."""
        ...

    def write_failure(self, refusal: Refusal) -> bytes:
        """An error in the middle of a stream."""
        ...


class UpstreamDialect(Protocol):
    """How a provider is asked and how its answers read."""

    name: str

    def path(self, upstream_model: str, *, is_stream: bool) -> str:
        """The endpoint's path below the provider's base URL."""
        ...

    def write_request(self, request: GenerationRequest, upstream_model: str) -> Json:
        """The provider's request body."""
        ...

    def prepare_pass_through(self, body: Json, upstream_model: str, *, is_stream: bool) -> Json:
        """A client's own body with the model name replaced and usage reporting turned on."""
        ...

    def pass_through(self, inspection: Inspection) -> PassThrough:
        """A new reader for one forwarded stream."""
        ...

    def read_usage(self, body: Json) -> Usage | None:
        """Usage of a whole answer; None when it reports none.

        Raises UnreadableAnswer when the body is an error in place of an answer.
        """
        ...

    def read_response(self, body: Json) -> Sequence[Event]:
        """A whole answer as events. Raises UnreadableAnswer."""
        ...

    def stream_decoder(self) -> StreamDecoder:
        """A new decoder for one stream."""
        ...

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
    ) -> UpstreamFailure:
        """A provider's error. `secrets` are cut out of any text that reaches the client."""
        ...
