"""Margins of organizations: none by default, changed by staff, with a history that says so."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from billing import checks, terms
from billing.models import OrganizationTerms
from billing.pricing import Usage
from orgs.models import Organization, User
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff_client() -> Client:
    client = Client()
    user = User.objects.create_superuser("staff@example.com", factories.PASSWORD)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def save(client: Client, url: str, **fields: Any) -> Any:
    return client.post(url, {"margin_basis_points": 250, **fields})


def test_without_terms_there_is_no_margin(organization: Organization) -> None:
    assert terms.margin_basis_points(organization) == 0


def test_staff_set_a_margin_and_the_history_says_from_what_to_what(
    staff_client: Client, organization: Organization
) -> None:
    added = save(
        staff_client, "/admin/billing/organizationterms/add/", organization=organization.pk
    )
    assert added.status_code == 302
    assert terms.margin_basis_points(Organization.objects.get(pk=organization.pk)) == 250
    url = f"/admin/billing/organizationterms/{organization.pk}/change/"
    assert save(staff_client, url, margin_basis_points=1_000).status_code == 302
    history = LogEntry.objects.order_by("pk").values_list("change_message", flat=True)
    assert list(history) == ["Margin from 0 % to 2.5 %.", "Margin from 2.5 % to 10 %."]


def test_a_margin_beyond_its_range_is_refused_with_a_sentence(
    staff_client: Client, organization: Organization
) -> None:
    url = "/admin/billing/organizationterms/add/"
    answer = save(staff_client, url, organization=organization.pk, margin_basis_points=10_001)
    assert "less than or equal to 10000" in answer.content.decode()
    assert not OrganizationTerms.objects.exists()


def test_a_margin_is_in_the_cost_and_the_books_agree(organization: Organization) -> None:
    factories.make_credit(organization=organization)
    record = factories.make_call(
        organization=organization,
        price=factories.make_price(),
        usage=Usage(input=1000, output=500),
        margin_basis_points=5_000,
    )
    assert record.cost_nanos == 60_000
    assert record.margin_basis_points == 5_000
    assert checks.verify().differences == []
