"""Who belongs to what: outsiders see nothing that tells them an organization exists."""

import pytest
from django.http import Http404

from orgs import access
from orgs.models import Membership, Organization, User
from tests import factories


def test_a_member_gets_the_organization_and_the_role(
    organization: Organization, owner: User, member: User
) -> None:
    assert access.require_membership(owner, organization.slug).role == Membership.Role.OWNER
    assert access.require_membership(member, organization.slug).role == Membership.Role.MEMBER
    assert access.organization_for(member, organization.slug) == organization


def test_a_foreign_organization_looks_like_none(organization: Organization, outsider: User) -> None:
    with pytest.raises(Http404) as foreign:
        access.require_membership(outsider, organization.slug)
    with pytest.raises(Http404) as missing:
        access.require_membership(outsider, "no-such-organization")
    assert str(foreign.value) == str(missing.value)


def test_staff_are_no_members_of_everything(organization: Organization) -> None:
    staff = factories.make_user(is_staff=True, is_superuser=True)
    with pytest.raises(Http404):
        access.organization_for(staff, organization.slug)


def test_memberships_come_by_name_and_only_ones_own(
    owner: User, organization: Organization, other_organization: Organization
) -> None:
    last = factories.make_organization(name="Zebra")
    Membership.objects.create(organization=last, user=owner)
    found = [one.organization for one in access.memberships_of(owner)]
    assert found == [organization, last]


def test_viewers_manage_nothing_and_billing_sees_no_secrets() -> None:
    role = Membership.Role
    assert role.VIEWER not in access.MAY_MANAGE | access.MAY_BILL | access.MAY_SEE_SECRETS
    assert role.BILLING not in access.MAY_MANAGE | access.MAY_SEE_SECRETS
    assert role.MEMBER not in access.MAY_BILL
