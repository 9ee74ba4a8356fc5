"""Members in the console: owners add, change and remove; an owner stays; outsiders find nothing."""

import re
import threading
from smtplib import SMTPException
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test import Client

from orgs import members
from orgs.models import Membership, Organization, User
from tests import factories

Role = Membership.Role
NEW = "new.colleague@example.com"


def url(organization: Organization, path: str = "") -> str:
    return f"/console/{organization.slug}/members/{path}"


def add(client: Client, organization: Organization, email: str = NEW, role: str = "MEMBER") -> Any:
    return client.post(url(organization, "add/"), {"email": email, "role": role}, follow=True)


def role_of(organization: Organization, user: User) -> str:
    return Membership.objects.get(organization=organization, user=user).role


def test_somebody_without_an_account_is_added_chooses_a_password_and_logs_in(
    organization: Organization, owner: User, owner_client: Client, client: Client
) -> None:
    page = add(owner_client, organization, "New.Colleague@Example.com", "ADMIN")
    assert f"Added {NEW}" in page.content.decode()
    (letter,) = mail.outbox
    assert letter.to == [NEW]
    assert owner.email in str(letter.body)
    found = re.search(r"(/accounts/password/reset/key/\S+)", str(letter.body))
    assert found is not None
    form = client.get(found[1], follow=True)
    new = "another good pass phrase"
    client.post(form.redirect_chain[-1][0], {"password1": new, "password2": new})
    login = {"login": NEW, "password": new}
    console = client.post("/accounts/login/", login, follow=True)
    assert console.redirect_chain[-1][0] == f"/console/{organization.slug}/"
    assert role_of(organization, User.objects.get(email=NEW)) == Role.ADMIN


def test_somebody_with_an_account_is_told_and_keeps_their_password(
    organization: Organization, outsider: User, owner_client: Client, outsider_client: Client
) -> None:
    add(owner_client, organization, outsider.email)
    (letter,) = mail.outbox
    assert "password" not in str(letter.body).lower()
    outsider.refresh_from_db()
    assert outsider.check_password(factories.PASSWORD)
    assert outsider_client.get(url(organization)).status_code == 200


def test_the_owner_reads_the_same_whether_there_was_an_account(
    organization: Organization, outsider: User, owner_client: Client
) -> None:
    known = add(owner_client, organization, outsider.email).context["messages"]
    unknown = add(owner_client, organization, NEW).context["messages"]
    assert [str(one).replace(outsider.email, NEW) for one in known] == [str(one) for one in unknown]


@pytest.mark.parametrize(
    ("email", "problem"),
    [("", "Give the e-mail address"), ("no address", "Enter a valid"), ("a@b", "Enter a valid")],
)
def test_an_address_that_is_none_is_refused_beside_the_field(
    organization: Organization, owner_client: Client, email: str, problem: str
) -> None:
    page = add(owner_client, organization, email)
    assert page.status_code == 400
    assert problem in page.content.decode()
    assert 'id="id_email_error"' in page.content.decode()


def test_nobody_is_added_twice(
    organization: Organization, member: User, owner_client: Client
) -> None:
    page = add(owner_client, organization, member.email.upper())
    assert "is a member already" in page.content.decode()
    assert not mail.outbox


def test_a_letter_that_could_not_be_sent_is_told(
    organization: Organization, owner_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SMTPException("away")

    monkeypatch.setattr(members, "send_mail", refuse)
    page = add(owner_client, organization)
    assert "could not be sent" in page.content.decode()
    assert Membership.objects.filter(organization=organization, user__email=NEW).exists()


def test_an_owner_changes_a_role(
    organization: Organization, member: User, owner_client: Client
) -> None:
    at = Membership.objects.get(user=member).pk
    for role in (Role.VIEWER, Role.OWNER):
        owner_client.post(url(organization, f"{at}/role/"), {"role": role})
        assert role_of(organization, member) == role
    page = owner_client.post(url(organization, f"{at}/role/"), {"role": "KING"}, follow=True)
    assert "Nothing was changed" in page.content.decode()
    assert role_of(organization, member) == Role.OWNER


def test_who_is_removed_sees_nothing_any_more(
    organization: Organization, member: User, owner_client: Client, member_client: Client
) -> None:
    assert member_client.get(url(organization)).status_code == 200
    at = Membership.objects.get(user=member).pk
    page = owner_client.post(url(organization, f"{at}/remove/"), follow=True)
    assert f"Removed {member.email}" in page.content.decode()
    assert member_client.get(url(organization)).status_code == 404
    assert User.objects.filter(pk=member.pk).exists()


def test_an_organization_keeps_an_owner(
    organization: Organization, owner: User, owner_client: Client
) -> None:
    at = Membership.objects.get(user=owner).pk
    for path, data in ((f"{at}/remove/", {}), (f"{at}/role/", {"role": "ADMIN"})):
        page = owner_client.post(url(organization, path), data, follow=True)
        assert "the only owner" in page.content.decode()
    assert role_of(organization, owner) == Role.OWNER


def test_an_owner_leaves_when_there_is_another(
    organization: Organization, owner: User, owner_client: Client
) -> None:
    factories.make_member(organization=organization, role=Role.OWNER)
    at = Membership.objects.get(user=owner).pk
    page = owner_client.post(url(organization, f"{at}/remove/"), follow=True)
    assert "No organization yet" in page.content.decode()


@pytest.mark.parametrize("role", [Role.ADMIN, Role.MEMBER, Role.BILLING, Role.VIEWER])
def test_whoever_is_no_owner_sees_and_cannot_act(
    organization: Organization, owner: User, client: Client, role: str
) -> None:
    user = factories.make_member(organization=organization, role=role)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert owner.email in client.get(url(organization)).content.decode()
    mine = Membership.objects.get(user=user).pk
    assert add(client, organization).status_code == 403
    for path in (f"{mine}/role/", f"{mine}/remove/"):
        assert client.post(url(organization, path), {"role": "OWNER"}).status_code == 403
    assert role_of(organization, user) == role


def test_members_of_another_organization_cannot_be_touched(
    organization: Organization, outsider: User, owner_client: Client, outsider_client: Client
) -> None:
    foreign = Membership.objects.get(user=outsider).pk
    for path in (f"{foreign}/role/", f"{foreign}/remove/"):
        assert owner_client.post(url(organization, path), {"role": "VIEWER"}).status_code == 404
    assert add(outsider_client, organization).status_code == 404
    assert outsider_client.get(url(organization)).status_code == 404
    assert Membership.objects.get(user=outsider).role == Role.OWNER


def test_an_organization_has_only_so_many_members(
    organization: Organization, owner_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MEMBERS_MAX", 1)
    assert "at most 1 members" in add(owner_client, organization).content.decode()


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time anyway")
def test_two_owners_cannot_remove_each_other() -> None:
    organization = factories.make_organization()
    people = [factories.make_member(organization=organization, role=Role.OWNER) for _ in range(2)]
    barrier = threading.Barrier(2)

    def remove(user: User) -> None:
        barrier.wait()
        try:
            members.remove(Membership.objects.get(user=user), by=user)
        except members.LastOwner:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=remove, args=(user,)) for user in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Membership.objects.filter(organization=organization, role=Role.OWNER).count() == 1
