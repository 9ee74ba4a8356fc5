"""google-genai itself, against a server that answers with what our client side writes."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest
from google import genai
from google.genai import errors, types

from billing.pricing import Usage
from gateway import refusals
from gateway.dialects.base import Reply
from gateway.dialects.gemini import GeminiClient
from gateway.events import (
    Carry,
    ChoiceFinished,
    Event,
    FinishReason,
    ReasoningDelta,
    ReasoningEnded,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.generation import GenerationRequest, Reasoning, Text, ToolCall, ToolResult

DIALECT = GeminiClient()
CARRY = Carry("anthropic.thinking", "c2ln", "claude")
CALLING: list[Event] = [
    Started("theirs", "claude"),
    ReasoningDelta("I need the weather."),
    ReasoningEnded(CARRY),
    ToolCallStarted(0, "toolu_1", "weather"),
    ToolCallDelta(0, '{"city":'),
    ToolCallDelta(0, '"Rome"}'),
    UsageReported(Usage(input=5, output=7, reasoning=3)),
    ChoiceFinished(FinishReason.TOOL_CALLS),
]
SAYING: list[Event] = [
    Started("theirs", "claude"),
    TextDelta("It is "),
    TextDelta("sunny."),
    UsageReported(Usage(input=9, output=2)),
    ChoiceFinished(FinishReason.STOP),
]


class Server(ThreadingHTTPServer):
    """Answers each request with the next events of its script; a Refusal fails it."""

    script: list[list[Event] | refusals.Refusal]
    requests: list[GenerationRequest]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        match = re.match(r"/v1(?:beta)?/models/([^:]+):(\w+)", self.path)
        assert match, self.path
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        is_stream = match[2] == "streamGenerateContent"
        body |= {"model": match[1], "stream": is_stream}
        inspection = DIALECT.inspect(body)
        self.server.requests.append(DIALECT.read_request(body))
        events = self.server.script.pop(0)
        reply = Reply("0" * 32, 7, body)
        if isinstance(events, refusals.Refusal) and not is_stream:
            self.answer(events.status, orjson.dumps(DIALECT.write_refusal(events, "req-1")))
        elif isinstance(events, refusals.Refusal):
            encoder = DIALECT.stream_encoder(inspection, reply)
            begun = encoder.write(TextDelta("It is "))
            self.answer(200, begun + encoder.write_failure(events), "text/event-stream")
        elif is_stream:
            encoder = DIALECT.stream_encoder(inspection, reply)
            written = b"".join(encoder.write(event) for event in events)
            usage = next(event.usage for event in events if isinstance(event, UsageReported))
            self.answer(200, written + encoder.write_end(usage), "text/event-stream")
        else:
            writer = DIALECT.response_writer(inspection, reply)
            for event in events:
                writer.add(event)
            self.answer(200, orjson.dumps(writer.finish()))

    def answer(self, status: int, body: bytes, media_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.script, server.requests = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(server: Server) -> Iterator[genai.Client]:
    url = f"http://127.0.0.1:{server.server_port}"
    client = genai.Client(api_key="aig_x", http_options=types.HttpOptions(base_url=url))
    yield client
    client.close()


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def test_a_tool_loop_brings_back_another_providers_thinking(
    server: Server, client: genai.Client
) -> None:
    server.script = [CALLING, SAYING]
    chat = client.chats.create(
        model="claude",
        config=types.GenerateContentConfig(tools=[weather], system_instruction="Be brief."),
    )
    response = chat.send_message("How is the weather?")
    assert response.text == "It is sunny."
    assert response.usage_metadata is not None
    assert response.usage_metadata.total_token_count == 11
    first, second = server.requests
    assert first.tools[0].name == "weather"
    assert first.tools[0].schema is not None
    assert first.tools[0].schema["properties"]["city"]["type"] == "string"
    _, _, calls, results = second.turns
    assert calls.parts == (
        Reasoning("I need the weather.", CARRY),
        ToolCall("toolu_1", "weather", '{"city":"Rome"}'),
    )
    assert results.parts == (ToolResult("toolu_1", (Text("sunny in Rome"),), name="weather"),)


def test_a_streamed_chat_keeps_its_history(server: Server, client: genai.Client) -> None:
    thinking = types.ThinkingConfig(include_thoughts=True)
    config = types.GenerateContentConfig(
        thinking_config=thinking,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    server.script = [CALLING, SAYING, SAYING]
    chat = client.chats.create(model="claude", config=config)
    chunks = list(chat.send_message_stream("How is the weather?"))
    assert chunks[0].candidates[0].content.parts[0].thought
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    answer = types.Part.from_function_response(name="weather", response={"result": "sunny"})
    said = "".join(chunk.text or "" for chunk in chat.send_message_stream(answer))
    assert said == "It is sunny."
    assert chat.send_message("Thanks").text == "It is sunny."
    turns = server.requests[-1].turns
    assert turns[1].parts == (
        Reasoning("I need the weather.", CARRY),
        ToolCall("toolu_1", "weather", '{"city":"Rome"}'),
    )
    assert turns[2].parts == (ToolResult("toolu_1", (Text("sunny"),), name="weather"),)
    assert turns[3].parts == (Text("It is sunny."),)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (refusals.unknown_model("x"), errors.ClientError),
        (refusals.out_of_credit("https://a.example"), errors.ClientError),
        (refusals.upstream_failed(retryable=False), errors.ServerError),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False], ids=["inside a stream", "before"])
def test_an_error_is_raised(
    server: Server,
    client: genai.Client,
    refusal: refusals.Refusal,
    kind: type[errors.APIError],
    is_stream: bool,
) -> None:
    server.script = [refusal]
    ask = client.models.generate_content_stream if is_stream else client.models.generate_content
    with pytest.raises(kind) as caught:
        list(ask(model="m", contents="Hi"))
    assert caught.value.code == refusal.status
    assert caught.value.message == refusal.message
