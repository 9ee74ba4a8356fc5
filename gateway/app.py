"""The AI API as a plain ASGI application: routes paths, renders refusals, owns the services.

Everything under `/api/ai/` ends here. Plain ASGI because a call through Django's handler costs ten
times the CPU (see docs/adr/0003). Must know no wire format and no price.
"""

import re
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import structlog
from django.conf import settings

from billing import metering
from gateway import embeddings, endpoints, refusals
from gateway.breakers import Breakers
from gateway.budgets import Budgets
from gateway.dialects import CLIENT_DIALECTS
from gateway.exchange import ClientGone, Exchange, Receive, Scope, Send
from gateway.limits import Limiter
from gateway.proxy import Ask, Services, serve_generation
from gateway.refusals import Refusal
from gateway.replays import Replays
from gateway.snapshot import Snapshot
from gateway.store import Store
from gateway.upstream import Connections, Limits

log = structlog.get_logger(__name__)

BASE = "/api/ai/v1"
GEMINI_BASE = "/api/ai/v1beta"
Handler = Callable[[Exchange, Services, uuid.UUID], Awaitable[None]]


def _generation(dialect: str, endpoint: str) -> Handler:
    """The handler of an endpoint that generates."""
    ask = Ask(dialect, endpoint)

    async def handler(exchange: Exchange, services: Services, call_id: uuid.UUID) -> None:
        await serve_generation(exchange, services, call_id, ask)

    return handler


# Paths without a variable part: {path: {method: handler}}.
FIXED: dict[str, dict[str, Handler]] = {
    f"{BASE}/chat/completions": {"POST": _generation("openai_chat", "chat.completions")},
    f"{BASE}/responses": {"POST": _generation("openai_responses", "responses")},
    f"{BASE}/messages": {"POST": _generation("anthropic", "messages")},
    f"{BASE}/messages/count_tokens": {"POST": endpoints.count_tokens},
    f"{BASE}/embeddings": {"POST": embeddings.serve_embeddings},
    f"{BASE}/models": {"GET": endpoints.list_models},
    f"{GEMINI_BASE}/models": {"GET": endpoints.list_gemini_models},
}
Named = Callable[[Exchange, Services, str], Awaitable[None]]
# Paths that end in a name: (pattern, {method: handler that takes the name}).
NAMED: tuple[tuple[re.Pattern[str], dict[str, Named]], ...] = (
    (re.compile(rf"{BASE}/models/(.*)"), {"GET": endpoints.show_model}),
    (re.compile(rf"{GEMINI_BASE}/models/([^/:]+)"), {"GET": endpoints.show_gemini_model}),
    (
        re.compile(rf"{BASE}/responses/([^/]+)"),
        {"GET": endpoints.show_response, "DELETE": endpoints.delete_response},
    ),
    (
        re.compile(rf"{BASE}/responses/([^/]+)/input_items"),
        {"GET": endpoints.list_input_items},
    ),
)
# Google's clients say v1beta or v1, by version; both mean the same here.
GEMINI_CALL = re.compile(r"/api/ai/v1(?:beta)?/models/([^/:]+):([A-Za-z]+)")


class GatewayApp:
    """The ASGI application. `start` and `stop` belong to the server's lifespan."""

    def __init__(self) -> None:
        self._services: Services | None = None

    async def start(self) -> None:
        """Open connections and start metering, in the loop that will serve."""
        meter = metering.Meter(on_failure=_end_process)
        await meter.start()
        connections = Connections(Limits(**settings.PROVIDER_SECONDS_MAX))
        snapshot = Snapshot()
        limiter = Limiter(Budgets(snapshot), settings.REDIS_URL)
        self._services = Services(
            snapshot, connections, meter, Store(), Breakers(), limiter, Replays()
        )

    async def stop(self) -> None:
        """Settle what is queued and close everything."""
        services, self._services = self._services, None
        if services is not None:
            await services.meter.stop()
            await services.connections.close()
            await services.limiter.close()
            services.snapshot.close()
            services.store.close()
            services.replays.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        call_id = metering.new_call_id(int(time.time() * 1000))
        exchange = Exchange(scope, receive, send, f"req_{call_id.hex}")
        try:
            handler = _handler_for(exchange)
            if self._services is None:
                raise refusals.service_unavailable()
            await handler(exchange, self._services, call_id)
        except Refusal as refusal:
            await _send_refusal(exchange, refusal)
        except ClientGone:
            pass  # nobody is left to answer; the call has been settled
        except Exception:
            log.exception("the gateway failed", request_id=exchange.request_id)
            await _send_refusal(exchange, refusals.internal(exchange.request_id))


