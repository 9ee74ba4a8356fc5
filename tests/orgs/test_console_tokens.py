"""Workspace tokens in the console, and what every console page has in common."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from orgs import tokens
from orgs.models import Membership, Organization, User, Workspace, WorkspaceToken
from orgs.templatetags.console import ago, compact, milliseconds
from tests import factories


def _tokens(organization: Organization, path: str = "") -> str:
    return f"/console/{organization.slug}/tokens/{path}"


def test_a_new_token_is_shown_once_and_works(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    response = owner_client.post(_tokens(organization, "create/"), {"name": "ci"})
    secret = response.context["secret"]
    assert response.content.decode().count(secret) == 2  # alone, and as an export command
    assert "no-store" in response["Cache-Control"]
    assert tokens.verify(secret, at=timezone.now()).workspace == workspace
    assert secret not in owner_client.get(_tokens(organization)).content.decode()


def test_a_token_is_made_for_the_chosen_workspace(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    second = factories.make_workspace(organization=organization, name="second")
    owner_client.post(
        _tokens(organization, "create/"), {"name": "ci", "workspace": second.public_id}
    )
    assert WorkspaceToken.objects.get().workspace == second


def test_the_first_token_of_a_new_organization_comes_with_a_workspace(
    organization: Organization, owner_client: Client
) -> None:
    """Staff made the organization, and nothing else."""
    response = owner_client.post(_tokens(organization, "create/"), {"name": "ci"})
    workspace = tokens.verify(response.context["secret"], at=timezone.now()).workspace
    assert (workspace.organization, workspace.name) == (organization, "main")
    owner_client.post(_tokens(organization, "create/"), {"name": "laptop"})
    assert organization.workspaces.get() == workspace


def test_a_foreign_workspace_gets_no_token(
    organization: Organization,
    workspace: Workspace,
    other_workspace: Workspace,
    owner_client: Client,
) -> None:
    data = {"name": "ci", "workspace": other_workspace.public_id}
    assert owner_client.post(_tokens(organization, "create/"), data).status_code == 404
    assert not WorkspaceToken.objects.exists()


def test_a_token_needs_a_name(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    response = owner_client.post(_tokens(organization, "create/"), {"name": " "})
    assert response.status_code == 400
    assert "Give the token a name" in response.content.decode()


def test_a_revoked_token_is_refused_and_marked(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    token, secret = tokens.issue(workspace, name="ci")
    text = owner_client.post(
        _tokens(organization, f"{token.public_id}/revoke/"), follow=True
    ).content.decode()
    assert "Revoked the token" in text
    with pytest.raises(tokens.UnableToAuthenticate):
        tokens.verify(secret, at=timezone.now())


def test_a_foreign_token_cannot_be_revoked(
    organization: Organization,
    workspace: Workspace,
    other_workspace: Workspace,
    owner_client: Client,
) -> None:
    token, _ = tokens.issue(other_workspace, name="theirs")
    url = _tokens(organization, f"{token.public_id}/revoke/")
    assert owner_client.post(url).status_code == 404
    token.refresh_from_db()
    assert token.revoked_at is None


def test_the_switcher_offers_only_the_own_organizations(
    organization: Organization, other_organization: Organization, owner: User, owner_client: Client
) -> None:
    second = factories.make_organization(name="Second")
    Membership.objects.create(organization=second, user=owner)
    text = owner_client.get(_tokens(organization)).content.decode()
    assert f'href="/console/{second.slug}/"' in text
    assert other_organization.slug not in text


def test_the_current_page_is_marked_in_the_navigation(
    organization: Organization, owner_client: Client
) -> None:
    text = owner_client.get(_tokens(organization)).content.decode()
    assert f'<a href="{_tokens(organization)}" aria-current="page">' in text
    assert text.count('aria-current="page"') == 1


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_inline_script(
    organization: Organization, owner_client: Client
) -> None:
    text = owner_client.get(_tokens(organization)).content.decode()
    assert "<script>" not in text
    assert "onclick=" not in text
    for attribute in ('src="', 'href="'):
        for part in text.split(attribute)[1:]:
            assert part.startswith(("/", "#"))


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (timedelta(seconds=1), "just now"),
        (timedelta(seconds=42), "42s ago"),
        (timedelta(minutes=3), "3m ago"),
        (timedelta(hours=26), "1d ago"),
    ],
)
def test_times_are_relative_with_the_exact_time_at_hand(before: timedelta, text: str) -> None:
    at = timezone.now() - before
    assert f">{text}</time>" in ago(at)
    assert f"{at:%d %b %Y, %H:%M:%S} UTC" in ago(at)


def test_numbers_fit_their_cells() -> None:
    assert [compact(n) for n in (0, 9_999, 12_400, 3_100_000)] == ["0", "9,999", "12.4K", "3.1M"]
    assert [milliseconds(n) for n in (None, 840, 2_414, 185_000)] == [
        "–",
        "840 ms",
        "2.41 s",
        "3 m 05 s",
    ]
