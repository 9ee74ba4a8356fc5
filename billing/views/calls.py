"""Console pages of calls: the list that refreshes itself, its CSV, and one call explained.

A page parses, asks the domain once, answers. Paging goes by call id ("older than"), so that calls
which arrive meanwhile shift nothing and the hundredth page costs what the first does.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_GET

from billing import money, pricing, usage
from billing.forms import CallFilterForm
from billing.models import UsageRecord
from billing.spreadsheets import csv_text
from orgs.context import ConsoleRequest, member_page
from orgs.models import Organization

CALLS_PER_PAGE = 50
EXPORT_ROWS_MAX = 50_000
EXPORT_ROWS_PER_QUERY = 1_000
# Filters offer what was used in this time; older values still work when they are in the address.
FILTER_CHOICES_FROM = timedelta(days=30)
NO_DEPLOYMENT = -1
EXPORT_COLUMNS = (
    "started_at",
    "request_id",
    "deploy_id",
    "endpoint",
    "model_requested",
    "model_served",
    "provider",
    "status",
    "http_status",
    "error_code",
    "is_stream",
    *(f"{bucket}_tokens" for bucket in pricing.BUCKETS),
    "reasoning_tokens",
    "usage_source",
    "cost_dollars",
    "price_version",
    "margin_basis_points",
    "duration_ms",
    "first_token_ms",
)


def _filter_form(request: ConsoleRequest) -> tuple[CallFilterForm, dict[str, int]]:
    """The filters with what there is to choose from, and ids of the deployments by deploy id."""
    now = usage.hour_after(timezone.now())
    since = now - FILTER_CHOICES_FROM
    deployments = {
        row.deploy_id: row.deployment_id
        for row in usage.per_deployment(request.organization, since, now)
    }
    models = [row.model for row in usage.per_model(request.organization, since, now)]
    form = CallFilterForm(request.GET, deployments=deployments, models=models)
    form.is_valid()
    return form, deployments


def _wanted(
    organization: Organization, form: CallFilterForm, deployments: dict[str, int]
) -> dict[str, Any]:
    """The filters as arguments of `usage.calls`; a deployment without calls matches nothing."""
    chosen = {name: value for name, value in form.cleaned_data.items() if value}
    deploy_id = chosen.pop("deployment", None)
    if deploy_id:
        chosen["deployment_id"] = deployments.get(deploy_id) or (
            UsageRecord.objects.filter(organization=organization, deploy_id=deploy_id)
            .values_list("deployment_id", flat=True)
            .first()
            or NO_DEPLOYMENT
        )
    return chosen


def _call_id(text: str) -> UUID | None:
    """A call id from the query string; None when there is none. Raises Http404 for nonsense."""
    try:
        return UUID(text) if text else None
    except ValueError:
        raise Http404("No such page of calls.") from None


@require_GET
@member_page
def call_list(request: ConsoleRequest) -> HttpResponse:
    """Calls, newest first. The first page asks again by itself: 204 while there is nothing new."""
    form, deployments = _filter_form(request)
    before = _call_id(request.GET.get("before", ""))
    found = usage.calls(
        request.organization,
        before_call_id=before,
        limit=CALLS_PER_PAGE + 1,
        **_wanted(request.organization, form, deployments),
    )
    calls = found[:CALLS_PER_PAGE]
    newest = calls[0].call_id.hex if calls else ""
    if request.htmx and newest == request.GET.get("newest", ""):
        return HttpResponse(status=204)
    context = {
        "calls": calls,
        "older": calls[-1].call_id.hex if len(found) > len(calls) else "",
        "is_first_page": before is None,
        "newest": newest,
        "newest_seen": request.GET.get("newest", "") if request.htmx else "",
        "form": form,
        "filter_query": urlencode({k: v for k, v in form.cleaned_data.items() if v}),
        "base_url": f"{settings.PUBLIC_URL}/api/ai/v1",
    }
    template = "billing/call_results.html" if request.htmx else "billing/call_list.html"
    return render(request, template, context)


@require_GET
@member_page
def call_detail(request: ConsoleRequest, request_id: str) -> HttpResponse:
    """One call: what was used, what it cost and why, and which transfers moved the money."""
    call = get_object_or_404(
        UsageRecord.objects.select_related("price_version", "transfer__pending_transfer"),
        organization=request.organization,
        request_id=request_id,
    )
    streaming_ms = call.duration_ms - (call.first_token_ms or 0)
    context = {
        "call": call,
        "explanation": usage.explain(call),
        "counts": usage.described_counts(call.usage),
        "settlement": call.transfer,
        "hold": call.transfer.pending_transfer if call.transfer else None,
        "given_back_nanos": max(call.held_nanos - call.cost_nanos, 0),
        "streaming_ms": max(streaming_ms, 0),
        "speed": _tokens_per_second(call, streaming_ms),
    }
    return render(request, "billing/call_detail.html", context)


def _tokens_per_second(call: UsageRecord, streaming_ms: int) -> int | None:
    """How fast the answer came after its first token, where that was measured."""
    if call.first_token_ms is None or streaming_ms <= 0 or not call.output_tokens:
        return None
    return round(call.output_tokens * 1000 / streaming_ms)


# --- CSV ---------------------------------------------------------------------------------------
@require_GET
@member_page
def call_export(request: ConsoleRequest) -> StreamingHttpResponse:
    """The calls the filters select, newest first, at most EXPORT_ROWS_MAX of them."""
    form, deployments = _filter_form(request)
    pieces = _csv_pieces(request.organization, _wanted(request.organization, form, deployments))
    # Under ASGI a synchronous iterator would be collected whole before the first byte.
    body = _asynchronously(pieces) if isinstance(request, ASGIRequest) else pieces
    name = f"calls-{request.organization.slug}-{timezone.now():%Y-%m-%d}.csv"
    return StreamingHttpResponse(
        body,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _csv_pieces(organization: Organization, wanted: dict[str, Any]) -> Iterator[str]:
    yield csv_text([EXPORT_COLUMNS])
    before, left = None, EXPORT_ROWS_MAX
    while left > 0:
        calls = usage.calls(
            organization,
            before_call_id=before,
            limit=min(EXPORT_ROWS_PER_QUERY, left),
            **wanted,
        )
        if not calls:
            return
        yield csv_text([_csv_row(call) for call in calls])
        before, left = calls[-1].call_id, left - len(calls)


def _csv_row(call: UsageRecord) -> list[object]:
    computed = {
        "started_at": call.started_at.isoformat(timespec="milliseconds"),
        "cost_dollars": f"{money.dollars_from_nanos(call.cost_nanos):.9f}",
        "price_version": call.price_version_id,
    }
    return [computed.get(name, getattr(call, name, None)) for name in EXPORT_COLUMNS]


async def _asynchronously(pieces: Iterator[str]) -> AsyncIterator[str]:
    """The pieces, each made in a worker thread when it is wanted."""
    while (piece := await sync_to_async(_next_or_none)(pieces)) is not None:
        yield piece


def _next_or_none(pieces: Iterator[str]) -> str | None:
    """StopIteration cannot cross from a thread into a coroutine."""
    return next(pieces, None)
