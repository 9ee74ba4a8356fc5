"""Long lists of the console: in pages, found by a part of the name, the same for every list."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from deployments.models import Deployment
from gateway import provisioning
from orgs import listing, tokens
from orgs.models import Organization, Workspace
from tests import factories

PAGES = ("deployments", "keys", "limits", "tokens")


@pytest.fixture
def many(organization: Organization, workspace: Workspace) -> list[Deployment]:
    """More than fit on a page, each with a token of the same name."""
    for number in range(listing.ROWS_PER_PAGE):
        tokens.issue(workspace, name=f"app{number:02}")
        factories.make_deployment(
            workspace=workspace, prefix=f"app{number:02}", is_default=number == 0
        )
    research = factories.make_workspace(organization=organization, name="Research")
    tokens.issue(research, name="zebra")
    factories.make_deployment(workspace=research, prefix="zebra", is_default=False)
    return list(Deployment.objects.order_by("pk"))


def text(client: Client, organization: Organization, page: str) -> str:
    answer = client.get(f"/console/{organization.slug}/{page}")
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize("page", PAGES)
def test_a_long_list_comes_in_pages(
    organization: Organization, many: list[Deployment], owner_client: Client, page: str
) -> None:
    first = text(owner_client, organization, f"{page}/")
    second = text(owner_client, organization, f"{page}/?page=2")
    assert ('rel="prev"' in first, 'rel="next"' in first) == (False, True)
    assert ('rel="prev"' in second, 'rel="next"' in second) == (True, False)
    for number in range(listing.ROWS_PER_PAGE):
        assert (f"app{number:02}" in first) or (f"app{number:02}" in second)
    for beyond in ("99", "-1", "x"):
        assert "rel=" in text(owner_client, organization, f"{page}/?page={beyond}")


@pytest.mark.parametrize("page", PAGES)
def test_a_row_is_found_by_a_part_of_its_name(
    organization: Organization, many: list[Deployment], owner_client: Client, page: str
) -> None:
    found = text(owner_client, organization, f"{page}/?q=ZEB")
    assert "zebra" in found
    assert "app01" not in found
    assert 'value="ZEB"' in found
    nothing = text(owner_client, organization, f"{page}/?q=nothing%00like%20this")
    assert "Nothing matches" in nothing


@pytest.mark.parametrize("page", ["deployments", "keys", "tokens"])
def test_rows_of_a_workspace_are_found_by_its_name(
    organization: Organization, many: list[Deployment], owner_client: Client, page: str
) -> None:
    found = text(owner_client, organization, f"{page}/?q=research")
    assert "zebra" in found
    assert "app01" not in found


def test_what_was_looked_for_stays_on_the_next_page(
    organization: Organization, many: list[Deployment], owner_client: Client, workspace: Workspace
) -> None:
    factories.make_deployment(workspace=workspace, prefix="app-last", is_default=False)
    assert "?q=app&amp;page=2" in text(owner_client, organization, "deployments/?q=app")


def test_a_key_is_found_by_what_is_shown_of_it(
    organization: Organization, many: list[Deployment], owner_client: Client
) -> None:
    zebra = many[-1]
    made = provisioning.provision(zebra.workspace, zebra.deploy_id, at=timezone.now())
    found = text(owner_client, organization, f"keys/?q={made.key.prefix}…")
    assert "zebra" in found
    assert "app01" not in found


def test_a_short_list_has_nothing_to_look_for(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    factories.make_deployment(workspace=workspace)
    for page in PAGES:
        assert 'type="search"' not in text(owner_client, organization, f"{page}/")


def test_usable_tokens_come_before_others(
    organization: Organization, many: list[Deployment], owner_client: Client
) -> None:
    for token in organization.workspaces.get(name="Research").tokens.all():
        tokens.revoke(token, at=timezone.now() - timedelta(days=1))
    assert "zebra" not in text(owner_client, organization, "tokens/")
    assert "zebra" in text(owner_client, organization, "tokens/?page=2")


def test_outsiders_find_nothing(
    organization: Organization, many: list[Deployment], outsider_client: Client
) -> None:
    for page in PAGES:
        answer = outsider_client.get(f"/console/{organization.slug}/{page}/?q=zebra")
        assert answer.status_code == 404


def test_deployments_of_the_same_name_are_told_apart_by_workspace(
    organization: Organization, many: list[Deployment], owner_client: Client
) -> None:
    assert "Research" in text(owner_client, organization, "keys/?q=zebra")
