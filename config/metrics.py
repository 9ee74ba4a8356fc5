"""`/metrics`: this process's figures in the format that Prometheus and its like read.

Owns the names of metrics (docs/operations.md lists them) and who may read them: whoever has
METRICS_TOKEN. Counts nothing itself: metering does. Must not know a request's content or a secret.
Format: prometheus.io/docs/instrumenting/exposition_formats.
"""

import hmac
from collections.abc import Iterable, Iterator

from django.conf import settings
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from billing import metering
from billing.metering import Meter
from billing.tally import DURATIONS_MS, Durations
from config import edge
from config.edge import Scope, Send

PATH = "/metrics"
PREFIX = "aigateway"
SERVED = ("provider", "model")


async def send_metrics(scope: Scope, send: Send) -> None:
    """The answer to `/metrics`: 404 while no token is set, 401 without it, else the figures."""
    if not settings.METRICS_TOKEN:
        message = "Metrics are off. Set METRICS_TOKEN to read them; see docs/operations.md."
        await edge.send_refusal(send, 404, message, "metrics_off")
        return
    if not _is_allowed(scope["headers"]):
        message = "Send `Authorization: Bearer` with the value of METRICS_TOKEN."
        await edge.send_refusal(send, 401, message, "unauthorized")
        return
    try:
        body = render(metering.current())
    except metering.BillingUnavailable:
        await edge.send_refusal(send, 503, "The process is starting or stopping.", "unavailable")
        return
    headers = [
        (b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_allowed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    expected = f"Bearer {settings.METRICS_TOKEN}".encode()
    sent = next((value for name, value in headers if name == b"authorization"), b"")
    return hmac.compare_digest(sent, expected)


def render(meter: Meter) -> bytes:
    """All figures as text."""
    registry = CollectorRegistry()
    registry.register(_Metering(meter))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Metering(Collector):
    """What metering counts, as the client library wants it."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        """Every family of figures."""
        yield from self._vitals()
        yield from self._sums()
        yield from self._durations()

    def _vitals(self) -> Iterator[Metric]:
        vitals = self._meter.vitals()
        for name, what, value in (
            ("calls_in_flight", "Calls that have begun and not ended.", vitals.calls_in_flight),
            ("slots_free", "How many more calls this process takes at once.", vitals.slots_free),
            (
                "journal_unbooked_bytes",
                "Settlements in this process's journal that are not booked yet.",
                vitals.unbooked_bytes,
            ),
            (
                "journal_unbooked_seconds",
                "How long the oldest of them has waited.",
                vitals.unbooked_seconds,
            ),
            ("journal_failed", "1 when its disk has failed to sync.", int(vitals.is_failed)),
            (
                "leased_nanodollars",
                "Credit on lease that no call has set aside.",
                vitals.leased_nanos,
            ),
        ):
            yield GaugeMetricFamily(f"{PREFIX}_{name}", what, value=value)

    def _sums(self) -> Iterator[Metric]:
        tally = self._meter.tally
        calls = CounterMetricFamily(
            f"{PREFIX}_calls", "Calls that ended, by how.", labels=(*SERVED, "status")
        )
        tokens = CounterMetricFamily(
            f"{PREFIX}_tokens", "Tokens that were billed.", labels=(*SERVED, "direction")
        )
        cost = CounterMetricFamily(
            f"{PREFIX}_cost_nanodollars", "What organizations were charged.", labels=SERVED
        )
        sums: dict[tuple[str, str], tuple[int, int, int]] = {}
        for (provider, model, status), total in sorted(tally.sums.items()):
            calls.add_metric((provider, model, status.lower()), total.calls)
            read, written, nanos = sums.get((provider, model), (0, 0, 0))
            sums[provider, model] = (
                read + total.input_tokens,
                written + total.output_tokens,
                nanos + total.cost_nanos,
            )
        for served, (read, written, nanos) in sums.items():
            tokens.add_metric((*served, "input"), read)
            tokens.add_metric((*served, "output"), written)
            cost.add_metric(served, nanos)
        failures = CounterMetricFamily(
            f"{PREFIX}_failed_attempts",
            "Attempts that brought no answer; another may have followed.",
            labels=("provider", "outcome"),
        )
        for failure, count in sorted(tally.failures.items()):
            failures.add_metric(failure, count)
        yield from (calls, tokens, cost, failures)

    def _durations(self) -> Iterator[Metric]:
        whole = HistogramMetricFamily(
            f"{PREFIX}_call_duration_seconds", "From a request to its answer's end.", labels=SERVED
        )
        first = HistogramMetricFamily(
            f"{PREFIX}_first_token_seconds", "From a request to its first output.", labels=SERVED
        )
        rows: dict[tuple[str, str], tuple[list[Durations], list[Durations]]] = {}
        for (provider, model, _), total in sorted(self._meter.tally.sums.items()):
            wholes, firsts = rows.setdefault((provider, model), ([], []))
            wholes.append(total.durations)
            firsts.append(total.first_tokens)
        for served, (wholes, firsts) in rows.items():
            _add(whole, served, wholes)
            _add(first, served, firsts)
        yield from (whole, first)


def _add(family: HistogramMetricFamily, labels: tuple[str, str], each: list[Durations]) -> None:
    """One histogram of several: cumulative counts, as the format has them."""
    counts = [sum(column) for column in zip(*(durations.counts for durations in each), strict=True)]
    ends = [str(end / 1000) for end in DURATIONS_MS] + ["+Inf"]
    reached, buckets = 0, []
    for end, count in zip(ends, counts, strict=True):
        reached += count
        buckets.append((end, reached))
    family.add_metric(labels, buckets, sum(durations.sum_ms for durations in each) / 1000)
