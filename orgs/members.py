"""Members of an organization: who belongs to it with which role, and how people come and go.

Owns that an organization keeps an owner, and the letter that tells somebody that they belong now. A
person without an account gets one without a password, which the letter lets them choose. Must know
nothing of pages.
"""

from smtplib import SMTPException

import structlog
from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse

from orgs.models import Membership, Organization, User

MEMBERS_MAX = 500

log = structlog.get_logger(__name__)


class UnableToAdd(Exception):
    """Nobody was added; the message says why in words for an owner."""


class LastOwner(Exception):
    """An organization must keep an owner."""

    def __init__(self) -> None:
        super().__init__("This is the only owner. Make somebody else an owner first.")


def of(organization: Organization) -> QuerySet[Membership]:
    """Its memberships with their people, by address."""
    found = Membership.objects.filter(organization=organization)
    return found.select_related("user").order_by("user__email")


def add(organization: Organization, email: str, role: str, *, by: User) -> Membership:
    """A new membership of the person with this address, who need not have an account yet.

    Raises UnableToAdd.
    """
    email = User.objects.normalize_email(email).lower()
    with transaction.atomic():
        _lock(organization)
        members = Membership.objects.filter(organization=organization)
        if members.filter(user__email__iexact=email).exists():
            raise UnableToAdd(f"{email} is a member already.")
        if members.count() >= MEMBERS_MAX:
            raise UnableToAdd(f"An organization has at most {MEMBERS_MAX} members.")
        user = User.objects.filter(email__iexact=email).first() or _new_person(email)
        membership = Membership.objects.create(organization=organization, user=user, role=role)
    log.info("a member was added", organization=organization.slug, member=user.pk, by=by.pk)
    return membership


def _new_person(email: str) -> User:
    """An account without a password, whoever else adds the same person at the same time."""
    nobody_knows = make_password(None)
    return User.objects.get_or_create(email=email, defaults={"password": nobody_knows})[0]


def change_role(membership: Membership, role: str, *, by: User) -> None:
    """Let the member do what `role` may, from now on. Raises LastOwner."""
    with transaction.atomic():
        _lock(membership.organization)
        if role != Membership.Role.OWNER:
            _require_another_owner(membership)
        Membership.objects.filter(pk=membership.pk).update(role=role)
    log.info("a role was changed", membership=membership.pk, role=role, by=by.pk)


def remove(membership: Membership, *, by: User) -> None:
    """End the membership; the person's account stays. Raises LastOwner."""
    with transaction.atomic():
        _lock(membership.organization)
        _require_another_owner(membership)
        Membership.objects.filter(pk=membership.pk).delete()
    log.info("a member was removed", membership=membership.pk, by=by.pk)


def _lock(organization: Organization) -> None:
    """One change of an organization's members at a time: two owners could remove each other."""
    Organization.objects.select_for_update().get(pk=organization.pk)


def _require_another_owner(membership: Membership) -> None:
    owners = Membership.objects.filter(
        organization=membership.organization, role=Membership.Role.OWNER
    )
    if set(owners.values_list("pk", flat=True)) == {membership.pk}:
        raise LastOwner


def tell(membership: Membership, *, by: User) -> bool:
    """A letter to a new member: where the console is, and how to log in; False if it did not go."""
    name = " ".join(membership.organization.name.split())
    try:
        send_mail(
            f"You are a member of {name}",
            _letter(membership, name, by),
            None,
            [membership.user.email],
        )
    except (SMTPException, OSError):
        log.exception("a letter to a new member could not be sent", membership=membership.pk)
        return False
    return True


def _letter(membership: Membership, name: str, by: User) -> str:
    user = membership.user
    role = membership.get_role_display().lower()
    console = reverse("gateway:overview", args=[membership.organization.slug])
    lines = [f"{by.email} added you to {name} on AI Gateway, with the role {role}.", ""]
    if not user.has_usable_password():
        key = default_token_generator.make_token(user)
        choose = reverse(
            "account_reset_password_from_key",
            kwargs={"uidb36": user_pk_to_url_str(user), "key": key},
        )
        lines += ["Choose a password first; the link works for three days:", _url(choose), ""]
    lines += ["Then log in with this e-mail address:", _url(console)]
    if not user.has_usable_password():
        forgotten = _url(reverse("account_reset_password"))
        lines += ["", f"If the link no longer works, ask for another one: {forgotten}"]
    return "\n".join(lines) + "\n"


def _url(path: str) -> str:
    return f"{settings.PUBLIC_URL}{path}"
