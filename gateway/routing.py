"""Choosing who serves a model. Pure decisions over the catalog; must not call anybody."""

import random
from collections.abc import Iterable
from itertools import groupby

from gateway import refusals
from gateway.catalog import CHAT, EMBEDDINGS, Candidate, Catalog

ENDPOINTS = {CHAT: "/v1/chat/completions", EMBEDDINGS: "/v1/embeddings"}


def choose(
    catalog: Catalog, model: str, *, capability: str, chance: random.Random
) -> list[Candidate]:
    """Who serves `model`, in the order to try: by position, then by chance according to weight.

    Raises Refusal: unknown model, not offered for this, no credential, no price.
    """
    candidates = catalog.by_name.get(model)
    if not candidates:
        raise refusals.unknown_model(model)
    offered = [row for row in candidates if capability in row.capabilities]
    if not offered:
        elsewhere = [ENDPOINTS[name] for name in ENDPOINTS if name in candidates[0].capabilities]
        raise refusals.endpoint_not_offered(model, ENDPOINTS[capability], " and ".join(elsewhere))
    configured = [row for row in offered if row.upstream is not None]
    if not configured:
        provider = offered[0].provider
        raise refusals.provider_not_configured(model, provider.name, provider.label)
    priced = [row for row in configured if row.price is not None]
    if not priced:
        raise refusals.model_without_price(model)
    if len(priced) == 1:
        return priced
    by_position = groupby(sorted(priced, key=lambda row: row.position), lambda row: row.position)
    return [row for _, rows in by_position for row in _shuffled(rows, chance)]


def _shuffled(rows: Iterable[Candidate], chance: random.Random) -> list[Candidate]:
    """Weighted order: the heavier, the likelier to come first (Efraimidis and Spirakis, 2006)."""
    return sorted(rows, key=lambda row: chance.random() ** (1 / max(row.weight, 1)), reverse=True)
