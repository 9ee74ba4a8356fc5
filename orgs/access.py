"""Who may see and do what: organizations of a person, and what each role allows.

Every console view asks here first; a foreign organization is indistinguishable from none (404).
"""

from importlib import import_module

from django.conf import settings
from django.contrib import auth
from django.http import Http404, HttpRequest

from orgs.models import Membership, Organization, User

Role = Membership.Role
MAY_MANAGE = frozenset({Role.OWNER, Role.ADMIN, Role.MEMBER})
MAY_SEE_SECRETS = MAY_MANAGE
MAY_SET_LIMITS = frozenset({Role.OWNER, Role.ADMIN})
MAY_PAY = frozenset({Role.OWNER})
MAY_MANAGE_MEMBERS = frozenset({Role.OWNER})
MAY_BILL = frozenset({Role.OWNER, Role.ADMIN, Role.BILLING})


def memberships_of(user: User) -> list[Membership]:
    """The person's memberships with their organizations, by name."""
    return list(
        Membership.objects.filter(user=user)
        .select_related("organization")
        .order_by("organization__name")
    )


def require_membership(user: User, slug: str) -> Membership:
    """The person's membership in the organization called `slug`. Raises Http404 for outsiders."""
    membership = (
        Membership.objects.filter(user=user, organization__slug=slug)
        .select_related("organization")
        .first()
    )
    if membership is None:
        raise Http404("No such organization.")
    return membership


def organization_for(user: User, slug: str) -> Organization:
    """The organization called `slug`, if the person belongs to it. Raises Http404."""
    return require_membership(user, slug).organization


def user_of_session(session_key: str) -> User | None:
    """Who is logged in with the session of this key at this moment, if anybody still is.

    For what outlives a request: a log-out, a changed password and a deactivated person all count.
    """
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = auth.get_user(request)
    return user if isinstance(user, User) else None
