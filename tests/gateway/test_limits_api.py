"""`aigateway/limits` and what `info` says of limits: reading, setting, and who may not."""

from typing import Any

import pytest
from django.utils import timezone

from deployments.models import Deployment
from gateway import keys
from gateway.models import GatewayKey, Limit, ModelRoute
from orgs.models import Workspace
from tests import factories

NOTHING = {
    "requestsPerMinute": None,
    "tokensPerMinute": None,
    "concurrency": None,
    "dailyBudgetUsd": None,
    "monthlyBudgetUsd": None,
    "models": None,
}


@pytest.fixture(autouse=True)
def _no_defaults(settings: Any) -> None:
    settings.LIMIT_DEFAULTS = {}


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


@pytest.fixture
def key(deployment: Deployment) -> GatewayKey:
    return keys.issue(deployment, at=timezone.now())[0]


def test_without_limits_everything_is_null(agent: Any, deployment: Deployment) -> None:
    answer = agent("aigateway/limits").json()
    assert answer == {
        "deployId": deployment.deploy_id,
        "key": None,
        "deployment": NOTHING,
        "workspace": NOTHING,
        "organization": NOTHING,
        "effective": NOTHING,
    }
    assert Limit.objects.count() == 0


def test_limits_are_set_scope_by_scope_and_the_lowest_counts(
    agent: Any, key: GatewayKey, deployment: Deployment
) -> None:
    wanted = {"requestsPerMinute": 60, "dailyBudgetUsd": "2.50"}
    agent("aigateway/limits", {"limits": wanted})
    agent("aigateway/limits", {"scope": "key", "limits": {"requestsPerMinute": 100}})
    answer = agent("aigateway/limits", {"scope": "workspace", "limits": {"concurrency": 9}}).json()
    assert answer["deployment"] == {**NOTHING, "requestsPerMinute": 60, "dailyBudgetUsd": "2.5"}
    assert answer["key"] == {**NOTHING, "requestsPerMinute": 100}
    assert answer["effective"] == {
        **NOTHING,
        "requestsPerMinute": 60,
        "concurrency": 9,
        "dailyBudgetUsd": "2.5",
    }
    info = agent("aigateway/info").json()
    assert info["limits"] == answer["effective"]
    assert {(row.scope, row.scope_id) for row in Limit.objects.all()} == {
        ("KEY", key.pk),
        ("DEPLOYMENT", deployment.pk),
        ("WORKSPACE", deployment.workspace_id),
    }


def test_what_a_change_leaves_out_stays_and_null_removes(
    agent: Any, deployment: Deployment
) -> None:
    agent("aigateway/limits", {"limits": {"requestsPerMinute": 60, "concurrency": 5}})
    answer = agent("aigateway/limits", {"limits": {"concurrency": None}}).json()
    assert answer["deployment"] == {**NOTHING, "requestsPerMinute": 60}
    agent("aigateway/limits", {"limits": {"requestsPerMinute": None}})
    assert Limit.objects.count() == 0


def test_staffs_limits_are_seen_and_cannot_be_raised(
    agent: Any, deployment: Deployment, workspace: Workspace
) -> None:
    Limit.objects.create(
        organization=workspace.organization,
        scope=Limit.Scope.STAFF,
        scope_id=workspace.organization_id,
        requests_per_minute=10,
    )
    answer = agent("aigateway/limits", {"limits": {"requestsPerMinute": 1000}}).json()
    assert answer["organization"]["requestsPerMinute"] == 10
    assert answer["effective"]["requestsPerMinute"] == 10
    refused = agent("aigateway/limits", {"scope": "organization", "limits": {}})
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == "scope"


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"requestsPerMinute": 0}, "limits.requestsPerMinute"),
        ({"requestsPerMinute": -1}, "limits.requestsPerMinute"),
        ({"requestsPerMinute": "many"}, "limits.requestsPerMinute"),
        ({"tokensPerMinute": 10**13}, "limits.tokensPerMinute"),
        ({"concurrency": 1.5}, "limits.concurrency"),
        ({"dailyBudgetUsd": "0"}, "limits.dailyBudgetUsd"),
        ({"dailyBudgetUsd": 2.5}, "limits.dailyBudgetUsd"),
        ({"dailyBudgetUsd": "lots"}, "limits.dailyBudgetUsd"),
        ({"monthlyBudgetUsd": "100000001"}, "limits.monthlyBudgetUsd"),
        ({"requestPerMinute": 5}, "limits.requestPerMinute"),
        ({"models": []}, "limits.models"),
        ({"models": "gpt-4o"}, "limits.models"),
        ({"models": ["gpt-5o"]}, "limits.models"),
        ({"models": ["x"] * 201}, "limits.models"),
        ([], "limits"),
    ],
)
def test_what_is_no_limit_is_refused_by_name(
    limits: Any, field: str, agent: Any, deployment: Deployment
) -> None:
    answer = agent("aigateway/limits", {"limits": limits})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["field"] == field
    assert error["message"].startswith(f"{field}: ")
    assert Limit.objects.count() == 0


def test_a_key_that_is_not_there_cannot_be_limited(agent: Any, deployment: Deployment) -> None:
    answer = agent("aigateway/limits", {"scope": "key", "limits": {"concurrency": 1}})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "key_not_found"


def test_outsiders_neither_see_nor_set_limits(
    outsider_agent: Any, deployment: Deployment, other_workspace: Workspace
) -> None:
    factories.make_deployment(workspace=other_workspace)
    for body in ({}, {"limits": {"concurrency": 1}}):
        answer = outsider_agent("aigateway/limits", {"deployId": deployment.deploy_id, **body})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "deployment_not_found"
    assert Limit.objects.count() == 0


