"""Staff suspend an organization: who is told what, and that lifting it ends it."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from orgs.models import Organization, User, Workspace
from tests import factories

INFO = "/api/data/aigateway/info"


def ask(secret: str) -> Any:
    headers = {"authorization": f"Bearer {secret}"}
    return Client().post(INFO, data="{}", content_type="application/json", headers=headers)


@pytest.fixture
def token(workspace: Workspace) -> str:
    factories.make_deployment(workspace=workspace)
    return factories.make_token(workspace=workspace)


def test_the_data_api_refuses_a_suspended_organization_and_says_whom_to_contact(
    organization: Organization, token: str, settings: Any
) -> None:
    settings.SUPPORT_CONTACT = "help@example.com"
    assert ask(token).status_code == 200
    factories.suspend(organization, at=timezone.now())
    answer = ask(token)
    assert answer.status_code == 403
    assert answer.json()["error"] == {
        "code": "organization_suspended",
        "message": "This organization is suspended. Contact help@example.com.",
    }
    # Whoever has no working token of it learns nothing.
    assert ask("wst_" + "a" * 43).status_code == 401


def test_another_organization_does_not_notice(other_organization: Organization, token: str) -> None:
    factories.suspend(other_organization, at=timezone.now())
    assert ask(token).status_code == 200


def test_a_suspension_begins_at_its_time(organization: Organization, token: str) -> None:
    factories.suspend(organization, at=timezone.now() + timedelta(hours=1))
    assert ask(token).status_code == 200


def test_members_read_in_the_console_why_and_whom_to_contact(
    organization: Organization, owner_client: Client
) -> None:
    page = f"/console/{organization.slug}/"
    assert b"is suspended" not in owner_client.get(page).content
    factories.suspend(organization, at=timezone.now())
    shown = owner_client.get(page)
    assert shown.status_code == 200
    assert "This organization is suspended." in shown.text
    assert factories.SUSPENSION_REASON in shown.text
    assert "Contact whoever runs this platform." in shown.text


@pytest.fixture
def staff_client(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("staff@example.com", "a long passphrase"))
    return client


def change(client: Client, organization: Organization, **fields: str) -> Any:
    inlines = {
        f"{name}-{which}_FORMS": "0"
        for name in ("memberships", "workspaces")
        for which in ("TOTAL", "INITIAL")
    }
    form = {"name": organization.name, "slug": organization.slug, **inlines, **fields}
    return client.post(f"/admin/orgs/organization/{organization.pk}/change/", form)


def test_staff_suspend_with_a_reason_and_lift_it(
    staff_client: Client, organization: Organization, token: str
) -> None:
    begun = {"suspended_at_0": "2026-01-02", "suspended_at_1": "03:04:05"}
    refused = change(staff_client, organization, **begun)
    assert "A suspension has a time and a reason" in refused.text
    assert ask(token).status_code == 200
    done = change(staff_client, organization, **begun, suspension_reason="Abuse.")
    assert done.status_code == 302
    assert ask(token).status_code == 403
    assert change(staff_client, organization).status_code == 302
    assert ask(token).status_code == 200


def test_the_database_refuses_a_suspension_without_a_reason(organization: Organization) -> None:
    rows = Organization.objects.filter(pk=organization.pk)
    with pytest.raises(IntegrityError), transaction.atomic():
        rows.update(suspended_at=timezone.now())
    with pytest.raises(IntegrityError), transaction.atomic():
        rows.update(suspension_reason="Abuse.")
