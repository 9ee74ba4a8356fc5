"""Console pages of members, of workspace tokens and of the webhook.

A secret is shown once, in the answer that made it.
"""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from orgs import deliveries, identifiers, listing, members, tokens, workspaces
from orgs.context import (
    ConsoleRequest,
    form_on,
    limits_page,
    manager_page,
    member_page,
    members_page,
)
from orgs.forms import MemberForm, RoleForm, TokenForm, WebhookForm
from orgs.models import Membership, WebhookEndpoint, WorkspaceToken


def _member_page(request: ConsoleRequest, form: MemberForm, status: int = 200) -> HttpResponse:
    rows = members.of(request.organization)
    if query := listing.query_of(request):
        rows = rows.filter(user__email__icontains=query)
    url = reverse("orgs:member-list", args=[request.organization.slug])
    context = {"listing": listing.of(request, rows, url), "form": form, "roles": Membership.Role}
    return render(request, "orgs/member_list.html", context, status=status)


@require_GET
@member_page
def member_list(request: ConsoleRequest) -> HttpResponse:
    """Who belongs to the organization, by address; owners change it."""
    return _member_page(request, MemberForm())


@form_on("orgs:member-list")
@members_page
def member_add(request: ConsoleRequest) -> HttpResponse:
    """Somebody more, who is told by e-mail."""
    form = MemberForm(request.POST)
    if not form.is_valid():
        return _member_page(request, form, status=400)
    email, role = form.cleaned_data["email"], form.cleaned_data["role"]
    try:
        added = members.add(request.organization, email, role, by=request.user)
    except members.UnableToAdd as error:
        form.add_error("email", str(error))
        return _member_page(request, form, status=400)
    name = added.user.email
    if not members.tell(added, by=request.user):
        messages.error(
            request,
            f"Added {name}, but the letter could not be sent. Tell them yourself: they log in with "
            "this address, and choose a password under “Forgot your password?”.",
        )
    elif settings.EMAIL_HOST:
        messages.success(request, f"Added {name}. A letter tells them how to log in.")
    else:
        messages.success(
            request,
            f"Added {name}. No mail server is set up here: their letter is in the platform's log.",
        )
    return redirect("orgs:member-list", request.organization.slug)


def _member(request: ConsoleRequest, member_id: int) -> Membership:
    return get_object_or_404(members.of(request.organization), pk=member_id)


@form_on("orgs:member-list")
@members_page
def member_role(request: ConsoleRequest, member_id: int) -> HttpResponse:
    """Another role, from the next page on that they open."""
    member, form = _member(request, member_id), RoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Nothing was changed: choose a role from the list.")
        return redirect("orgs:member-list", request.organization.slug)
    role = Membership.Role(form.cleaned_data["role"])
    try:
        members.change_role(member, role, by=request.user)
    except members.LastOwner as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{member.user.email} has the role {role.label} now.")
    return redirect("orgs:member-list", request.organization.slug)


@form_on("orgs:member-list")
@members_page
def member_remove(request: ConsoleRequest, member_id: int) -> HttpResponse:
    """One less; whoever removes themselves is led to where they still belong."""
    member = _member(request, member_id)
    try:
        members.remove(member, by=request.user)
    except members.LastOwner as error:
        messages.error(request, str(error))
        return redirect("orgs:member-list", request.organization.slug)
    if member.user_id == request.user.pk:
        messages.success(request, f"You left {request.organization.name}.")
        return redirect("home")
    messages.success(request, f"Removed {member.user.email}. They see nothing of it any more.")
    return redirect("orgs:member-list", request.organization.slug)


def _page(request: ConsoleRequest, form: TokenForm) -> dict[str, Any]:
    """Context of the token page; usable tokens first."""
    now = timezone.now()
    organization, query = request.organization, listing.query_of(request)
    rows = WorkspaceToken.objects.filter(workspace__organization=organization)
    if query:
        by_name = Q(name__icontains=query) | Q(workspace__name__icontains=query)
        rows = rows.filter(by_name | Q(prefix__startswith=query.rstrip("…")))
    rows = rows.select_related("workspace")
    usable = [row for row in rows if row.is_usable(at=now)]
    unusable = [row for row in rows if not row.is_usable(at=now)]
    url = reverse("orgs:token-list", args=[organization.slug])
    found = listing.of(request, [*usable, *unusable], url)
    return {
        "listing": found,
        "tokens": found.rows,
        "usable": usable,
        "workspaces": organization.workspaces.all(),
        "form": form,
        "api_url": settings.PUBLIC_URL,
    }