def _end_process() -> None:
    """Metering can promise nothing any more: stop as after SIGTERM; the supervisor starts anew."""
    signal.raise_signal(signal.SIGTERM)


def _handler_for(exchange: Exchange) -> Handler:
    """The handler of this path and method. Raises Refusal (404, 405, a key in the URL)."""
    path = exchange.path
    if exchange.query and _dialect_of(exchange) == "gemini" and _has_key(exchange.query):
        raise refusals.key_in_url()
    if methods := FIXED.get(path):
        handler: Handler = _of_method(methods, exchange.method)
        return handler
    if (match := GEMINI_CALL.fullmatch(path)) and match.group(2) in GEMINI_METHODS:
        _of_method({"POST": None}, exchange.method)
        return GEMINI_METHODS[match.group(2)](match.group(1))
    for pattern, named in NAMED:
        if match := pattern.fullmatch(path):
            return _with_name(_of_method(named, exchange.method), match.group(1))
    raise _unknown_path(exchange)


def _has_key(query: str) -> bool:
    return "key" in parse_qs(query, keep_blank_values=True)


def _of_method(methods: dict[str, Any], method: str) -> Any:
    if method not in methods:
        raise refusals.wrong_method(", ".join(methods))
    return methods[method]


def _with_name(handler: Named, name: str) -> Handler:
    return lambda exchange, services, _: handler(exchange, services, name)


def _gemini_call(model: str, *, is_stream: bool) -> Handler:
    """Gemini's wire says in the path what others say in the body."""
    ask = Ask("gemini", "generateContent", {"model": model, "stream": is_stream})
    return lambda exchange, services, call_id: serve_generation(exchange, services, call_id, ask)


# What follows a model's name in a path: {method: the handler for this model}.
GEMINI_METHODS: dict[str, Callable[[str], Handler]] = {
    "generateContent": lambda model: _gemini_call(model, is_stream=False),
    "streamGenerateContent": lambda model: _gemini_call(model, is_stream=True),
    "countTokens": lambda model: _with_name(endpoints.count_gemini_tokens, model),
    "embedContent": lambda model: _with_name(endpoints.refuse_gemini_embeddings, model),
    "batchEmbedContents": lambda model: _with_name(endpoints.refuse_gemini_embeddings, model),
}


def _unknown_path(exchange: Exchange) -> Refusal:
    refusal = refusals.unknown_path(exchange.method, exchange.path[:200])
    versioned = exchange.path.replace("/api/ai/", f"{BASE}/", 1)
    if versioned in FIXED or versioned.startswith(f"{BASE}/models/"):
        refusal.message += f". Did you mean {versioned}? The base URL ends in /v1."
    return refusal


def _dialect_of(exchange: Exchange) -> str:
    """Whose error shape the client reads: by the path or, where clients share one, by headers."""
    path = exchange.path
    if path.startswith(GEMINI_BASE) or GEMINI_CALL.fullmatch(path):
        return "gemini"
    if path.startswith(f"{BASE}/messages"):
        return "anthropic"
    if path in FIXED and path != f"{BASE}/models":
        return "openai_chat"
    if exchange.header(b"anthropic-version"):
        return "anthropic"
    return "gemini" if exchange.header(b"x-goog-api-key") else "openai_chat"


async def _send_refusal(exchange: Exchange, refusal: Refusal) -> None:
    """An error answer in the caller's dialect; nothing when the answer has begun already."""
    if not exchange.has_started:
        dialect = CLIENT_DIALECTS[_dialect_of(exchange)]
        body = dialect.write_refusal(refusal, exchange.request_id)
        await exchange.send_json(dialect.status_of(refusal), body, refusal.headers)
