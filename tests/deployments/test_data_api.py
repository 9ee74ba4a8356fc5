"""The data API's deployment calls as agents make them."""

import json
from io import BytesIO
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.test import Client
from django.utils import timezone

from deployments import deploying, environment, logs, releases, storage
from deployments import serializers as wire
from deployments.api import GetDeployment
from deployments.data_urls import CLIENT_CALLS, OWN_CALLS
from deployments.models import Deployment, Release, Upload
from orgs.models import Workspace
from tests import factories
from tests.deployments.zips import function_site, static_site

NO_DEPLOYMENT = {
    "error": {
        "code": "deployment_not_found",
        "message": "No deployment found. Deploy your app first, then provision a key.",
    }
}
# Calls that name a deployment, with what else their body needs.
NAMING = {
    "aws/deploy": {},
    "aws/delete-site": {},
    "aws/get-logs": {},
    "deployments/deploy": {},
    "deployments/delete-site": {},
    "deployments/get-logs": {},
    "deployments/update-env": {"environment": {"A": "1"}},
    "deployments/get-env": {},
    "deployments/redeploy": {},
    "deployments/rollback": {},
    "deployments/releases": {},
}
# Calls that answer an outsider otherwise than with 404.
NOT_NAMING = {"get-upload-url", "get-deployment", "list"}


def send(bundle: bytes, upload_url: str) -> None:
    """What PUT does, without HTTP; test_uploads.py does it with."""
    upload = deploying.expect_upload(upload_url.rpartition("/")[2])
    with storage.Incoming() as incoming:
        incoming.write(bundle)
        deploying.receive(upload, incoming.keep(), at=timezone.now())


def deploy(agent: Any, bundle: bytes, **body: str) -> dict[str, Any]:
    """The deploy client's three steps; the last answer."""
    issued = agent("aws/get-upload-url", body).json()
    send(bundle, issued["uploadUrl"])
    answer = agent("aws/deploy", {"deployId": issued["deployId"]})
    assert answer.status_code == 200, answer.content
    result: dict[str, Any] = answer.json()
    return result


def fields_of(serializer: type) -> set[str]:
    return set(serializer().fields)


@pytest.mark.parametrize("root", ["aws", "deployments"])
def test_the_deploy_clients_calls_work_under_both_roots(root: str, agent: Any) -> None:
    assert agent(f"{root}/get-deployment", {}).json() == {"exists": False}
    issued = agent(f"{root}/get-upload-url", {}).json()
    assert set(issued) == fields_of(wire.UploadUrlAnswer)
    deploy_id = issued["deployId"]
    assert deploy_id.startswith("main-")
    send(static_site(), issued["uploadUrl"])
    deployed = agent(f"{root}/deploy", {"deployId": deploy_id}).json()
    assert set(deployed) == fields_of(wire.DeployAnswer)
    assert (deployed["status"], deployed["mode"]) == ("deployed", "static")
    assert deployed["url"] == f"http://{deploy_id}.localhost:8000"
    found = agent(f"{root}/get-deployment", {}).json()
    assert set(found) == fields_of(wire.DeploymentAnswer) - {"failure"}
    assert found["exists"] is True
    assert (found["deployId"], found["url"]) == (deploy_id, deployed["url"])
    assert (found["status"], found["mode"]) == ("deployed", "static")
    assert found["deployedAt"]
    assert "static" in agent(f"{root}/get-logs", {"minutes": 5}).json()["message"]
    assert agent(f"{root}/delete-site", {}).json() == {"message": f"Deleted {deploy_id}."}
    assert agent(f"{root}/get-deployment", {}).json() == {"exists": False}


def test_several_sites_live_side_by_side_by_prefix(agent: Any) -> None:
    shop = deploy(agent, static_site("shop"), id="shop")
    blog = deploy(agent, static_site("blog"), id="blog")
    assert deploy(agent, static_site("again"), id="shop")["deployId"] == shop["deployId"]
    assert agent("aws/get-deployment", {"id": "blog"}).json()["url"] == blog["url"]
    assert agent("aws/get-deployment", {"id": blog["deployId"]}).json()["isDefault"] is False
    listed = agent("deployments/list").json()["deployments"]
    assert [one["prefix"] for one in listed] == ["blog", "shop"]


def test_an_empty_body_without_content_means_the_default(agent: Any, workspace: Workspace) -> None:
    deployment = factories.make_deployment(workspace=workspace)
    assert agent("aws/get-deployment").json()["deployId"] == deployment.deploy_id
    assert agent("aws/get-deployment", {"id": None}).json()["deployId"] == deployment.deploy_id


