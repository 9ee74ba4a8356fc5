"""Provisioning through the data API: one key per deployment, whoever asks and however often."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from billing import usage
from billing.models import UsageRecord
from billing.pricing import Usage
from deployments import environment
from deployments.directory import DeploymentNotFound
from deployments.models import Deployment, EnvironmentVariable
from gateway import keys, provisioning
from gateway.models import GatewayKey
from orgs.models import IdempotentRequest, Workspace
from tests import factories

CALLS = ("provision", "info", "revoke", "rotate", "usage", "calls")


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def injected(deployment: Deployment) -> dict[str, str]:
    """What the gateway put into the environment of the next deploy."""
    values = environment.final_environment(deployment, {})
    return {name: values[name] for name in provisioning.VARIABLES if name in values}


def test_provisioning_twice_answers_the_same_key(agent: Any, deployment: Deployment) -> None:
    factories.make_route(public_name="gpt-4o", provider="openai")
    first = agent("aigateway/provision", {})
    assert first.status_code == 200
    assert first["Cache-Control"] == "no-store"
    body = first.json()
    assert keys.deploy_id_of(body["apiKey"]) == deployment.deploy_id == body["deployId"]
    assert body["isNew"] is True
    assert body["baseUrl"].endswith("/api/ai")
    assert body["models"] == ["gpt-4o"]
    assert body["warnings"] == []
    again = agent("aigateway/provision", {"deployId": deployment.deploy_id}).json()
    assert again == {**body, "isNew": False}
    assert GatewayKey.objects.count() == 1


def test_the_key_and_the_url_are_injected_for_the_next_deploy(
    agent: Any, deployment: Deployment
) -> None:
    body = agent("aigateway/provision").json()
    assert injected(deployment) == {
        "OPENAI_API_KEY": body["apiKey"],
        "OPENAI_BASE_URL": f"{body['baseUrl']}/v1",
    }
    assert body["environment"] == ["OPENAI_API_KEY", "OPENAI_BASE_URL"]


def test_a_value_the_user_set_wins_and_the_answer_warns(agent: Any, deployment: Deployment) -> None:
    environment.update(deployment, {"OPENAI_API_KEY": "sk-my-own-key"})
    body = agent("aigateway/provision").json()
    assert injected(deployment)["OPENAI_API_KEY"] == "sk-my-own-key"
    assert body["environment"] == ["OPENAI_BASE_URL"]
    assert len(body["warnings"]) == 1
    assert "OPENAI_API_KEY" in body["warnings"][0]
    assert "sk-my-own-key" not in str(body["warnings"])
    environment.update(deployment, {"OPENAI_API_KEY": None})
    assert agent("aigateway/provision").json()["warnings"] == []


def test_info_tells_everything_but_the_secret_and_creates_nothing(
    agent: Any, deployment: Deployment
) -> None:
    before = agent("aigateway/info").json()
    assert before["exists"] is False
    assert GatewayKey.objects.count() == 0
    text = agent("aigateway/provision").json()["apiKey"]
    answer = agent("aigateway/info")
    body = answer.json()
    assert body["exists"] is True
    assert text.startswith(body["keyPrefix"])
    assert text.removeprefix(body["keyPrefix"]) not in answer.content.decode()
    assert body["createdAt"]
    assert body["lastUsedAt"] is None
    assert body["baseUrl"].endswith("/api/ai")


def test_after_a_revocation_provisioning_makes_another_key(
    agent: Any, deployment: Deployment
) -> None:
    old = agent("aigateway/provision").json()["apiKey"]
    answer = agent("aigateway/revoke").json()
    assert answer == {"deployId": deployment.deploy_id, "revoked": True}
    assert injected(deployment) == {}
    assert agent("aigateway/info").json()["exists"] is False
    assert agent("aigateway/revoke").status_code == 200
    new = agent("aigateway/provision").json()
    assert new["isNew"] is True
    assert new["apiKey"] != old
    assert injected(deployment)["OPENAI_API_KEY"] == new["apiKey"]


def test_revoking_leaves_alone_what_the_user_set(agent: Any, deployment: Deployment) -> None:
    environment.update(deployment, {"OPENAI_BASE_URL": "https://elsewhere.example/v1"})
    agent("aigateway/provision")
    agent("aigateway/revoke")
    assert injected(deployment) == {"OPENAI_BASE_URL": "https://elsewhere.example/v1"}


def test_rotation_with_grace_keeps_the_old_key_until_then(
    agent: Any, deployment: Deployment
) -> None:
    old = agent("aigateway/provision").json()["apiKey"]
    before = timezone.now()
    new = agent("aigateway/rotate", {"graceSeconds": 3600}).json()
    assert new["isNew"] is True
    assert new["apiKey"] != old
    assert injected(deployment)["OPENAI_API_KEY"] == new["apiKey"]
    graced = GatewayKey.objects.get(expires_at__isnull=False)
    assert graced.expires_at is not None
    assert timedelta(seconds=3599) < graced.expires_at - before < timedelta(seconds=3660)
    assert agent("aigateway/provision").json()["apiKey"] == new["apiKey"]


def test_a_rotation_that_is_repeated_with_its_idempotency_key_is_one(
    agent: Any, deployment: Deployment
) -> None:
    agent("aigateway/provision")
    key = {"Idempotency-Key": "rotate-1"}
    first, again = (agent("aigateway/rotate", {}, **key) for _ in range(2))
    assert again.json() == first.json()
    assert (again["Idempotent-Replayed"], again["Cache-Control"]) == ("true", "no-store")
    assert GatewayKey.objects.count() == 2
    other = agent("aigateway/rotate", {"graceSeconds": 60}, **key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    agent("aigateway/rotate")
    assert GatewayKey.objects.count() == 3
    stored = IdempotentRequest.objects.get()
    assert first.json()["apiKey"] not in stored.answer_sealed


def test_rotating_a_deployment_without_a_key_makes_its_first(
    agent: Any, deployment: Deployment
) -> None:
    assert agent("aigateway/rotate").json()["isNew"] is True
    assert GatewayKey.objects.count() == 1


@pytest.mark.parametrize("value", [-1, 7 * 24 * 3600 + 1, "soon", None, [], True, 1.5])
def test_a_senseless_grace_is_refused_by_name(
    value: Any, agent: Any, deployment: Deployment
) -> None:
    answer = agent("aigateway/rotate", {"graceSeconds": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "graceSeconds"
    assert GatewayKey.objects.count() == 0


@pytest.mark.parametrize("call", CALLS)
def test_without_a_deployment_the_answer_says_to_deploy_first(
    call: str, agent: Any, workspace: Workspace
) -> None:
    answer = agent(f"aigateway/{call}", {"deployId": "nowhere"})
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "code": "deployment_not_found",
            "message": "No deployment found. Deploy your app first, then provision a key.",
        }
    }


@pytest.mark.parametrize("call", CALLS)
def test_a_foreign_deployment_looks_like_none(
    call: str, outsider_agent: Any, deployment: Deployment
) -> None:
    foreign = outsider_agent(f"aigateway/{call}", {"deployId": deployment.deploy_id})
    missing = outsider_agent(f"aigateway/{call}", {"deployId": "nowhere"})
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content == missing.content
    assert GatewayKey.objects.count() == 0


def test_a_deployment_is_named_as_in_the_calls_of_deployments(
    agent: Any, workspace: Workspace, deployment: Deployment
) -> None:
    second = factories.make_deployment(workspace=workspace, prefix="second", is_default=False)
    for name in ({"id": "second"}, {"id": second.deploy_id}, {"deployId": "second"}):
        assert agent("aigateway/provision", name).json()["deployId"] == second.deploy_id
        assert agent("aigateway/info", name).json()["exists"] is True
    assert not GatewayKey.objects.filter(deployment=deployment).exists()
    nothing = {"id": None, "deployId": None}
    assert agent("aigateway/info", nothing).json()["deployId"] == deployment.deploy_id


@pytest.mark.parametrize("call", [*CALLS, "limits"])
def test_a_misspelt_name_does_not_mean_the_default(
    agent: Any, deployment: Deployment, call: str
) -> None:
    """An agent that mistypes must not revoke the key of another app."""
    key = agent("aigateway/provision").json()["apiKey"]
    answer = agent(f"aigateway/{call}", {"deployID": "second-0123456789"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["field"] == "deployID"
    assert "deployId" in error["message"]
    assert agent("aigateway/provision").json()["apiKey"] == key


@pytest.mark.parametrize(
    ("call", "body", "offered"),
    [
        ("usage", {"groupBy": "week"}, "day, model, deployment"),
        ("calls", {"status": "DONE"}, "FINISHED"),
        ("limits", {"scope": "team"}, "key, deployment, workspace"),
    ],
)
def test_a_choice_there_is_not_is_refused_with_those_there_are(
    agent: Any, deployment: Deployment, call: str, body: dict[str, str], offered: str
) -> None:
    answer = agent(f"aigateway/{call}", body)
    assert answer.status_code == 400
    assert offered in answer.json()["error"]["message"]


@pytest.mark.parametrize("state", ["deleted", "never deployed"])
def test_a_deployment_that_is_not_there_gets_no_key(
    state: str, agent: Any, deployment: Deployment
) -> None:
    now = timezone.now()
    if state == "deleted":
        Deployment.objects.update(deleted_at=now, is_default=False)
    else:
        Deployment.objects.update(deployed_at=None)
    assert agent("aigateway/provision").status_code == 404
    assert agent("aigateway/rotate").status_code == 404
    assert GatewayKey.objects.count() == 0


def test_a_deployment_deleted_in_the_last_moment_gets_no_key(
    deployment: Deployment, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = provisioning.directory.require_deployed(workspace)
    Deployment.objects.update(deleted_at=timezone.now())
    monkeypatch.setattr(provisioning.directory, "require_deployed", lambda *_: found)
    for change in (provisioning.provision, provisioning.rotate, provisioning.revoke):
        with pytest.raises(DeploymentNotFound):
            change(workspace, at=timezone.now())
    assert GatewayKey.objects.count() == 0


def test_a_key_that_cannot_be_read_any_more_is_replaced_by_rotating(
    agent: Any, deployment: Deployment, settings: Any
) -> None:
    agent("aigateway/provision")
    settings.VAULT_KEY = "another key"
    answer = agent("aigateway/provision")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "key_unreadable"
    assert "rotate" in answer.json()["error"]["message"]
    text = agent("aigateway/rotate").json()["apiKey"]
    assert agent("aigateway/provision").json()["apiKey"] == text


def test_the_key_does_not_show_when_the_result_is_printed(
    deployment: Deployment, workspace: Workspace
) -> None:
    made = provisioning.provision(workspace, at=timezone.now())
    assert made.secret not in repr(made)


# --- at the same time -------------------------------------------------------------------------


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returned or raised, run in threads with connections of their own."""
    results: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(index: int, call: Callable[[], Any]) -> None:
        try:
            start.wait(timeout=5)
            results[index] = call()
        except Exception as error:
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


