"""What every console page stands on: who looks, at which organization, and what they may do.

Owns the guards of console views and the template context they feed. Must know nothing of what the
pages show.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.views.decorators.cache import never_cache
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
        "may_pay": membership is not None and membership.role in access.MAY_PAY,
    }


def _suspension(membership: Membership | None) -> str:
    if membership is None or not membership.organization.is_suspended(at=timezone.now()):
        return ""
    return suspension.explain_to_member(membership.organization)