def test_rotating_a_key_lifts_no_limit(agent: Any, key: GatewayKey) -> None:
    agent("aigateway/limits", {"scope": "key", "limits": {"requestsPerMinute": 7}})
    agent("aigateway/rotate", {"graceSeconds": 60})
    assert agent("aigateway/limits").json()["key"]["requestsPerMinute"] == 7
    agent("aigateway/rotate")
    assert agent("aigateway/limits").json()["key"]["requestsPerMinute"] == 7


# --- models -----------------------------------------------------------------------------------


@pytest.fixture
def offered(db: None) -> None:
    factories.make_route(public_name="gpt-4o", provider="openai")
    sonnet = factories.make_route(public_name="claude-sonnet-4.5", provider="anthropic")
    sonnet.aliases = ["claude-sonnet-4-5"]
    sonnet.save()
    factories.make_route(public_name="claude-opus-4.5", provider="anthropic")


def confine(agent: Any, *models: str, scope: str = "deployment") -> Any:
    return agent("aigateway/limits", {"scope": scope, "limits": {"models": list(models)}})


def test_models_are_set_by_any_of_their_names_and_none_exceeds_its_parent(
    agent: Any, key: GatewayKey, offered: None
) -> None:
    confine(agent, "claude-sonnet-4-5", "gpt-4o", "claude-sonnet-4.5", scope="key")
    answer = confine(agent, "gpt-4o", "claude-opus-4.5").json()
    assert answer["key"]["models"] == ["claude-sonnet-4.5", "gpt-4o"]
    assert answer["deployment"]["models"] == ["claude-opus-4.5", "gpt-4o"]
    assert answer["workspace"]["models"] is None
    assert answer["effective"]["models"] == ["gpt-4o"]
    info = agent("aigateway/info").json()
    assert (info["models"], info["limits"]["models"]) == (["gpt-4o"], ["gpt-4o"])
    assert agent("aigateway/provision").json()["models"] == ["gpt-4o"]
    assert agent("aigateway/rotate").json()["models"] == ["gpt-4o"]
    assert agent("aigateway/limits").json()["key"]["models"] == ["claude-sonnet-4.5", "gpt-4o"]


def test_null_lifts_the_list_and_leaves_the_other_limits(
    agent: Any, key: GatewayKey, offered: None
) -> None:
    confine(agent, "gpt-4o")
    agent("aigateway/limits", {"limits": {"concurrency": 3}})
    answer = agent("aigateway/limits", {"limits": {"models": None}}).json()
    assert answer["deployment"] == {**NOTHING, "concurrency": 3}
    everything = ["claude-opus-4.5", "claude-sonnet-4.5", "gpt-4o"]
    assert agent("aigateway/info").json()["models"] == everything
    agent("aigateway/limits", {"limits": {"concurrency": None}})
    assert Limit.objects.count() == 0


def test_an_agent_cannot_allow_what_owners_or_staff_withhold(
    agent: Any, key: GatewayKey, workspace: Workspace, offered: None
) -> None:
    for scope in (Limit.Scope.ORGANIZATION, Limit.Scope.STAFF):
        Limit.objects.create(
            organization=workspace.organization,
            scope=scope,
            scope_id=workspace.organization_id,
            allowed_models=["gpt-4o", scope.lower()],
        )
    for scope in ("key", "deployment", "workspace"):
        answer = confine(agent, "gpt-4o", "claude-opus-4.5", scope=scope).json()
        assert answer["organization"]["models"] == ["gpt-4o"]
        assert answer["effective"]["models"] == ["gpt-4o"]
    assert confine(agent, "gpt-4o", scope="organization").status_code == 400


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gpt-5o", "There is no model `gpt-5o`. Did you mean gpt-4o?"),
        ("claude-sonet-4.5", "Did you mean claude-sonnet-4.5 or claude-sonnet-4-5"),
        ("GPT-4o", "Did you mean gpt-4o?"),
        (
            "mistral",
            "The models are claude-opus-4.5, claude-sonnet-4-5, claude-sonnet-4.5, gpt-4o.",
        ),
    ],
)
def test_a_name_that_no_model_has_is_answered_with_those_like_it(
    name: str, problem: str, agent: Any, deployment: Deployment, offered: None
) -> None:
    answer = confine(agent, "gpt-4o", name)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "limits.models"
    assert problem in answer.json()["error"]["message"]
    assert Limit.objects.count() == 0


def test_a_list_can_be_sent_again_when_one_of_its_models_is_gone(
    agent: Any, key: GatewayKey, offered: None
) -> None:
    confine(agent, "gpt-4o", "claude-opus-4.5")
    ModelRoute.objects.filter(public_name="claude-opus-4.5").update(is_active=False)
    set_now = agent("aigateway/limits").json()["deployment"]["models"]
    assert set_now == ["claude-opus-4.5", "gpt-4o"]
    answer = confine(agent, *set_now).json()
    assert answer["deployment"]["models"] == set_now
    assert answer["effective"]["models"] == ["gpt-4o"]
    assert confine(agent, "claude-opus-4.5", scope="workspace").status_code == 400


def test_outsiders_neither_see_nor_set_models(
    outsider_agent: Any,
    agent: Any,
    key: GatewayKey,
    other_workspace: Workspace,
    offered: None,
) -> None:
    confine(agent, "gpt-4o")
    factories.make_deployment(workspace=other_workspace)
    assert len(outsider_agent("aigateway/info").json()["models"]) == 3
    body = {"deployId": key.deployment.deploy_id, "limits": {"models": None}}
    assert outsider_agent("aigateway/limits", body).status_code == 404
    assert Limit.objects.get().allowed_models == ["gpt-4o"]