@pytest.fixture
def shared(transactional_db: None) -> Deployment:
    return factories.make_deployment(workspace=factories.make_workspace())


def test_provisioning_from_many_sides_gives_one_key(shared: Deployment) -> None:
    now = timezone.now()
    made = at_once(*[lambda: provisioning.provision(shared.workspace, at=now)] * 6)
    assert not [one for one in made if isinstance(one, Exception)]
    assert len({one.secret for one in made}) == 1
    assert [one.is_new for one in made].count(True) == 1
    assert injected(shared)["OPENAI_API_KEY"] == made[0].secret


def test_rotating_from_many_sides_gives_one_key_to_the_app(shared: Deployment) -> None:
    now = timezone.now()
    made = at_once(*[lambda: provisioning.rotate(shared.workspace, at=now)] * 4)
    assert not [one for one in made if isinstance(one, Exception)]
    current = keys.current(shared)
    assert current is not None
    assert injected(shared)["OPENAI_API_KEY"] == keys.reveal(current)
    assert GatewayKey.objects.filter(revoked_at=None).count() == 1


@pytest.mark.parametrize("turn", range(3))
def test_key_and_environment_agree_after_revoking_while_provisioning(
    shared: Deployment, turn: int
) -> None:
    now = timezone.now()
    results = at_once(
        lambda: provisioning.provision(shared.workspace, at=now),
        lambda: provisioning.revoke(shared.workspace, at=now),
        lambda: provisioning.provision(shared.workspace, at=now),
    )
    assert not [one for one in results if isinstance(one, Exception)]
    current = keys.current(shared)
    expected = keys.reveal(current) if current else None
    assert injected(shared).get("OPENAI_API_KEY") == expected
    if current is None:
        assert not EnvironmentVariable.objects.exists()


