"""Precedence, encryption and masking of a deployment's environment."""

import pytest

from deployments import environment, variables
from deployments.models import Deployment, EnvironmentVariable
from orgs import vault
from orgs.models import Workspace
from tests import factories


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def test_later_sources_win(deployment: Deployment) -> None:
    environment.inject(deployment, {"A": "gateway", "B": "gateway", "C": "gateway"})
    environment.update(deployment, {"C": "user", "D": "user"})
    final = environment.final_environment(
        deployment, {"B": "bundle", "C": "bundle", "NODE_ENV": "bundle"}
    )
    assert {name: final[name] for name in "ABCD"} == {
        "A": "gateway",
        "B": "bundle",
        "C": "user",
        "D": "user",
    }
    assert final["NODE_ENV"] == "bundle"
    assert final["DEPLOY_ID"] == deployment.deploy_id


def test_update_merges_and_none_removes(deployment: Deployment) -> None:
    assert environment.update(deployment, {"A": "1", "B": "2"}) == ["A", "B"]
    assert environment.update(deployment, {"A": "3", "B": None, "MISSING": None}) == ["A"]
    assert environment.final_environment(deployment, {})["A"] == "3"


def test_removing_a_name_uncovers_what_the_gateway_injected(deployment: Deployment) -> None:
    environment.inject(deployment, {"OPENAI_API_KEY": "gateway"})
    environment.update(deployment, {"OPENAI_API_KEY": "mine"})
    for _ in range(2):  # a repeated removal must not reach the gateway's own value
        environment.update(deployment, {"OPENAI_API_KEY": None})
        assert environment.final_environment(deployment, {})["OPENAI_API_KEY"] == "gateway"


def test_withdrawing_leaves_the_users_value(deployment: Deployment) -> None:
    environment.inject(deployment, {"A": "gateway", "B": "gateway"})
    environment.update(deployment, {"A": "user"})
    environment.withdraw(deployment, ["A", "B"])
    assert environment.masked(deployment) == {"A": ("••••", "USER")}


def test_overridden_names_are_those_the_app_sets_itself(deployment: Deployment) -> None:
    release = deployment.active_release
    assert release is not None
    release.manifest = {"bundle_environment": ["B", "X"]}
    release.save()
    environment.inject(deployment, {"A": "1", "B": "1", "C": "1"})
    environment.update(deployment, {"A": "2"})
    assert environment.overridden_names(deployment, ["A", "B", "C"]) == ["A", "B"]


def test_values_are_encrypted_for_their_place(deployment: Deployment) -> None:
    environment.update(deployment, {"A": "secret-value", "B": "other"})
    a, b = EnvironmentVariable.objects.filter(deployment=deployment)
    assert "secret" not in a.value_sealed
    b.value_sealed = a.value_sealed
    b.save()
    with pytest.raises(vault.UnableToDecrypt):
        environment.final_environment(deployment, {})


def test_a_bad_change_changes_nothing(deployment: Deployment) -> None:
    for bad in ({"A": "1", "1B": "x"}, {"A": "1", "B": "x\0"}, {"A": "1", "_HANDLER": "x"}):
        with pytest.raises(variables.UnableToUseVariable):
            environment.update(deployment, dict(bad))
    assert environment.names(deployment) == []


def test_two_hundred_variables_are_the_limit(deployment: Deployment) -> None:
    environment.update(deployment, {f"A{number}": "" for number in range(200)})
    environment.update(deployment, {"A0": None, "B": "instead"})
    with pytest.raises(variables.UnableToUseVariable, match="201 variables"):
        environment.update(deployment, {"C": "one more"})


def test_an_environment_too_large_for_a_process_is_refused(deployment: Deployment) -> None:
    environment.update(deployment, {f"A{number}": "x" * 32_000 for number in range(17)})
    with pytest.raises(variables.UnableToUseVariable, match="bytes in all"):
        environment.final_environment(deployment, {})


@pytest.mark.parametrize(
    ("value", "shown"), [("", "••••"), ("secret!", "••••"), ("sk-12345678", "sk…")]
)
def test_masks_show_little(value: str, shown: str) -> None:
    assert environment.mask(value) == shown


def test_clearing_forgets_variables_and_snapshots(deployment: Deployment) -> None:
    release = deployment.active_release
    assert release is not None
    release.environment_sealed = environment.seal_snapshot(release, {"A": "1"})
    release.save()
    assert environment.open_snapshot(release) == {"A": "1"}
    environment.update(deployment, {"A": "1"})
    environment.clear(deployment)
    release.refresh_from_db()
    assert environment.open_snapshot(release) == {}
    assert environment.names(deployment) == []
