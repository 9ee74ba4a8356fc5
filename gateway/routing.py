"""Choosing who serves a model, among those that may be used.

Pure decisions over the catalog and what scopes permit; must not call anybody.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import groupby

from gateway import refusals
from gateway.catalog import CHAT, EMBEDDINGS, Candidate, Catalog
from gateway.windows import ScopeLimits

ENDPOINTS = {CHAT: "/v1/chat/completions", EMBEDDINGS: "/v1/embeddings"}


def listed(catalog: Catalog, scopes: Iterable[ScopeLimits]) -> list[Candidate]:
    """The first candidate of every model that all scopes permit, by public name."""
    confining = [limits for limits in scopes if limits.model_lists]
    return [
        row for row in catalog.models() if all(limits.permits(row.names) for limits in confining)
    ]


def find(catalog: Catalog, model: str, scopes: Iterable[ScopeLimits]) -> Sequence[Candidate]:
    """Everybody offering `model` whose use all scopes permit, at least one.

    Raises Refusal: unknown model, not allowed by a scope.
    """
    candidates: Sequence[Candidate] = catalog.by_name.get(model, ())
    if not candidates:
        raise refusals.unknown_model(model)
    for limits in scopes:
        if limits.model_lists:
            # An alias may be shared by models of which only some are permitted.
            candidates = [row for row in candidates if limits.permits(row.names)]
            if not candidates:
                raise refusals.model_not_allowed(model, limits.scope)
    return candidates


def choose(
    catalog: Catalog,
    model: str,
    *,
    capability: str,
    chance: random.Random,
    scopes: Iterable[ScopeLimits] = (),
) -> list[Candidate]:
    """Who serves `model`, in the order to try: by position, then by chance according to weight.

    Raises Refusal: unknown model, not allowed, not offered for this, no credential, no price.
    """
    candidates = find(catalog, model, scopes)
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
