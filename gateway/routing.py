"""Choosing who serves a model. Pure decisions over the catalog; must not call anybody."""

from gateway import refusals
from gateway.catalog import CHAT, RESPONSES, Candidate, Catalog

ENDPOINTS = {CHAT: "/v1/chat/completions", RESPONSES: "/v1/responses"}


def choose(catalog: Catalog, model: str, *, endpoint: str) -> Candidate:
    """The candidate that serves `model` on `endpoint` (CHAT or RESPONSES).

    Raises Refusal: unknown model, not offered here, no credential, no price.
    """
    candidates = catalog.by_name.get(model)
    if not candidates:
        raise refusals.unknown_model(model)
    offered = [row for row in candidates if endpoint in row.capabilities]
    if not offered:
        elsewhere = [ENDPOINTS[name] for name in ENDPOINTS if name in candidates[0].capabilities]
        raise refusals.endpoint_not_offered(model, ENDPOINTS[endpoint], " and ".join(elsewhere))
    configured = [row for row in offered if row.upstream is not None]
    if not configured:
        provider = offered[0].provider
        raise refusals.provider_not_configured(model, provider.name, provider.label)
    priced = [row for row in configured if row.price is not None]
    if not priced:
        raise refusals.model_without_price(model)
    return priced[0]