def test_a_body_sent_in_chunks_is_read(token: str, workspace: Workspace) -> None:
    """Without Content-Length DRF would see no body, and the default site would be meant."""
    factories.make_deployment(workspace=workspace)
    other = factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    body = json.dumps({"id": "other"}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/data/aws/get-deployment",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {token}".encode()),
            (b"transfer-encoding", b"chunked"),
        ],
    }
    answer = GetDeployment.as_view()(ASGIRequest(scope, BytesIO(body)))
    assert answer.data["deployId"] == other.deploy_id


@pytest.mark.parametrize("path", sorted(NAMING))
def test_without_a_deployment_the_answer_says_deploy_first(path: str, agent: Any) -> None:
    answer = agent(path, NAMING[path])
    assert (answer.status_code, answer.json()) == (404, NO_DEPLOYMENT)


@pytest.mark.parametrize("path", sorted(NAMING))
def test_a_foreign_deployment_is_no_deployment(
    path: str, outsider_agent: Any, workspace: Workspace, other_workspace: Workspace
) -> None:
    foreign = factories.make_deployment(workspace=workspace, prefix="shop")
    factories.make_deployment(workspace=other_workspace, prefix="own")
    for name in (foreign.deploy_id, "shop"):
        answer = outsider_agent(path, {**NAMING[path], "deployId": name})
        assert (answer.status_code, answer.json()) == (404, NO_DEPLOYMENT)
    foreign.refresh_from_db()
    assert foreign.deleted_at is None


def test_every_call_has_an_outsider_case() -> None:
    calls = {f"{root}/{name}" for root in ("aws", "deployments") for name in CLIENT_CALLS}
    calls |= {f"deployments/{name}" for name in OWN_CALLS}
    assert {path for path in calls if path.split("/")[1] not in NOT_NAMING} == set(NAMING)


def test_outsiders_see_and_upload_to_their_own_only(
    outsider_agent: Any, workspace: Workspace
) -> None:
    foreign = factories.make_deployment(workspace=workspace, prefix="shop")
    assert outsider_agent("deployments/list").json() == {"deployments": []}
    for name in (foreign.deploy_id, "shop"):
        assert outsider_agent("aws/get-deployment", {"id": name}).json() == {"exists": False}
    refused = outsider_agent("aws/get-upload-url", {"id": foreign.deploy_id})
    assert (refused.status_code, refused.json()) == (404, NO_DEPLOYMENT)
    own = outsider_agent("aws/get-upload-url", {"id": "shop"}).json()
    assert own["deployId"] != foreign.deploy_id


