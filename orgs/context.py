"""What every console page stands on: who looks, at which organization, and what they may do.

Owns the guards of console views and the template context they feed. Must know nothing of what the
pages show.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from django_htmx.middleware import HtmxDetails

from orgs import access, suspension
from orgs.models import Membership, Organization, User

Arguments = ParamSpec("Arguments")


class ConsoleRequest(HttpRequest):
    """A request of a member: what `member_page` adds to it."""

    user: User
    htmx: HtmxDetails
    membership: Membership
    memberships: list[Membership]
    organization: Organization


Page = Callable[Concatenate[ConsoleRequest, Arguments], HttpResponseBase]
RoutedPage = Callable[..., HttpResponseBase]


def member_page(page: Page[Arguments]) -> RoutedPage:
    """Lets members of the organization named in the URL in; others are told it does not exist.

    The page gets no `organization` argument: it reads `request.organization`. Nothing it answers
    is kept by a browser or proxy, so that logging out ends what can be seen.
    """

    @never_cache
    @login_required
    @wraps(page)
    def guarded(request: Any, organization: str, **kwargs: Any) -> HttpResponseBase:
        request.membership = access.require_membership(request.user, organization)
        request.memberships = access.memberships_of(request.user)
        request.organization = request.membership.organization
        return page(request, **kwargs)  # type: ignore[call-arg]

    return guarded


def manager_page(page: Page[Arguments]) -> RoutedPage:
    """Like `member_page`, for what changes something: viewers and billing people get 403."""
    return _page_for(access.MAY_MANAGE, page)


def limits_page(page: Page[Arguments]) -> RoutedPage:
    """Like `member_page`, for what sets limits or where their alerts go: owners and admins."""
    return _page_for(access.MAY_SET_LIMITS, page)


def members_page(page: Page[Arguments]) -> RoutedPage:
    """Like `member_page`, for what changes who belongs to the organization: owners."""
    return _page_for(access.MAY_MANAGE_MEMBERS, page)


def _page_for(roles: frozenset[str], page: Page[Arguments]) -> RoutedPage:
    @wraps(page)
    def managed(request: ConsoleRequest, /, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.membership.role not in roles:
            raise PermissionDenied
        return page(request, *args, **kwargs)

    return member_page(managed)


def owner_page(page: Page[Arguments]) -> RoutedPage:
    """Like `member_page`, for what moves the organization's money: everybody else gets 403."""
    return _page_for(access.MAY_PAY, page)


def form_on(page: str, *kept: str) -> Callable[[RoutedPage], RoutedPage]:
    """For what a form of `page` posts to: whoever comes there otherwise is sent to the page.

    Log-in leads there when a session ended under a form, and so does the address of an answer that
    was shown at once. `kept` names the parts of the address that the page's own has, too.
    """

    def decorate(act: RoutedPage) -> RoutedPage:
        @wraps(act)
        def posted(request: HttpRequest, organization: str, **parts: Any) -> HttpResponseBase:
            if request.method in ("GET", "HEAD"):
                return redirect(page, organization, *(parts[name] for name in kept))
            if not request.user.is_authenticated:
                messages.info(request, "You were logged out, so nothing was sent. Log in again.")
            return require_POST(act)(request, organization=organization, **parts)

        return posted

    return decorate


def console(request: HttpRequest) -> dict[str, Any]:
    """`organization`, `memberships`, what the member may do: when a console page set them.

    `suspension`: what to tell members of a suspended organization, else "".
    """
    membership = getattr(request, "membership", None)
    return {
        "membership": membership,
        "organization": membership.organization if membership else None,
        "memberships": getattr(request, "memberships", []),
        "suspension": _suspension(membership),
        "may_manage": membership is not None and membership.role in access.MAY_MANAGE,
        "may_set_limits": membership is not None and membership.role in access.MAY_SET_LIMITS,
        "may_manage_members": membership is not None
        and membership.role in access.MAY_MANAGE_MEMBERS,
        "may_pay": membership is not None and membership.role in access.MAY_PAY,
    }


def _suspension(membership: Membership | None) -> str:
    if membership is None or not membership.organization.is_suspended(at=timezone.now()):
        return ""
    return suspension.explain_to_member(membership.organization)
