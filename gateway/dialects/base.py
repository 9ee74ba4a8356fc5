"""What a dialect must offer, and the values its two roles exchange with the proxy. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from billing.pricing import Usage
from gateway.dialects.media import Medium
from gateway.events import Event
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

Json = dict[str, Any]
# The longest id that something is kept under; those of OpenAI have 53 characters.
KEPT_ID_CHARACTERS_MAX = 200


class TruncatedStream(Exception):
    """The provider's stream stopped before its end."""


class UnreadableAnswer(Exception):
    """The provider's answer is not what its wire format says."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What must be known of a request before it is priced, without translating it.

    `inputs` is how many texts an embedding request holds, each within the model's window.
    `references` are ids of items kept for the client that its input refers to, `previous_id` the
    response it continues; `keeps_state` says that it may come back for this answer by id.
    """

    model: str
    is_stream: bool
    output_tokens_max: int | None
    choices: int = 1
    wants_usage: bool = False
    references: tuple[str, ...] = ()
    previous_id: str = ""
    keeps_state: bool = False
    inputs: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """What a writer may say about one answer besides its events.

    `seed` is 32 hex characters unique to the call, from which ids are made (`resp_<seed>`,
    `msg_<seed>0`, ...); `created_at` is epoch seconds; `body` the request, which some wires echo.
    """

    seed: str
    created_at: int
    body: Json


@dataclass(frozen=True, slots=True)
class Target:
    """The upstream model a request is written for, and the most it can write."""

    model: str
    output_tokens_max: int


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


class ResponseWriter(Protocol):
    """Collects the events of a whole answer."""

    def add(self, event: Event) -> None:
        """Take one event in."""
        ...

    def finish(self) -> Json:
        """The whole answer."""
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

    def result(self) -> Json | None:
        """The whole answer as the client could ask for it again; None where no wire can."""
        ...


class PassThrough(Protocol):
    """Forwards a stream of the client's own dialect unchanged, reading usage on the way."""

    usage: Usage | None
    failure: str
    model: str
    # How many pieces with output have been forwarded, each at least a token: what is charged when
    # the provider never reports its usage. Rather one too few than one too many.
    relayed_pieces: int

    def feed(self, piece: bytes) -> bytes:
        """Bytes to forward now: whole messages only, the terminal ones kept back."""
        ...

    def close(self) -> bytes:
        """The terminal frames. Raises TruncatedStream when the end never came."""
        ...

    def write_failure(self, refusal: Refusal) -> bytes:
        """An error after the stream began."""
        ...

    def result(self) -> Json | None:
        """See StreamEncoder."""
        ...


class ClientDialect(Protocol):
    """How a client asks and what it wants to hear.

    `ping` may stand between any two messages of its streams and means nothing to any client.
    `parameter_names`: what this wire calls the parameters that chat completions call otherwise, for
    refusals by a provider's dialect, which knows the latter only.
    """

    name: str
    ping: bytes
    parameter_names: Mapping[str, str]

    def inspect(self, body: Json) -> Inspection:
        """What pricing and routing need. Raises Refusal for a malformed request."""
        ...

    def media(self, body: Json) -> list[Medium]:
        """Images, audio and files of the request; never raises, whatever the body is."""
        ...

    def expand(self, body: Json, items: Mapping[str, Json], previous: Sequence[Json]) -> Json:
        """The body with references replaced by `items` and the `previous` turns put before it."""
        ...

    def read_request(self, body: Json) -> GenerationRequest:
        """The whole request. Raises Refusal naming the parameter that is wrong."""
        ...

    def response_writer(self, inspection: Inspection, reply: Reply) -> ResponseWriter:
        """A new writer for one whole answer."""
        ...

    def stream_encoder(self, inspection: Inspection, reply: Reply) -> StreamEncoder:
        """A new encoder for one stream."""
        ...

    def status_of(self, refusal: Refusal) -> int:
        """The HTTP status by which this wire's clients know such an error."""
        ...

    def write_refusal(self, refusal: Refusal, request_id: str) -> Json:
        """The body of an error answer."""
        ...


class UpstreamDialect(Protocol):
    """How a provider is asked, how its answers read, and how functions may be called."""

    name: str
    tool_name: re.Pattern[str]
    # For estimates of what was streamed: a piece is one token at least, and one for every so many
    # characters; 0 where each piece is a token, or usage is told all along.
    characters_per_token: int

    def path(self, model: str, *, is_stream: bool) -> str:
        """The endpoint's path (and query) below the provider's base URL."""
        ...

    def write_request(self, request: GenerationRequest, target: Target) -> Json:
        """The provider's request body. Raises Refusal for what this wire cannot express."""
        ...

    def prepare_pass_through(self, body: Json, target: Target, *, is_stream: bool) -> Json:
        """A client's own body with the model name replaced and usage reporting turned on."""
        ...

    def pass_through(self, inspection: Inspection, reply: Reply) -> PassThrough:
        """A new reader for one forwarded stream."""
        ...

    def amend(self, body: Json, inspection: Inspection) -> Json:
        """A whole forwarded answer with what only we can say of it; `body` itself if nothing."""
        ...

    def read_usage(self, body: Json) -> Usage | None:
        """Usage of a whole answer; None when it reports none. Raises UnreadableAnswer."""
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
