"""Console pages of workspace tokens: list, create (the secret is shown once), revoke."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from orgs import tokens
from orgs.context import ConsoleRequest, manager_page, member_page
from orgs.forms import TokenForm
from orgs.models import Organization, Workspace, WorkspaceToken


def _page(organization: Organization, form: TokenForm) -> dict[str, Any]:
    """Context of the token page; usable tokens first."""
    now = timezone.now()
    rows = list(
        WorkspaceToken.objects.filter(workspace__organization=organization).select_related(
            "workspace"
        )
    )
    usable = [row for row in rows if row.is_usable(at=now)]
    return {
        "tokens": [*usable, *(row for row in rows if row not in usable)],
        "usable": usable,
        "workspaces": organization.workspaces.all(),
        "form": form,
        "api_url": settings.PUBLIC_URL,
    }


@require_GET
@member_page
def token_list(request: ConsoleRequest) -> HttpResponse:
    """Every token of the organization's workspaces, by prefix."""
    return render(request, "orgs/token_list.html", _page(request.organization, TokenForm()))


@require_POST
@manager_page
def token_create(request: ConsoleRequest) -> HttpResponse:
    """A new token; this answer is the only place its secret ever appears."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        context = _page(request.organization, form)
        return render(request, "orgs/token_list.html", context, status=400)
    workspaces: Any = Workspace.objects.filter(organization=request.organization)
    if form.cleaned_data["workspace"]:
        workspaces = workspaces.filter(public_id=form.cleaned_data["workspace"])
    workspace = get_object_or_404(workspaces[:1])
    token, secret = tokens.issue(workspace, name=form.cleaned_data["name"])
    context = _page(request.organization, TokenForm()) | {"new_token": token, "secret": secret}
    return render(request, "orgs/token_list.html", context)


@require_POST
@manager_page
def token_revoke(request: ConsoleRequest, token_id: str) -> HttpResponse:
    """Refuses the token from now on."""
    token = get_object_or_404(
        WorkspaceToken, public_id=token_id, workspace__organization=request.organization
    )
    tokens.revoke(token, at=timezone.now())
    messages.success(request, f"Revoked the token “{token.name}”. It is refused from now on.")
    return redirect("orgs:token-list", request.organization.slug)
