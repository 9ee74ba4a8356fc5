"""The AI API as a plain ASGI application: routes paths, renders refusals, owns the services.

Everything under `/api/ai/` ends here. Plain ASGI because a call through Django's handler costs ten
times the CPU (see docs/adr/0003). Must know no wire format and no price.
"""

import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import structlog

from billing import metering, pricing
from gateway import refusals
from gateway.authentication import authenticate
from gateway.catalog import Candidate
from gateway.exchange import ClientGone, Exchange, Receive, Scope, Send
from gateway.proxy import Services, serve_chat
from gateway.refusals import Refusal
from gateway.snapshot import Snapshot, UnableToLoad
from gateway.upstream import Connections

log = structlog.get_logger(__name__)

BASE = "/api/ai/v1"
Handler = Callable[[Exchange, Services, Any], Awaitable[None]]


class GatewayApp:
    """The ASGI application. `start` and `stop` belong to the server's lifespan."""

    def __init__(self) -> None:
        self._services: Services | None = None

    async def start(self) -> None:
        """Open connections and start metering, in the loop that will serve."""
        meter = metering.Meter()
        await meter.start()
        self._services = Services(Snapshot(), Connections(), meter)

    async def stop(self) -> None:
        """Settle what is queued and close everything."""
        services, self._services = self._services, None
        if services is not None:
            await services.meter.stop()
            await services.connections.close()
            services.snapshot.close()

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
            await exchange.send_refusal(refusal)
        except ClientGone:
            pass  # nobody is left to answer; the call has been settled
        except Exception:
            log.exception("the gateway failed", request_id=exchange.request_id)
            await exchange.send_refusal(refusals.internal(exchange.request_id))


def _handler_for(exchange: Exchange) -> Handler:
    """The handler of this path and method. Raises Refusal (404, 405)."""
    path = exchange.path
    handler: Handler
    if path.startswith(f"{BASE}/models/"):
        method, handler = "GET", serve_model
    elif path in ENDPOINTS:
        method, handler = ENDPOINTS[path]
    else:
        raise _unknown_path(exchange)
    if exchange.method != method:
        raise refusals.wrong_method(method)
    return handler


def _unknown_path(exchange: Exchange) -> Refusal:
    refusal = refusals.unknown_path(exchange.method, exchange.path[:200])
    versioned = exchange.path.replace("/api/ai/", f"{BASE}/", 1)
    if versioned in ENDPOINTS or versioned.startswith(f"{BASE}/models/"):
        refusal.message += f". Did you mean {versioned}? The base URL ends in /v1."
    return refusal


async def serve_models(exchange: Exchange, services: Services, _: Any) -> None:
    """`GET /models`: every model this key may use."""
    await authenticate(exchange.headers, services.snapshot)
    try:
        catalog = await services.snapshot.catalog()
    except UnableToLoad:
        raise refusals.service_unavailable() from None
    data = [describe_model(candidate) for candidate in catalog.models()]
    await exchange.send_json(200, {"object": "list", "data": data})


async def serve_model(exchange: Exchange, services: Services, _: Any) -> None:
    """`GET /models/{id}`: one of them, by name or alias."""
    await authenticate(exchange.headers, services.snapshot)
    try:
        catalog = await services.snapshot.catalog()
    except UnableToLoad:
        raise refusals.service_unavailable() from None
    name = exchange.path.removeprefix(f"{BASE}/models/")
    candidates = catalog.by_name.get(name)
    if not candidates:
        raise refusals.unknown_model(name)
    await exchange.send_json(200, describe_model(candidates[0]))


def describe_model(candidate: Candidate) -> dict[str, Any]:
    """OpenAI's model object, and what a caller needs to choose: limits, price, availability.

    Prices are US dollars per million tokens, as text, per bucket at the lowest tier.
    """
    status = "available"
    if candidate.upstream is None:
        status = "provider_not_configured"
    elif candidate.price is None:
        status = "model_not_priced"
    return {
        "id": candidate.public_name,
        "object": "model",
        "created": candidate.created_at,
        "owned_by": candidate.provider.name,
        "status": status,
        "context_window": candidate.context_tokens_max,
        "max_output_tokens": candidate.output_tokens_max,
        "capabilities": sorted(candidate.capabilities),
        "pricing": _describe_price(candidate.price),
    }


def _describe_price(price: pricing.Price | None) -> dict[str, str] | None:
    if price is None:
        return None
    described = {"unit": "USD per 1M tokens"}
    for bucket, tiers in price.tiers.items():
        dollars = Decimal(tiers[0][1]) / 1_000_000_000
        described[bucket] = format(dollars.normalize(), "f")
    return described


ENDPOINTS: dict[str, tuple[str, Handler]] = {
    f"{BASE}/chat/completions": ("POST", serve_chat),
    f"{BASE}/models": ("GET", serve_models),
}
