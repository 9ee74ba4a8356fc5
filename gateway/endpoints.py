"""The AI API's cold endpoints: models, kept responses, token counts.

Parse, ask one thing, answer, in the shape the caller's dialect expects. Must hold no credit: what
is served here costs nothing.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings

from billing import pricing, usage
from gateway import conversations, prompts, refusals, routing, state
from gateway.authentication import authenticate
from gateway.catalog import Candidate
from gateway.dialects import CLIENT_DIALECTS
from gateway.dialects.media import Medium
from gateway.exchange import Exchange
from gateway.proxy import (
    Services,
    current_catalog,
    parse_object,
)
from gateway.snapshot import Caller
from gateway.store import Kind, UnableToUseStore

ITEMS_PAGE_MAX = 100
GEMINI_METHODS = ("generateContent", "streamGenerateContent", "countTokens")


# --- models ----------------------------------------------------------------------------------


async def list_models(exchange: Exchange, services: Services, call_id: uuid.UUID) -> None:
    """`GET /models`: every model this key may use, as OpenAI's, Anthropic's or Google's clients
    read it."""
    if exchange.header(b"x-goog-api-key"):
        await list_gemini_models(exchange, services, call_id)
        return
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    models = routing.listed(await current_catalog(services), caller.limits_of(key_id))
    if exchange.header(b"anthropic-version"):
        data = [_describe_for_anthropic(candidate) for candidate in models]
        page = {"data": data, "has_more": False, "first_id": None, "last_id": None}
        if data:
            page.update(first_id=data[0]["id"], last_id=data[-1]["id"])
        await exchange.send_json(200, page)
        return
    data = [describe_model(candidate, caller.margin_basis_points) for candidate in models]
    await exchange.send_json(200, {"object": "list", "data": data})


async def show_model(exchange: Exchange, services: Services, name: str) -> None:
    """`GET /models/{id}`: one of them, by name or alias."""
    if exchange.header(b"x-goog-api-key"):
        await show_gemini_model(exchange, services, name)
        return
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    candidates = await _offered(services, caller, key_id, name)
    if exchange.header(b"anthropic-version"):
        await exchange.send_json(200, _describe_for_anthropic(candidates[0]))
        return
    await exchange.send_json(200, describe_model(candidates[0], caller.margin_basis_points))


async def list_gemini_models(exchange: Exchange, services: Services, _: uuid.UUID) -> None:
    """`GET /v1beta/models`: the same in Gemini's shape."""
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    models = routing.listed(await current_catalog(services), caller.limits_of(key_id))
    await exchange.send_json(200, {"models": [_describe_for_gemini(row) for row in models]})


async def show_gemini_model(exchange: Exchange, services: Services, name: str) -> None:
    """`GET /v1beta/models/{id}`: one of them, by name or alias."""
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    candidates = await _offered(services, caller, key_id, name)
    await exchange.send_json(200, _describe_for_gemini(candidates[0]))


async def _offered(
    services: Services, caller: Caller, key_id: int, name: str
) -> Sequence[Candidate]:
    """Who offers a model to this key. Raises Refusal: there is none, or it is not allowed."""
    return routing.find(await current_catalog(services), name, caller.limits_of(key_id))


def describe_model(candidate: Candidate, margin_basis_points: int) -> dict[str, Any]:
    """OpenAI's model object, and what a caller needs to choose: limits, price, availability.

    Prices are what this caller pays, margin included: US dollars per million tokens, as exact
    text, per bucket at the lowest tier.
    """
    status = "available"
    if candidate.upstream is None:
        status = "provider_not_configured"
    elif candidate.price is None:
        status = "model_not_priced"
    elif candidate.is_standin:
        status = "stand_in"
    return {
        "id": candidate.public_name,
        "object": "model",
        "created": candidate.created_at,
        "owned_by": candidate.provider.name,
        "status": status,
        "context_window": candidate.context_tokens_max,
        "max_output_tokens": candidate.output_tokens_max,
        "capabilities": sorted(candidate.capabilities),
        "pricing": _describe_price(candidate.price, margin_basis_points),
    }


def _describe_price(price: pricing.Price | None, margin_basis_points: int) -> dict[str, str] | None:
    if price is None:
        return None
    described = {"unit": "USD per 1M tokens"}
    if margin_basis_points:
        described["margin_included"] = usage.percent(margin_basis_points)
    factor = Decimal(pricing.BASIS_POINTS + margin_basis_points) / pricing.BASIS_POINTS
    for bucket, tiers in price.tiers.items():
        dollars = Decimal(tiers[0][1]) / 1_000_000_000 * factor
        described[bucket] = format(dollars.normalize(), "f")
    return described


