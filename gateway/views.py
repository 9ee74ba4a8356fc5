"""Console pages of the gateway: where log-in leads, the overview, keys of deployments, limits.

A page parses, asks the domain once, answers. A key's secret appears only in the answer that made
it; everything else shows its prefix.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from billing import usage
from deployments import directory, environment
from deployments.models import Deployment
from deployments.runtime import host_status
from gateway import alerts, allowances, catalog, consumption, provisioning
from gateway.allowances import ScopeNotFound, Subject
from gateway.forms import LimitForm
from gateway.models import GatewayKey
from orgs import access, listing
from orgs.context import ConsoleRequest, form_on, limits_page, manager_page, member_page
from orgs.models import Organization

OVERVIEW_DAYS = 30
RECENT_CALLS = 8
MODELS_SHOWN = 5
# What the owner may choose when rotating, in seconds.
GRACES = {
    0: "stops working at once",
    3600: "works for 1 hour more",
    86_400: "works for 24 hours more",
}
SERVED_WITHOUT_ACCOUNT = "local"


@require_GET
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """The person's first organization; a friendly page for those who belong to none."""
    memberships = access.memberships_of(request.user)  # type: ignore[arg-type]
    if not memberships:
        return render(request, "gateway/no_organization.html")
    return redirect("gateway:overview", memberships[0].organization.slug)


@require_GET
@member_page
def overview(request: ConsoleRequest) -> HttpResponse:
    """Balance, spend and the latest calls at one glance; a quick start for those without calls."""
    now = timezone.now()
    organization = request.organization
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = midnight + timedelta(days=1)
    first = midnight - timedelta(days=OVERVIEW_DAYS - 1)
    days = usage.per_day(organization, first, tomorrow)
    context = {
        "balance": usage.balance(organization),
        "today": usage.add_up(day.totals for day in days if day.day == midnight.date()),
        "month": usage.add_up(day.totals for day in days),
        "days": days,
        "first_day": first.date(),
        "last_day": now.date(),
        "models": usage.per_model(organization, first, tomorrow)[:MODELS_SHOWN],
        "calls": usage.calls(organization, limit=RECENT_CALLS),
        "functions_notice": host_status.notice(),
        "exposed_keys": _working_keys(now).filter(
            deployment__workspace__organization=organization,
            deployment__deleted_at=None,
            exposed_at__isnull=False,
        ),
        **_quick_start(now),
    }
    return render(request, "gateway/overview.html", context)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A deployment with its current key, keys still in their grace, and variables it overrides."""

    deployment: Deployment
    key: GatewayKey | None
    retiring: list[GatewayKey]
    overridden: list[str]


def _working_keys(at: datetime) -> Any:
    """Keys neither revoked nor past their grace."""
    return GatewayKey.objects.filter(revoked_at=None).exclude(expires_at__lte=at)


def _deployments_with_keys(organization: Organization, query: str, at: datetime) -> Any:
    """Living deployments with `working_keys`: where name, workspace or key is like `query`."""
    deployments = Deployment.objects.filter(
        workspace__organization=organization, deleted_at=None
    ).order_by("-is_default", "prefix", "pk")
    if query:
        # A key's beginning is the deploy id and four characters, shown with an ellipsis.
        by_key = _working_keys(at).filter(prefix__icontains=query.rstrip("…."))
        deployments = deployments.filter(
            Q(deploy_id__icontains=query)
            | Q(workspace__name__icontains=query)
            | Q(pk__in=by_key.values("deployment"))
        )
    return deployments.select_related("workspace", "active_release").prefetch_related(
        Prefetch("keys", _working_keys(at), to_attr="working_keys")
    )


def _key_rows(deployments: Iterable[Any]) -> list[KeyRow]:
    return [
        KeyRow(
            deployment=deployment,
            key=next((key for key in deployment.working_keys if key.expires_at is None), None),
            retiring=[key for key in deployment.working_keys if key.expires_at is not None],
            overridden=environment.overridden_names(deployment, provisioning.VARIABLES),
        )
        for deployment in deployments
    ]


def _quick_start(at: datetime) -> dict[str, Any]:
    """Base URL and a model that answers here, for the snippets; who is stood in for here."""
    answering = [
        row
        for row in catalog.load(at=at).models()
        if row.upstream and row.price is not None and catalog.CHAT in row.capabilities
    ]
    # The hosted models say more than the local one, and that more than itself in their place.
    answering.sort(key=lambda row: (row.is_standin, row.provider.name == SERVED_WITHOUT_ACCOUNT))
    return {
        "base_url": f"{provisioning.base_url()}/v1",
        "model": answering[0].public_name if answering else "gpt-4o",
        "standins": sorted({row.provider.label for row in answering if row.is_standin}),
    }


def _key_page(
    request: ConsoleRequest, made: provisioning.Provisioned | None = None
) -> HttpResponse:
    now = timezone.now()
    deployments = _deployments_with_keys(request.organization, listing.query_of(request), now)
    url = reverse("gateway:key-list", args=[request.organization.slug])
    found = listing.of(request, deployments, url)
    context = {
        "rows": _key_rows(found.rows),
        "listing": found,
        "graces": GRACES.items(),
        "made": made,
        "api_url": settings.PUBLIC_URL,
        **_quick_start(now),
    }
    return render(request, "gateway/key_list.html", context)


def _deployment(request: ConsoleRequest, deploy_id: str) -> Deployment:
    """A living deployment of the organization. Raises Http404."""
    return get_object_or_404(
        Deployment.objects.select_related("workspace"),
        workspace__organization=request.organization,
        deploy_id=deploy_id,
        deleted_at=None,
    )


@require_GET
@member_page
def key_list(request: ConsoleRequest) -> HttpResponse:
    """One row per deployment: its key's prefix, age and last use."""
    return _key_page(request)


