"""Gateway keys: their form, their check characters, and how many a deployment may have."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from deployments.models import Deployment
from gateway import keys
from gateway.models import GatewayKey
from orgs import digests, vault
from orgs.models import Workspace
from tests import factories

NOW = timezone.now()


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def test_a_key_names_its_deployment_and_carries_a_secret(deployment: Deployment) -> None:
    key, text = keys.issue(deployment, at=NOW)
    assert re.fullmatch(rf"aig_{deployment.deploy_id}_[0-9A-Za-z]{{49}}", text)
    assert keys.deploy_id_of(text) == deployment.deploy_id
    assert text.startswith(key.prefix)
    assert len(key.prefix) == len(f"aig_{deployment.deploy_id}_") + 4


def test_the_longest_deploy_id_fits(workspace: Workspace) -> None:
    deploy_id = "a" * 52 + "-0123456789"
    deployment = Deployment.objects.create(
        workspace=workspace, prefix="a" * 52, deploy_id=deploy_id
    )
    key, text = keys.issue(deployment, at=NOW)
    key.full_clean(exclude=["secret_sealed"])
    assert keys.deploy_id_of(text) == deploy_id


def test_every_single_changed_character_is_noticed_without_storage(
    deployment: Deployment, django_assert_num_queries: Any
) -> None:
    _, text = keys.issue(deployment, at=NOW)
    alphabet = "09AZaz_-"
    with django_assert_num_queries(0):
        for index, character in enumerate(text):
            for other in alphabet.replace(character, ""):
                assert keys.deploy_id_of(text[:index] + other + text[index + 1 :]) is None
            assert keys.deploy_id_of(text[:index] + text[index + 1 :]) is None  # one left out
            assert keys.deploy_id_of(text[:index] + character + text[index:]) is None  # one twice
        for first, second in zip(range(len(text)), range(1, len(text)), strict=False):
            swapped = list(text)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            assert "".join(swapped) == text or keys.deploy_id_of("".join(swapped)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aig_",
        "aig__" + "a" * 49,
        "aig_-app_" + "a" * 49,
        "aig_app-_" + "a" * 49,
        "aig_APP_" + "a" * 49,
        "aig_" + "a" * 64 + "_" + "a" * 49,
        "aig_äpp_" + "a" * 49,
        "sk-" + "a" * 60,
        "x" * 512,
    ],
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert keys.deploy_id_of(text) is None


def test_the_secret_is_kept_as_digest_and_ciphertext_only(deployment: Deployment) -> None:
    key, text = keys.issue(deployment, at=NOW)
    kept = GatewayKey.objects.filter(pk=key.pk).values().get()
    secret = text.removeprefix(key.prefix)
    assert secret not in str(kept)
    assert text not in repr(key)
    assert kept["digest"] == digests.digest(text)
    assert keys.reveal(key) == text


def test_a_ciphertext_moved_to_another_key_does_not_open(
    deployment: Deployment, workspace: Workspace
) -> None:
    mine, _ = keys.issue(deployment, at=NOW)
    other = factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    theirs, _ = keys.issue(other, at=NOW)
    mine.secret_sealed = theirs.secret_sealed
    with pytest.raises(vault.UnableToDecrypt):
        keys.reveal(mine)


def test_the_database_refuses_a_second_current_key(deployment: Deployment) -> None:
    keys.issue(deployment, at=NOW)
    with pytest.raises(IntegrityError), transaction.atomic():
        keys.issue(deployment, at=NOW)
    assert GatewayKey.objects.count() == 1


def test_rotation_leaves_one_current_key_and_one_on_its_way_out(deployment: Deployment) -> None:
    old, _ = keys.issue(deployment, at=NOW)
    new, _ = keys.rotate(deployment, expires_at=NOW + timedelta(hours=1), at=NOW)
    old.refresh_from_db()
    assert (old.expires_at, old.revoked_at) == (NOW + timedelta(hours=1), None)
    assert keys.current(deployment) == new


def test_rotation_without_grace_revokes(deployment: Deployment) -> None:
    old, _ = keys.issue(deployment, at=NOW)
    keys.rotate(deployment, expires_at=None, at=NOW)
    old.refresh_from_db()
    assert old.revoked_at == NOW


def test_revoking_also_ends_keys_that_were_on_their_way_out(deployment: Deployment) -> None:
    keys.issue(deployment, at=NOW)
    keys.rotate(deployment, expires_at=NOW + timedelta(hours=1), at=NOW)
    assert keys.revoke_all(deployment, at=NOW) == 2
    assert keys.revoke_all(deployment, at=NOW + timedelta(hours=1)) == 0
    assert set(GatewayKey.objects.values_list("revoked_at", flat=True)) == {NOW}
    assert keys.current(deployment) is None