def _describe_for_anthropic(candidate: Candidate) -> dict[str, Any]:
    """docs.anthropic.com/en/api/models-list"""
    created_at = datetime.fromtimestamp(candidate.created_at, UTC)
    return {
        "type": "model",
        "id": candidate.public_name,
        "display_name": candidate.public_name,
        "created_at": created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _describe_for_gemini(candidate: Candidate) -> dict[str, Any]:
    """ai.google.dev/api/models#Model"""
    return {
        "name": f"models/{candidate.public_name}",
        "displayName": candidate.public_name,
        "inputTokenLimit": candidate.context_tokens_max,
        "outputTokenLimit": candidate.output_tokens_max,
        "supportedGenerationMethods": GEMINI_METHODS,
    }


# --- kept responses --------------------------------------------------------------------------


async def show_response(exchange: Exchange, services: Services, response_id: str) -> None:
    """`GET /responses/{id}`: an answer that was kept, whole: its stream is not."""
    caller, _ = await authenticate(exchange.headers, services.snapshot)
    if parse_qs(exchange.query).get("stream", [""])[-1].lower() == "true":
        raise refusals.unsupported_value(
            "stream", "A kept response is given whole: its stream cannot be heard again."
        )
    kept = await _kept(services, caller, response_id)
    await exchange.send_json(200, kept["response"])


async def list_input_items(exchange: Exchange, services: Services, response_id: str) -> None:
    """`GET /responses/{id}/input_items`: what it was asked, the turns before it included.

    Latest first, as OpenAI does.
    """
    caller, _ = await authenticate(exchange.headers, services.snapshot)
    try:
        kept = await services.store.run(conversations.turns, caller.organization_id, response_id)
    except UnableToUseStore:
        raise refusals.service_unavailable() from None
    except conversations.UnableToFind as missing:
        raise refusals.response_not_found(missing.response_id) from None
    except conversations.TooLong:
        raise refusals.unsupported_value("response_id", state.TOO_LONG) from None
    items = [
        {"id": f"item_{response_id.removeprefix('resp_')}_{number}", **item}
        for number, item in enumerate([*conversations.items(kept[:-1]), *kept[-1]["input"]])
    ]
    await exchange.send_json(200, _page(items, parse_qs(exchange.query)))


def _page(items: list[dict[str, Any]], query: dict[str, list[str]]) -> dict[str, Any]:
    """A page as OpenAI's lists are read: `limit` (20), `order` (desc), `after` an id.

    Raises Refusal for values that mean nothing.
    """

    def asked(name: str, default: str) -> str:
        return query.get(name, [default])[-1]

    limit, order, after = asked("limit", "20"), asked("order", "desc"), asked("after", "")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:4]) <= ITEMS_PAGE_MAX:
        raise refusals.unsupported_value(
            "limit", f"Invalid 'limit': expected a value between 1 and {ITEMS_PAGE_MAX}."
        )
    if order not in ("asc", "desc"):
        raise refusals.unsupported_value("order", "Invalid 'order': expected 'asc' or 'desc'.")
    ordered = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in ordered]
    if after and after not in ids:
        raise refusals.unsupported_value("after", "Invalid 'after': no such item.")
    rest = ordered[ids.index(after) + 1 :] if after else ordered
    data = rest[: int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rest) > len(data),
    }


async def delete_response(exchange: Exchange, services: Services, response_id: str) -> None:
    """`DELETE /responses/{id}`: forget it, its items and the state of its tool calls."""
    caller, _ = await authenticate(exchange.headers, services.snapshot)
    try:
        was_there = await services.store.run(
            conversations.forget, caller.organization_id, response_id
        )
    except UnableToUseStore:
        raise refusals.service_unavailable() from None
    if not was_there:
        raise refusals.response_not_found(response_id)
    await exchange.send_json(200, {"id": response_id, "object": "response", "deleted": True})


async def _kept(services: Services, caller: Caller, response_id: str) -> dict[str, Any]:
    """The organization's kept response. Raises Refusal (404, 503)."""
    try:
        found = await services.store.load(caller.organization_id, Kind.RESPONSE, [response_id])
    except UnableToUseStore:
        raise refusals.service_unavailable() from None
    if response_id not in found:
        raise refusals.response_not_found(response_id)
    kept: dict[str, Any] = found[response_id]
    return kept


# --- counting --------------------------------------------------------------------------------


async def count_tokens(exchange: Exchange, services: Services, _: uuid.UUID) -> None:
    """`POST /messages/count_tokens`: an estimate, for every model, that costs nothing.

    Not by a provider's tokenizer: clients use it to decide when to shorten a history.
    """
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    raw = await exchange.read_body(settings.AI_BODY_BYTES_MAX)
    body = parse_object(raw)
    dialect = CLIENT_DIALECTS["anthropic"]
    dialect.inspect({"max_tokens": 1, **body})
    await _offered(services, caller, key_id, body["model"])
    await exchange.send_json(200, {"input_tokens": _estimate(len(raw), dialect.media(body))})


async def count_gemini_tokens(exchange: Exchange, services: Services, name: str) -> None:
    """`POST /v1beta/models/{id}:countTokens`: the same estimate in Gemini's shape.

    The body has `contents`, or a whole request as `generateContentRequest`
    (ai.google.dev/api/tokens#method:-models.counttokens).
    """
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    raw = await exchange.read_body(settings.AI_BODY_BYTES_MAX)
    body = parse_object(raw)
    for member in ("generateContentRequest", "generate_content_request"):
        if isinstance(body.get(member), dict):
            body = body[member]
    dialect = CLIENT_DIALECTS["gemini"]
    dialect.inspect({**body, "model": name, "stream": False})
    await _offered(services, caller, key_id, name)
    await exchange.send_json(200, {"totalTokens": _estimate(len(raw), dialect.media(body))})


def _estimate(body_bytes: int, media: list[Medium]) -> int:
    """A request's input tokens, about."""
    return prompts.measure(body_bytes, media, {}).tokens_estimate()


async def refuse_gemini_embeddings(exchange: Exchange, services: Services, name: str) -> None:
    """`POST /v1beta/models/{id}:embedContent` and `:batchEmbedContents`: served elsewhere.

    Raises Refusal always.
    """
    await authenticate(exchange.headers, services.snapshot)
    raise refusals.embeddings_elsewhere()