@form_on("gateway:key-list")
@manager_page
def key_provision(request: ConsoleRequest, deploy_id: str) -> HttpResponse:
    """Makes the deployment's key; the secret is in this answer only."""
    deployment = _deployment(request, deploy_id)
    try:
        made = provisioning.provision(deployment.workspace, deploy_id, at=timezone.now())
    except (directory.DeploymentNotFound, provisioning.UnableToRevealKey) as error:
        messages.error(request, str(error))
        return redirect("gateway:key-list", request.organization.slug)
    if not made.is_new:
        messages.info(
            request, f"{deploy_id} already has a key. Rotate it if you need to see a new one."
        )
        return redirect("gateway:key-list", request.organization.slug)
    return _key_page(request, made)


@form_on("gateway:key-list")
@manager_page
def key_rotate(request: ConsoleRequest, deploy_id: str) -> HttpResponse:
    """Replaces the key; the old one may go on for a while, so that the app can be redeployed."""
    deployment = _deployment(request, deploy_id)
    try:
        grace_seconds = int(request.POST.get("grace", "0"))
        made = provisioning.rotate(
            deployment.workspace,
            deploy_id,
            grace_seconds=grace_seconds if grace_seconds in GRACES else 0,
            at=timezone.now(),
        )
    except (ValueError, directory.DeploymentNotFound):
        messages.error(request, "This key could not be rotated. Choose a grace from the list.")
        return redirect("gateway:key-list", request.organization.slug)
    return _key_page(request, made)


@form_on("gateway:key-list")
@manager_page
def key_revoke(request: ConsoleRequest, deploy_id: str) -> HttpResponse:
    """Refuses every key of the deployment, everywhere, within a second."""
    deployment = _deployment(request, deploy_id)
    try:
        provisioning.revoke(deployment.workspace, deploy_id, at=timezone.now())
    except directory.DeploymentNotFound as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Revoked the key of {deploy_id}. Calls with it answer 401 now.")
    return redirect("gateway:key-list", request.organization.slug)


@require_GET
@member_page
def limit_list(request: ConsoleRequest) -> HttpResponse:
    """Every scope with its limits and what is used of them."""
    query = listing.query_of(request).lower()
    subjects = [
        subject
        for subject in allowances.subjects(request.organization)
        if query in subject.label.lower()
    ]
    url = reverse("gateway:limit-list", args=[request.organization.slug])
    found = listing.of(request, subjects, url)
    rows = consumption.of_subjects(request.organization, found.rows, timezone.now())
    context = {"rows": rows, "listing": found, "alerts": alerts.latest(request.organization)}
    return render(request, "gateway/limit_list.html", context)


@require_GET
@member_page
def limit_detail(request: ConsoleRequest, scope: str, name: str) -> HttpResponse:
    """One scope's limits; a form for those who may set them."""
    subject = _subject(request, scope, name)
    return _limit_page(request, subject, LimitForm(row=allowances.read(subject)))


@form_on("gateway:limit-detail", "scope", "name")
@limits_page
def limit_set(request: ConsoleRequest, scope: str, name: str) -> HttpResponse:
    """Sets all limits of one scope; they count within a second."""
    subject = _subject(request, scope, name)
    form = LimitForm(request.POST, row=allowances.read(subject))
    if not form.is_valid():
        return _limit_page(request, subject, form, status=400)
    allowances.change(subject, form.values())
    messages.success(request, f"Saved the limits of {subject.label}. They count within a second.")
    return redirect("gateway:limit-list", request.organization.slug)


def _subject(request: ConsoleRequest, scope: str, name: str) -> Subject:
    """The organization's own scope of this name. Raises Http404; staff's are not set here."""
    try:
        if scope == "staff":
            raise ScopeNotFound
        return allowances.find(request.organization, scope.upper(), name)
    except ScopeNotFound:
        raise Http404 from None


def _limit_page(
    request: ConsoleRequest, subject: Subject, form: LimitForm, status: int = 200
) -> HttpResponse:
    context = {
        "subject": subject,
        "scope": subject.scope.lower(),
        "consumption": consumption.of_subject(subject, timezone.now()),
        "form": form,
    }
    return render(request, "gateway/limit_detail.html", context, status=status)
