"""What every data API call shares: who may call, how bodies are read, how refusals look."""

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.exceptions import ErrorDetail, ValidationError

from orgs import tokens
from orgs.errors import DataApiError, data_api_exception_handler
from orgs.models import Workspace, WorkspaceToken
from tests import factories

PATH = "/api/data/aigateway/info"


def post(authorization: str | None, body: Any = b"", **headers: str) -> Any:
    if authorization is not None:
        headers["Authorization"] = authorization
    return Client().post(PATH, data=body, content_type="application/json", headers=headers)


def error_of(response: Any) -> dict[str, Any]:
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert error["message"]
    return error


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi", "wst_x"])
def test_without_a_token_the_answer_says_how_to_send_one(
    authorization: str | None, db: None
) -> None:
    response = post(authorization)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert error_of(response)["code"] == "missing_token"
    assert "Authorization: Bearer wst_" in error_of(response)["message"]


def test_malformed_unknown_expired_and_revoked_tokens_get_the_same_answer(
    workspace: Workspace,
) -> None:
    revoked, revoked_secret = tokens.issue(workspace, name="revoked")
    tokens.revoke(revoked, at=timezone.now())
    expired, expired_secret = tokens.issue(workspace, name="expired")
    WorkspaceToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    secrets = ["nonsense", "wst_" + "a" * 43, revoked_secret, expired_secret, "wst_é\x7f"]
    answers = [post(f"Bearer {secret}") for secret in secrets]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert error_of(answers[0])["code"] == "invalid_token"
    for secret in secrets:
        assert secret.encode() not in answers[0].content


def test_the_scheme_may_be_written_in_any_case_and_with_spaces(
    workspace: Workspace,
) -> None:
    factories.make_deployment(workspace=workspace)
    secret = factories.make_token(workspace=workspace)
    for authorization in (f"bearer {secret}", f"BEARER   {secret} "):
        assert post(authorization).status_code == 200


def test_a_log_in_session_is_no_token(owner_client: Client) -> None:
    response = owner_client.post(PATH, data="{}", content_type="application/json")
    assert response.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"{'deployId': 1}",
        b'{"deployId": NaN}',
        b"\xff\xfe",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"deployId": ' + b"1" * 5_000 + b"}",
    ],
)
def test_a_body_that_is_no_json_is_the_callers_error(body: bytes, token: str) -> None:
    response = post(f"Bearer {token}", body)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"


@pytest.mark.parametrize("body", ["[]", "[1]", '"text"', "5", "0", "false"])
def test_json_that_is_no_object_is_refused(body: str, token: str) -> None:
    response = post(f"Bearer {token}", body)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_request"
    assert "dictionary" in error_of(response)["message"]


@pytest.mark.parametrize("value", [[], {}, True, "", "x" * 64, "a\x00b"])
def test_a_wrong_field_is_named(value: Any, token: str) -> None:
    response = post(f"Bearer {token}", json.dumps({"deployId": value}))
    assert response.status_code == 400
    error = error_of(response)
    assert error["field"] == "deployId"
    assert error["message"].startswith("deployId: ")


def test_half_a_character_is_refused_before_the_database_sees_it(token: str) -> None:
    response = post(f"Bearer {token}", b'{"deployId": "\\ud800"}')
    assert response.status_code == 400
    assert error_of(response)["field"] == "deployId"


def test_an_empty_body_needs_no_content_type(workspace: Workspace, token: str) -> None:
    factories.make_deployment(workspace=workspace)
    response = Client().generic(
        "POST", PATH, b"", content_type="", headers={"Authorization": f"Bearer {token}"}
    )
    assert response.status_code == 200


def test_a_form_is_refused_with_the_reason(token: str) -> None:
    response = Client().post(PATH, {"deployId": "x"}, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused_in_the_same_shape(method: str, token: str) -> None:
    response = Client().generic(method, PATH, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 405
    assert response["Allow"]
    assert error_of(response)["code"] == "method_not_allowed"
    assert "POST" in error_of(response)["message"]


def test_the_schema_says_which_bodies_and_headers_are_refused(db: None) -> None:
    headers = {"accept": "application/vnd.oai.openapi+json"}
    schema = Client().get("/api/data/schema", headers=headers).json()
    bodies = schema["components"]["schemas"]
    for name in ("KeyTargetRequest", "RotateRequest", "LimitsRequest", "ExactTargetRequest"):
        assert bodies[name]["additionalProperties"] is False, name
        assert bodies[name]["properties"]["deployId"]["minLength"] == 1, name
    assert "additionalProperties" not in bodies["TargetRequest"]
    for path, is_required in (("billing/top-up", True), ("aigateway/rotate", False)):
        (header,) = schema["paths"][f"/api/data/{path}"]["post"]["parameters"]
        assert header["name"] == "Idempotency-Key"
        assert header.get("required", False) is is_required


def test_the_schema_says_of_every_call_how_it_refuses(db: None) -> None:
    headers = {"accept": "application/vnd.oai.openapi+json"}
    schema = Client().get("/api/data/schema", headers=headers).json()
    error = schema["components"]["schemas"]["Refusal"]["properties"]["error"]
    assert set(error["properties"]) == {"code", "message", "field"}
    for path, calls in schema["paths"].items():
        for status in ("400", "401", "404", "default"):
            content = calls["post"]["responses"][status]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Refusal"}, path


def test_no_answer_invites_browsers_of_other_origins(token: str) -> None:
    for method in ("OPTIONS", "POST"):
        response = Client().generic(
            method,
            PATH,
            b"",
            headers={
                "Authorization": f"Bearer {token}",
                "Origin": "https://evil.example",
                "Access-Control-Request-Method": "POST",
            },
        )
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


def test_a_body_sent_as_a_form_is_refused_with_the_header_to_send(workspace: Workspace) -> None:
    _, token = tokens.issue(workspace, name="agent")
    response = Client().post(
        PATH,
        data=b'{"deployId": "app-0123456789"}',
        content_type="application/x-www-form-urlencoded",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert response.status_code == 415
    assert "Content-Type: application/json" in error_of(response)["message"]


def test_the_first_problem_is_named_wherever_it_is() -> None:
    nested = ValidationError({"files": [{}, {"name": [ErrorDetail("Too long.")]}]})
    response = data_api_exception_handler(nested, {})
    assert response is not None
    assert response.data["error"]["message"] == "files.name: Too long."


def test_a_refusal_keeps_its_own_code_and_status() -> None:
    response = data_api_exception_handler(DataApiError("gone", "It is gone.", status_code=410), {})
    assert response is not None
    assert (response.status_code, response.data) == (
        410,
        {"error": {"code": "gone", "message": "It is gone."}},
    )


def test_a_bug_is_not_dressed_up_as_a_refusal() -> None:
    assert data_api_exception_handler(ZeroDivisionError(), {}) is None
