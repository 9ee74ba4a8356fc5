"""The catalog: which model names callers may use, who serves each, at what price.

Owns the day-one models. Reads the database into frozen values for the hot path; must not be called
from it (gateway/snapshot.py does, in a thread).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog

from billing import prices
from billing.models import PriceVersion
from billing.pricing import Price, UnpricedBucket
from gateway import credentials
from gateway.credentials import Upstream
from gateway.models import ModelRoute
from gateway.providers import PROVIDERS, Provider

log = structlog.get_logger(__name__)

CHAT = "chat"
EMBEDDINGS = "embeddings"
LOCAL_MODEL = ("local", "smollm2-135m")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a model. `upstream` is None without a credential, `price` without one."""

    public_name: str
    provider: Provider
    upstream: Upstream | None
    upstream_name: str
    dialects: tuple[str, ...]
    weight: int
    position: int
    price: Price | None
    context_tokens_max: int
    output_tokens_max: int
    capabilities: frozenset[str]
    created_at: int
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it is offered by, the public one first."""
        return (self.public_name, *self.aliases)

    @property
    def is_standin(self) -> bool:
        """Whether a stand-in answers in the provider's place."""
        return self.upstream is not None and self.upstream.is_standin

    @property
    def served_by(self) -> str:
        """Who answers, for records: never the provider's own name for a stand-in."""
        return f"{self.provider.name}-standin" if self.is_standin else self.provider.name

    def dialect_for(self, client: str) -> str:
        """The wire to call it in: the client's own where the provider speaks it."""
        return client if client in self.dialects else self.dialects[0]


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models: candidates by every public name and alias, in the order they are tried."""

    by_name: dict[str, tuple[Candidate, ...]]

    def models(self) -> list[Candidate]:
        """The first candidate of every public name, by name."""
        return [
            self.by_name[name][0]
            for name in sorted({rows[0].public_name for rows in self.by_name.values()})
        ]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that ships with the platform."""

    public_name: str
    provider: str
    upstream_name: str
    context_tokens_max: int
    output_tokens_max: int
    capabilities: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    dialect: str = ""


_VISION = (CHAT, "tools", "vision", "json_schema")
# Context windows and output limits: platform.openai.com/docs/models, ai.google.dev/gemini-api/docs
# /models, docs.anthropic.com/en/docs/about-claude/models; SmolLM2: its model card (8k context).
DAY_ONE: tuple[Entry, ...] = (
    Entry("gpt-4o", "openai", "gpt-4o", 128_000, 16_384, _VISION),
    Entry(
        "gpt-5.2-codex",
        "openai",
        "gpt-5.2-codex",
        400_000,
        128_000,
        (*_VISION, "reasoning"),
        dialect="openai_responses",  # OpenAI serves the Codex models there only
    ),
    Entry(
        "gemini-3-flash",
        "google",
        "gemini-3-flash-preview",
        1_048_576,
        65_536,
        (*_VISION, "reasoning"),
        ("gemini-3-flash-preview",),
    ),
    Entry(
        "gemini-3-pro",
        "google",
        "gemini-3-pro-preview",
        1_048_576,
        65_536,
        (*_VISION, "reasoning"),
        ("gemini-3-pro-preview",),
    ),
    Entry(
        "claude-sonnet-4.5",
        "anthropic",
        "claude-sonnet-4-5",
        200_000,
        64_000,
        (*_VISION, "reasoning"),
        ("claude-sonnet-4-5",),
    ),
    Entry(
        "claude-opus-4.5",
        "anthropic",
        "claude-opus-4-5",
        200_000,
        64_000,
        (*_VISION, "reasoning"),
        ("claude-opus-4-5",),
    ),
    Entry("text-embedding-3-small", "openai", "text-embedding-3-small", 8_191, 0, (EMBEDDINGS,)),
    Entry("text-embedding-3-large", "openai", "text-embedding-3-large", 8_191, 0, (EMBEDDINGS,)),
    Entry("smollm2-135m", "local", "smollm2-135m", 8_192, 2_048, (CHAT,)),
)


def seed(entries: Iterable[Entry] = DAY_ONE, *, at: datetime) -> list[ModelRoute]:
    """Add the routes that are missing, with their prices; routes staff changed stay as they are."""
    entries = tuple(entries)
    added = []
    for entry in entries:
        route, is_new = ModelRoute.objects.get_or_create(
            public_name=entry.public_name,
            provider=entry.provider,
            upstream_name=entry.upstream_name,
            defaults={
                "aliases": list(entry.aliases),
                "dialect": entry.dialect,
                "context_tokens_max": entry.context_tokens_max,
                "output_tokens_max": entry.output_tokens_max,
                "capabilities": list(entry.capabilities),
            },
        )
        if is_new:
            added.append(route)
    prices.seed([(entry.provider, entry.upstream_name) for entry in entries], at=at)
    return added


def names() -> dict[str, tuple[str, ...]]:
    """The public names offered now, in order, each with its aliases."""
    found: dict[str, set[str]] = {}
    routes = ModelRoute.objects.filter(is_active=True, provider__in=PROVIDERS)
    for public_name, aliases in routes.values_list("public_name", "aliases"):
        found.setdefault(public_name, set()).update(aliases)
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def load(*, at: datetime) -> Catalog:
    """The catalog as it is in the database at `at`."""
    upstreams = credentials.configured()
    versions = prices.in_force(at)
    by_name: dict[str, list[Candidate]] = {}
    routes = ModelRoute.objects.filter(is_active=True, provider__in=PROVIDERS)
    for route in routes.order_by("position", "-weight", "id"):
        upstream = upstreams.get(route.provider)
        candidate = Candidate(
            public_name=route.public_name,
            provider=PROVIDERS[route.provider],
            upstream=upstream,
            upstream_name=route.upstream_name,
            dialects=(route.dialect,) if route.dialect else PROVIDERS[route.provider].dialects,
            weight=route.weight,
            position=route.position,
            price=_price(versions.get(_priced_as(route, upstream))),
            context_tokens_max=route.context_tokens_max,
            output_tokens_max=route.output_tokens_max,
            capabilities=frozenset(route.capabilities),
            created_at=int(route.created_at.timestamp()),
            aliases=tuple(route.aliases),
        )
        for name in candidate.names:
            by_name.setdefault(name, []).append(candidate)
    return Catalog({name: tuple(rows) for name, rows in by_name.items()})


def _priced_as(route: ModelRoute, upstream: Upstream | None) -> tuple[str, str]:
    """Whose price applies: what the local model says in a provider's place costs as the local."""
    if upstream is not None and upstream.is_standin:
        return LOCAL_MODEL
    return route.provider, route.upstream_name


def _price(version: PriceVersion | None) -> Price | None:
    """The price, if it covers what every call uses; a call it cannot bill is not made."""
    if version is None:
        return None
    try:
        price = Price.from_rates(version.pk, version.rates)
        price.nanos_per_million("input", 0)
        price.nanos_per_million("output", 0)
    except (UnpricedBucket, AttributeError, KeyError, TypeError, ValueError):
        log.exception("a price is unusable", model=version.model, price_version=version.pk)
        return None
    return price