@pytest.mark.parametrize("path", sorted([*NAMING, "deployments/list", "aws/get-upload-url"]))
def test_a_bad_token_is_refused(path: str, db: None) -> None:
    for headers in ({}, {"Authorization": "Bearer wst_wrong"}):
        answer = Client().post(f"/api/data/{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("aws/get-upload-url", {"id": "Not A Label"}, "id"),
        ("aws/get-upload-url", {"id": ""}, "id"),
        ("aws/get-upload-url", {"id": ["x"]}, "id"),
        ("aws/get-upload-url", {"id": "x" * 64}, "id"),
        ("aws/deploy", {"deployId": {}}, "deployId"),
        ("aws/deploy", {"deployId": "a", "id": "b"}, "deployId"),
        ("aws/deploy", {"deployId": "a\0"}, "deployId"),
        ("aws/get-logs", {"minutes": 0}, "minutes"),
        ("aws/get-logs", {"minutes": 481}, "minutes"),
        ("aws/get-logs", {"minutes": "many"}, "minutes"),
        ("aws/delete-site", {"deployID": "typo"}, "deployID"),
        ("deployments/update-env", {}, "environment"),
        ("deployments/update-env", {"environment": []}, "environment"),
        ("deployments/update-env", {"environment": {"A": {}}}, "environment.A"),
        ("deployments/update-env", {"environment": {"1A": "x"}}, "environment.1A"),
        ("deployments/update-env", {"environment": {"_HANDLER": "x"}}, "environment._HANDLER"),
        ("deployments/update-env", {"environment": {"A": "x" * 40_000}}, "environment.A"),
        ("deployments/update-env", {"environment": {"A": "\ud800"}}, "environment.A"),
        (
            "deployments/update-env",
            {"environment": {f"A{number}": "" for number in range(201)}},
            "environment",
        ),
        ("deployments/update-env", {"environment": {}, "redeploy": "later"}, "redeploy"),
        ("deployments/update-env", {"environment": {}, "redeploi": True}, "redeploi"),
        ("deployments/rollback", {"releaseId": []}, "releaseId"),
    ],
)
def test_bad_bodies_are_refused_naming_the_field(
    path: str, body: dict[str, Any], field: str, agent: Any, workspace: Workspace
) -> None:
    factories.make_deployment(workspace=workspace)
    answer = agent(path, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["field"] == field
    assert error["message"].startswith(field)


@pytest.mark.parametrize("body", ["[]", "{", '"text"', "[" * 5000])
def test_bodies_that_are_no_object_are_refused(body: str, token: str) -> None:
    answer = Client().post(
        "/api/data/aws/deploy",
        data=body,
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_deploy_without_an_upload_says_what_to_do(agent: Any) -> None:
    deploy_id = agent("aws/get-upload-url", {}).json()["deployId"]
    answer = agent("aws/deploy", {"deployId": deploy_id})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "nothing_to_deploy"
    assert "get-upload-url" in answer.json()["error"]["message"]


def test_a_bad_bundle_is_refused_and_the_old_one_keeps_serving(agent: Any) -> None:
    live = deploy(agent, static_site())
    send(b"junk", agent("aws/get-upload-url", {}).json()["uploadUrl"])
    for _ in range(2):
        answer = agent("aws/deploy", {"deployId": live["deployId"]})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_bundle"
    found = agent("aws/get-deployment", {}).json()
    assert (found["status"], found["releaseId"]) == ("deployed", live["releaseId"])
    assert "not a readable zip" in found["failure"]
    listed = agent("deployments/releases").json()["releases"]
    assert [one["status"] for one in listed] == ["failed", "active"]
    assert set(listed[0]) == fields_of(wire.ReleaseAnswer)


def test_a_first_deploy_that_failed_is_seen_as_failed(agent: Any) -> None:
    issued = agent("aws/get-upload-url", {}).json()
    assert agent("aws/get-deployment", {}).json()["status"] == "empty"
    assert agent("aws/get-logs", {}).json() == {"message": "Nothing is deployed here yet."}
    send(b"junk", issued["uploadUrl"])
    agent("aws/deploy", {})
    assert agent("aws/get-deployment", {}).json()["status"] == "failed"
    assert "the last deploy failed" in agent("aws/get-logs", {}).json()["message"]


def test_logs_are_answered_oldest_first(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = deploy(agent, function_site())
    assert agent("aws/get-logs", {"minutes": 480}).json()["entries"] == []
    deployment = Deployment.objects.get()
    lines = [
        logs.LogLine(deployment.pk, "default", f"req-{number}", f"line {number}", timezone.now())
        for number in range(3)
    ]
    logs.append_many(lines)
    answer = agent("aws/get-logs", {"minutes": 1}).json()
    assert set(answer) == fields_of(wire.LogsAnswer) - {"message"}
    assert (answer["deployId"], answer["mode"]) == (deployed["deployId"], "ssr")
    assert (answer["functionName"], answer["hasMore"]) == ("default", False)
    assert [entry["message"] for entry in answer["entries"]] == ["line 0", "line 1", "line 2"]
    assert set(answer["entries"][0]) == fields_of(wire.LogEntryAnswer)
    monkeypatch.setattr("deployments.api.LOG_ENTRIES_MAX", 2)
    answer = agent("aws/get-logs", {}).json()
    assert answer["hasMore"] is True
    assert [entry["message"] for entry in answer["entries"]] == ["line 1", "line 2"]


@pytest.mark.parametrize("root", ["aws", "deployments"])
def test_logs_of_one_request_or_function(
    agent: Any, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    deploy(agent, function_site())
    deployment = Deployment.objects.get()
    logs.append_many(
        [
            logs.LogLine(deployment.pk, "default", request, f"{request} {number}", timezone.now())
            for number in range(2)
            for request in ("r1", "r2")
        ]
    )

    def asked(**only: str) -> tuple[list[str], bool]:
        answer = agent(f"{root}/get-logs", only).json()
        return [entry["message"] for entry in answer["entries"]], answer["hasMore"]

    monkeypatch.setattr("deployments.api.LOG_ENTRIES_MAX", 2)
    # Two of two are all, although the log has more lines.
    assert asked(requestId="r1") == (["r1 0", "r1 1"], False)
    assert asked(functionName="default") == (["r1 1", "r2 1"], True)
    assert asked(requestId="r1", functionName="other") == ([], False)


def test_update_env_merges_and_answers_names(agent: Any, workspace: Workspace) -> None:
    deployment = factories.make_deployment(workspace=workspace)
    answer = agent("deployments/update-env", {"environment": {"B": " spaced ", "A": "1"}})
    assert answer.json() == {
        "deployId": deployment.deploy_id,
        "environment": ["A", "B"],
        "appliesOn": "next deploy",
    }
    answer = agent("deployments/update-env", {"environment": {"A": None}})
    assert answer.json()["environment"] == ["B"]
    assert environment.final_environment(deployment, {})["B"] == " spaced "


def test_update_env_works_before_the_first_deploy(agent: Any) -> None:
    agent("aws/get-upload-url", {})
    assert agent("deployments/update-env", {"environment": {"A": "1"}}).status_code == 200
    answer = agent("deployments/update-env", {"environment": {"B": "2"}, "redeploy": True})
    assert (answer.status_code, answer.json()) == (404, NO_DEPLOYMENT)
    assert environment.names(Deployment.objects.get()) == ["A"]


def test_get_env_masks_values_and_tells_sources(agent: Any) -> None:
    deploy(agent, static_site(**{".env.production": "C=bundle\n"}))
    deployment = Deployment.objects.get()
    environment.inject(deployment, {"OPENAI_API_KEY": "aig_gateway_secret", "A": "gateway"})
    environment.update(deployment, {"A": "short"})
    answer = agent("deployments/get-env").json()
    assert answer == {
        "deployId": deployment.deploy_id,
        "environment": {"A": "••••", "OPENAI_API_KEY": "ai…"},
        "sources": {"A": "user", "OPENAI_API_KEY": "gateway"},
        "bundle": ["C"],
    }


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("deployments/update-env", {"environment": {"A": "1"}, "redeploy": True}, 200),
        ("deployments/redeploy", {}, 202),
    ],
)
def test_a_redeploy_is_answered_with_its_release_and_queued(
    path: str,
    body: dict[str, Any],
    status: int,
    agent: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    live = deploy(agent, static_site())
    with django_capture_on_commit_callbacks(execute=True) as queued:
        answer = agent(path, body)
    assert answer.status_code == status
    release = Release.objects.get(public_id=answer.json()["releaseId"])
    assert release.status == Release.Status.PENDING
    assert len(queued) == 1
    assert agent("aws/get-deployment", {}).json()["releaseId"] == live["releaseId"]
    releases.publish(release, at=timezone.now())
    assert agent("aws/get-deployment", {}).json()["releaseId"] == release.public_id


def test_rollback_goes_to_the_release_before_or_the_one_named(agent: Any) -> None:
    first, second = (deploy(agent, static_site(page)) for page in "ab")
    answer = agent("deployments/rollback", {}).json()
    assert (answer["releaseId"], answer["status"]) == (first["releaseId"], "deployed")
    refused = agent("deployments/rollback", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "rollback_not_possible")
    answer = agent("deployments/rollback", {"releaseId": second["releaseId"]}).json()
    assert answer["releaseId"] == second["releaseId"]
    missing = agent("deployments/rollback", {"releaseId": "rel_unknown"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "release_not_found")


@pytest.mark.parametrize(
    ("path", "body", "made"),
    [
        ("deployments/update-env", {"environment": {"A": "1"}, "redeploy": True}, 1),
        ("deployments/redeploy", {}, 1),
        ("deployments/rollback", {}, 0),
    ],
)
def test_what_is_repeated_with_its_idempotency_key_happens_once(
    path: str, body: dict[str, Any], made: int, agent: Any
) -> None:
    for page in "abc":
        deploy(agent, static_site(page))
    key = {"Idempotency-Key": "order-1"}
    first, again = (agent(path, body, **key) for _ in range(2))
    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert Release.objects.count() == 3 + made
    other = agent(path, {**body, "id": "app"}, **key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert agent(path, body, **{"Idempotency-Key": "order-2"}).content != first.content


def test_another_deployments_release_cannot_be_rolled_back_to(
    outsider_agent: Any, workspace: Workspace, other_workspace: Workspace
) -> None:
    foreign = factories.make_deployment(workspace=workspace).active_release
    assert foreign is not None
    factories.make_deployment(workspace=other_workspace)
    answer = outsider_agent("deployments/rollback", {"releaseId": foreign.public_id})
    assert answer.status_code == 404


def test_other_methods_are_refused_without_cross_origin_headers(agent: Any, token: str) -> None:
    for method in ("get", "put", "options"):
        answer = getattr(Client(), method)(
            "/api/data/aws/deploy",
            headers={"Authorization": f"Bearer {token}", "Origin": "https://evil.example"},
        )
        assert not any(name.lower().startswith("access-control") for name in answer.headers)
    assert Client().get("/api/data/aws/deploy").status_code in {401, 405}


def test_each_upload_url_is_new(agent: Any) -> None:
    urls = {agent("aws/get-upload-url", {}).json()["uploadUrl"] for _ in range(3)}
    assert len(urls) == 3
    assert Upload.objects.count() == 3
    assert Deployment.objects.count() == 1
