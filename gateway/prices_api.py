"""The public price list: every model offered here, who serves it, and what its tokens cost.

Needs no log-in: the same for everybody, before an organization's margin, which the AI API's own
list of models includes. Must not show credentials or addresses.
"""

from django.http import HttpRequest
from django.utils import timezone
from ninja import NinjaAPI, Schema

from billing import money
from billing.pricing import Price
from gateway import catalog

prices_api = NinjaAPI(
    title="AI Gateway",
    version="1",
    description="Models and prices of this gateway. The AI API itself is OpenAI-compatible: "
    "`POST /api/ai/v1/chat/completions` with your deployment's key as `Authorization: Bearer`.",
    urls_namespace="prices-api",
    docs_url="/docs",
)


class Rate(Schema):
    """What a bucket of tokens costs in a call with more input than `from_input_tokens`."""

    from_input_tokens: int
    dollars_per_million_tokens: str


class Model(Schema):
    """A model callers may name, with its rates by token bucket."""

    id: str
    provider: str
    available: bool
    context_tokens_max: int
    output_tokens_max: int
    prices: dict[str, list[Rate]]


class PriceList(Schema):
    """Every model, by name. Amounts are exact US dollars as text."""

    currency: str
    models: list[Model]


def _dollars(nanos: int) -> str:
    """Exact dollars without padding: `2.5`, `0.075`, `0`."""
    text = f"{money.dollars_from_nanos(nanos):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rates(price: Price | None) -> dict[str, list[Rate]]:
    if price is None:
        return {}
    return {
        bucket: [
            Rate(from_input_tokens=start, dollars_per_million_tokens=_dollars(nanos))
            for start, nanos in tiers
        ]
        for bucket, tiers in price.tiers.items()
    }


@prices_api.get("/", response=PriceList, summary="Models and their prices", auth=None)
def list_prices(request: HttpRequest) -> PriceList:
    """Every model with its provider, limits and prices; `available` says whether it answers now."""
    return PriceList(
        currency="USD",
        models=[
            Model(
                id=row.public_name,
                provider=row.provider.label,
                available=row.upstream is not None and row.price is not None,
                context_tokens_max=row.context_tokens_max,
                output_tokens_max=row.output_tokens_max,
                prices=_rates(row.price),
            )
            for row in catalog.load(at=timezone.now()).models()
        ],
    )