@require_GET
@member_page
def token_list(request: ConsoleRequest) -> HttpResponse:
    """Every token of the organization's workspaces, by prefix."""
    return render(request, "orgs/token_list.html", _page(request, TokenForm()))


@form_on("orgs:token-list")
@manager_page
def token_create(request: ConsoleRequest) -> HttpResponse:
    """A new token; this answer is the only place its secret ever appears."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        context = _page(request, form)
        return render(request, "orgs/token_list.html", context, status=400)
    try:
        workspace = workspaces.choose(request.organization, form.cleaned_data["workspace"])
    except workspaces.WorkspaceNotFound:
        raise Http404("No such workspace.") from None
    token, secret = tokens.issue(workspace, name=form.cleaned_data["name"])
    context = _page(request, TokenForm()) | {"new_token": token, "secret": secret}
    return render(request, "orgs/token_list.html", context)


@form_on("orgs:token-list")
@manager_page
def token_revoke(request: ConsoleRequest, token_id: str) -> HttpResponse:
    """Refuses the token from now on."""
    token = get_object_or_404(
        WorkspaceToken, public_id=token_id, workspace__organization=request.organization
    )
    tokens.revoke(token, at=timezone.now())
    messages.success(request, f"Revoked the token “{token.name}”. It is refused from now on.")
    return redirect("orgs:token-list", request.organization.slug)


def _webhook_page(
    request: ConsoleRequest, form: WebhookForm, *, secret: str = "", status: int = 200
) -> HttpResponse:
    endpoint = deliveries.endpoint_of(request.organization)
    context = {
        "endpoint": endpoint,
        "deliveries": deliveries.log_of(endpoint) if endpoint else [],
        "form": form,
        "secret": secret,
    }
    return render(request, "orgs/webhook_detail.html", context, status=status)


@require_GET
@member_page
def webhook_detail(request: ConsoleRequest) -> HttpResponse:
    """The endpoint, and what became of the latest deliveries."""
    endpoint = deliveries.endpoint_of(request.organization)
    form = WebhookForm(initial={"url": endpoint.url} if endpoint else None)
    return _webhook_page(request, form)


@form_on("orgs:webhook-detail")
@limits_page
def webhook_set(request: ConsoleRequest) -> HttpResponse:
    """Sets where events go; a first time shows the new secret."""
    form = WebhookForm(request.POST)
    if not form.is_valid():
        return _webhook_page(request, form, status=400)
    url = form.cleaned_data["url"]
    _, secret = deliveries.set_url(request.organization, url, at=timezone.now())
    if not secret:
        messages.success(request, f"Events go to {url} from now on.")
        return redirect("orgs:webhook-detail", request.organization.slug)
    return _webhook_page(request, form, secret=secret)


@form_on("orgs:webhook-detail")
@limits_page
def webhook_rotate(request: ConsoleRequest) -> HttpResponse:
    """A new secret, shown in this answer only; the old one signs, too, for a day."""
    endpoint = get_object_or_404(WebhookEndpoint, organization=request.organization)
    secret = deliveries.rotate(endpoint, at=timezone.now())
    return _webhook_page(request, WebhookForm(initial={"url": endpoint.url}), secret=secret)


@form_on("orgs:webhook-detail")
@limits_page
def webhook_test(request: ConsoleRequest) -> HttpResponse:
    """Sends an event that means nothing."""
    get_object_or_404(WebhookEndpoint, organization=request.organization)
    event_id = identifiers.public_id("evt")
    deliveries.queue(
        request.organization,
        event_id=event_id,
        kind="test",
        data={"organization": request.organization.slug},
        at=timezone.now(),
    )
    messages.success(request, f"The test event {event_id} is on its way.")
    return redirect("orgs:webhook-detail", request.organization.slug)


@form_on("orgs:webhook-detail")
@limits_page
def webhook_remove(request: ConsoleRequest) -> HttpResponse:
    """Posts nothing any more and forgets the log."""
    deliveries.remove(get_object_or_404(WebhookEndpoint, organization=request.organization))
    messages.success(request, "Removed the webhook. Nothing is posted any more.")
    return redirect("orgs:webhook-detail", request.organization.slug)