# --- usage ------------------------------------------------------------------------------------


def test_usage_sums_the_workspaces_own_calls(
    agent: Any, outsider_agent: Any, deployment: Deployment, other_workspace: Workspace
) -> None:
    organization = deployment.workspace.organization
    factories.make_credit(organization=organization)
    factories.make_deployment(workspace=other_workspace)
    factories.make_call(
        organization=organization,
        price=factories.make_price(),
        usage=Usage(input=100, output=50),
        deployment_id=deployment.pk,
        deploy_id=deployment.deploy_id,
    )
    for group in ("day", "model", "deployment"):
        body = outsider_agent("aigateway/usage", {"groupBy": group}).json()
        assert body["total"]["calls"] == 0
        assert body["rows"] == []
        assert agent("aigateway/usage", {"groupBy": group}).json()["groupBy"] == group


def test_rows_of_usage_add_up_to_its_total_while_calls_go_on(
    agent: Any, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization, price = deployment.workspace.organization, factories.make_price()
    factories.make_credit(organization=organization)
    per_model = usage.per_model

    def call() -> None:
        factories.make_call(
            organization=organization,
            price=price,
            usage=Usage(input=100, output=50, reasoning=20),
            workspace_id=deployment.workspace_id,
            deployment_id=deployment.pk,
            deploy_id=deployment.deploy_id,
        )

    def read_and_go_on(*arguments: Any, **named: Any) -> Any:
        found = per_model(*arguments, **named)
        call()
        return found

    call()
    monkeypatch.setattr(usage, "per_model", read_and_go_on)
    body = agent("aigateway/usage", {"groupBy": "model"}).json()
    (row,) = body["rows"]
    assert {name: row[name] for name in body["total"]} == body["total"]
    assert (body["total"]["calls"], body["total"]["reasoningTokens"]) == (1, 20)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"groupBy": "hour"}, "groupBy"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2020-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"to": "0001-01-01T00:00:00Z"}, "to"),
        ({"to": "0001-01-01T00:00:00+14:00"}, "to"),
        ({"to": "9999-12-31T23:59:59-14:00"}, "to"),
        ({"to": 5}, "to"),
    ],
)
def test_a_senseless_period_is_refused_by_name(
    body: dict[str, Any], field: str, agent: Any, deployment: Deployment
) -> None:
    answer = agent("aigateway/usage", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == field


def test_usage_of_a_day_long_past_is_empty_not_wrong(agent: Any, deployment: Deployment) -> None:
    day = datetime(2024, 2, 29, tzinfo=timezone.get_default_timezone())
    body = {"from": day.isoformat(), "to": (day + timedelta(days=1)).isoformat()}
    answer = agent("aigateway/usage", body).json()
    assert answer["rows"] == []
    assert (answer["total"]["costNanos"], answer["total"]["costUsd"]) == (0, "0")


# --- calls --------------------------------------------------------------------------------------


@pytest.fixture
def made(deployment: Deployment) -> list[UsageRecord]:
    """Three calls of the workspace, latest first: one of another model, and one that failed."""
    organization = deployment.workspace.organization
    factories.make_credit(organization=organization)
    price = factories.make_price()
    common: dict[str, Any] = {
        "organization": organization,
        "price": price,
        "workspace_id": deployment.workspace_id,
        "deployment_id": deployment.pk,
        "deploy_id": deployment.deploy_id,
    }
    return [
        factories.make_call(usage=Usage(input=100, output=50), **common),
        factories.make_call(usage=Usage(input=1), model="other", **common),
        factories.make_call(status="UPSTREAM_ERROR", **common),
    ][::-1]


def ids(answer: Any) -> list[str]:
    return [call["requestId"] for call in answer.json()["calls"]]


def test_calls_are_listed_with_the_formula_of_their_cost(
    agent: Any, made: list[UsageRecord]
) -> None:
    answer = agent("aigateway/calls", {})
    assert ids(answer) == [call.request_id for call in made]
    assert answer.json()["older"] is None
    shown = answer.json()["calls"][2]
    assert shown["tokens"] == {"input": 100, "output": 50}
    assert shown["lines"] == [
        "100 input × $0.02 / 1M = $0.000002",
        "50 output × $0.04 / 1M = $0.000002",
    ]
    assert shown["formula"] == "$0.000002 + $0.000002 = $0.000004"
    assert (shown["costNanos"], shown["costUsd"], shown["marginPercent"]) == (
        4000,
        "0.000004",
        "0 %",
    )
    assert (shown["priceVersion"], shown["errorCode"]) == (made[2].price_version_id, None)


def test_calls_come_in_pages_that_new_calls_do_not_shift(
    agent: Any, made: list[UsageRecord]
) -> None:
    first = agent("aigateway/calls", {"limit": 2})
    assert ids(first) == [call.request_id for call in made[:2]]
    rest = agent("aigateway/calls", {"limit": 2, "before": first.json()["older"]})
    assert ids(rest) == [made[2].request_id]
    assert rest.json()["older"] is None


def test_calls_are_found_by_what_they_were(agent: Any, made: list[UsageRecord]) -> None:
    failed, other, _ = made
    assert ids(agent("aigateway/calls", {"status": "UPSTREAM_ERROR"})) == [failed.request_id]
    assert ids(agent("aigateway/calls", {"model": "other"})) == [other.request_id]
    assert ids(agent("aigateway/calls", {"requestId": other.request_id})) == [other.request_id]
    assert ids(agent("aigateway/calls", {"requestId": "req_nobody"})) == []


def test_another_workspaces_calls_are_not_listed(
    agent: Any, outsider_agent: Any, made: list[UsageRecord], deployment: Deployment
) -> None:
    organization = deployment.workspace.organization
    sibling = factories.make_workspace(organization=organization, name="sibling")
    factories.make_call(
        organization=organization,
        price=made[0].price_version,
        usage=Usage(input=1),
        workspace_id=sibling.pk,
    )
    assert len(ids(agent("aigateway/calls", {}))) == 3
    assert ids(outsider_agent("aigateway/calls", {"requestId": made[0].request_id})) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"before": "yesterday"}, "before"),
        ({"status": "BROKEN"}, "status"),
    ],
)
def test_a_senseless_list_is_refused_by_name(
    body: dict[str, Any], field: str, agent: Any, deployment: Deployment
) -> None:
    answer = agent("aigateway/calls", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == field
