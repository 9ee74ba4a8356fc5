"""Workspace tokens: their form, when they end, and how precisely their use is noted."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from orgs import tokens
from orgs.models import Workspace, WorkspaceToken
from tests import factories

NOW = timezone.now()


def test_a_token_is_shown_once_and_kept_as_a_digest(workspace: Workspace) -> None:
    token, secret = tokens.issue(workspace, name="agent")
    assert tokens.TOKEN_PATTERN.fullmatch(secret)
    kept = WorkspaceToken.objects.filter(pk=token.pk).values().get()
    assert secret not in str(kept)
    assert secret.startswith(kept["prefix"])
    assert len(kept["prefix"]) == 8


def test_a_token_leads_to_its_workspace(workspace: Workspace, other_workspace: Workspace) -> None:
    secret = factories.make_token(workspace=workspace)
    factories.make_token(workspace=other_workspace)
    assert tokens.verify(secret, at=NOW).workspace == workspace


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "wst_",
        "wst_short",
        "wst_" + "a" * 42,
        "wst_" + "a" * 44,
        "wst_" + "a" * 42 + "é",
        "wst_" + "a" * 43 + "\n",
        "WST_" + "a" * 43,
        "aig_" + "a" * 43,
        "wst_" + "a" * 42 + "\x00",
    ],
)
def test_a_malformed_token_is_refused_without_asking_the_database(
    secret: str, db: None, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0), pytest.raises(tokens.UnableToAuthenticate):
        tokens.verify(secret, at=NOW)


def test_an_unknown_token_is_refused(workspace: Workspace) -> None:
    secret = factories.make_token(workspace=workspace)
    other = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    with pytest.raises(tokens.UnableToAuthenticate):
        tokens.verify(other, at=NOW)


def test_a_token_ends_at_its_expiry(workspace: Workspace) -> None:
    token, secret = tokens.issue(workspace, name="agent")
    WorkspaceToken.objects.filter(pk=token.pk).update(expires_at=NOW)
    assert tokens.verify(secret, at=NOW - timedelta(seconds=1))
    with pytest.raises(tokens.UnableToAuthenticate):
        tokens.verify(secret, at=NOW)


def test_a_revoked_token_is_refused_and_keeps_its_first_time(workspace: Workspace) -> None:
    token, secret = tokens.issue(workspace, name="agent")
    tokens.revoke(token, at=NOW)
    tokens.revoke(token, at=NOW + timedelta(hours=1))
    token.refresh_from_db()
    assert token.revoked_at == NOW
    with pytest.raises(tokens.UnableToAuthenticate):
        tokens.verify(secret, at=NOW)


def test_use_is_noted_once_a_minute_so_that_reads_stay_reads(workspace: Workspace) -> None:
    _, secret = tokens.issue(workspace, name="agent")

    def last_used(after: timedelta) -> Any:
        tokens.verify(secret, at=NOW + after)
        return WorkspaceToken.objects.get().last_used_at

    assert last_used(timedelta()) == NOW
    assert last_used(timedelta(seconds=59)) == NOW
    assert last_used(timedelta(seconds=61)) == NOW + timedelta(seconds=61)


def test_a_refused_token_is_not_noted_as_used(workspace: Workspace) -> None:
    token, secret = tokens.issue(workspace, name="agent")
    tokens.revoke(token, at=NOW)
    with pytest.raises(tokens.UnableToAuthenticate):
        tokens.verify(secret, at=NOW)
    token.refresh_from_db()
    assert token.last_used_at is None
