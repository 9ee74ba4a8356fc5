"""Console pages of deployments: what is live where, its releases, environment names and logs.

A page parses, asks the domain once, answers. Values of variables are never read here.
"""

from dataclasses import dataclass

from django.conf import settings
from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from deployments import deploying, directory, environment, logs, releases
from deployments.models import Deployment, EnvironmentVariable, LogEntry, Release
from orgs import listing
from orgs.context import ConsoleRequest, form_on, manager_page, member_page

LOG_MINUTES = 60
LOG_LINES_MAX = 300
RELEASES_SHOWN = 20
# Where the gateway itself points apps; setting these oneself bypasses it.
GATEWAY_VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
SOURCE_LABELS = {
    EnvironmentVariable.Source.GATEWAY: "gateway",
    EnvironmentVariable.Source.USER: "update-env",
}
BUNDLE_LABEL = ".env.production"


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """A deployment and where it lives."""

    deployment: Deployment
    host: str
    url: str


@dataclass(frozen=True, slots=True)
class VariableRow:
    """A variable's name, and who set it last."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class ShownLog:
    """The newest lines, and what a live view needs to go on after them."""

    entries: list[LogEntry]
    last_id: int
    is_live: bool
    functions: list[str]
    minutes: int


def _deployment(request: ConsoleRequest, deploy_id: str) -> Deployment:
    """A deployment of the organization, deleted ones too. Raises Http404."""
    return get_object_or_404(
        Deployment.objects.select_related("workspace", "active_release"),
        workspace__organization=request.organization,
        deploy_id=deploy_id,
    )


def _living(request: ConsoleRequest, deploy_id: str) -> Deployment:
    """A deployment of the organization that is not deleted. Raises Http404."""
    deployment = _deployment(request, deploy_id)
    if deployment.deleted_at is not None:
        raise Http404("This deployment was deleted.")
    return deployment


def _variables(deployment: Deployment) -> list[VariableRow]:
    """Names for the next deploy; where several set one, the source that wins."""
    rows = EnvironmentVariable.objects.filter(deployment=deployment).values_list("name", "source")
    gateway_names = {name for name, source in rows if source == EnvironmentVariable.Source.GATEWAY}
    user_names = {name for name, source in rows if source == EnvironmentVariable.Source.USER}
    sources = (
        dict.fromkeys(gateway_names, SOURCE_LABELS[EnvironmentVariable.Source.GATEWAY])
        | dict.fromkeys(environment.bundle_names(deployment), BUNDLE_LABEL)
        | dict.fromkeys(user_names, SOURCE_LABELS[EnvironmentVariable.Source.USER])
    )
    return [VariableRow(name, source) for name, source in sorted(sources.items())]


def _log(deployment: Deployment) -> ShownLog:
    """What the page begins with; a page that is live goes on after `last_id`."""
    # Read first: a line that is written meanwhile must be among the entries or follow them.
    newest_id = logs.newest_id(deployment.pk)
    entries = logs.recent(deployment, minutes=LOG_MINUTES, limit=LOG_LINES_MAX, at=timezone.now())
    active = deployment.active_release
    return ShownLog(
        entries=entries,
        last_id=max((entry.pk for entry in entries), default=newest_id),
        is_live=active is not None and active.mode == Release.Mode.SSR,
        functions=sorted(active.manifest.get("functions", {})) if active else [],
        minutes=LOG_MINUTES,
    )


def _latest_failure(shown: list[Release]) -> str:
    """Why the newest release failed, if it did."""
    return shown[0].failure if shown and shown[0].status == Release.Status.FAILED else ""


@require_GET
@member_page
def deployment_list(request: ConsoleRequest) -> HttpResponse:
    """The living deployments of the organization, default ones first."""
    deployments = (
        Deployment.objects.filter(workspace__organization=request.organization, deleted_at=None)
        .select_related("workspace", "active_release")
        .order_by("-is_default", "prefix", "pk")
    )
    if query := listing.query_of(request):
        deployments = deployments.filter(
            Q(deploy_id__icontains=query) | Q(workspace__name__icontains=query)
        )
    url = reverse("deployments:deployment-list", args=[request.organization.slug])
    found = listing.of(request, deployments, url)
    rows = [
        DeploymentRow(deployment, directory.host_of(deployment), directory.url_of(deployment))
        for deployment in found.rows
    ]
    context = {"rows": rows, "listing": found, "api_url": settings.PUBLIC_URL}
    return render(request, "deployments/deployment_list.html", context)


@require_GET
@member_page
def deployment_detail(request: ConsoleRequest, deploy_id: str) -> HttpResponse:
    """One deployment; a deleted one stays readable, because calls and bills name it."""
    deployment = _deployment(request, deploy_id)
    shown = releases.recent(deployment, limit=RELEASES_SHOWN)
    context = {
        "deployment": deployment,
        "host": directory.host_of(deployment),
        "url": directory.url_of(deployment),
        "releases": shown,
        "last_failure": _latest_failure(shown),
        "is_deploying": deployment.deleted_at is None
        and any(release.status == Release.Status.PENDING for release in shown),
        "variables": _variables(deployment),
        "overridden": environment.overridden_names(deployment, GATEWAY_VARIABLES),
        "log": _log(deployment),
    }
    return render(request, "deployments/deployment_detail.html", context)


@form_on("deployments:deployment-detail", "deploy_id")
@manager_page
def deployment_redeploy(request: ConsoleRequest, deploy_id: str) -> HttpResponse:
    """Releases the active bundle again with the environment of now, in the background."""
    deployment = _living(request, deploy_id)
    try:
        release = deploying.redeploy(deployment)
    except directory.DeploymentNotFound as error:
        messages.error(request, str(error))
    else:
        messages.success(
            request, f"Redeploying as {release.public_id}. It goes live in a few seconds."
        )
    return redirect("deployments:deployment-detail", request.organization.slug, deploy_id)


@form_on("deployments:deployment-detail", "deploy_id")
@manager_page
def deployment_rollback(request: ConsoleRequest, deploy_id: str, release_id: str) -> HttpResponse:
    """Makes an earlier release live again."""
    deployment = _living(request, deploy_id)
    try:
        deploying.roll_back(deployment, release_id, at=timezone.now())
    except releases.ReleaseNotFound as error:
        raise Http404(str(error)) from None
    except (releases.UnableToRollBack, releases.UnableToRelease) as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Release {release_id} is live.")
    return redirect("deployments:deployment-detail", request.organization.slug, deploy_id)


@form_on("deployments:deployment-detail", "deploy_id")
@manager_page
def deployment_delete(request: ConsoleRequest, deploy_id: str) -> HttpResponse:
    """Takes the deployment down; its key dies with it."""
    deployment = _living(request, deploy_id)
    deploying.delete(deployment, at=timezone.now())
    messages.success(request, f"Deleted {deploy_id}. Its address and its key stopped working.")
    return redirect("deployments:deployment-list", request.organization.slug)
