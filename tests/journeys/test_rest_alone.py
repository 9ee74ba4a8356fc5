"""An agent without our client: an app on-line, with its key, by plain HTTP calls alone."""

import io
import json
import zipfile

import httpx
import pytest

from tests.journeys.conftest import Platform, wait_for
from tests.journeys.test_deploy_to_first_token import redeployed

FUNCTION = """
export const handler = async () => {
  const { OPENAI_API_KEY: key, OPENAI_BASE_URL: baseUrl, GREETING } = process.env;
  console.log(`Asked, with the greeting ${GREETING}.`);
  if (!key) return { statusCode: 503, body: "no key" };
  const answer = await fetch(`${baseUrl}/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({
      model: "smollm2-135m",
      messages: [{ role: "user", content: GREETING }],
      max_completion_tokens: 8,
    }),
  });
  return { statusCode: answer.status, body: await answer.text() };
};
"""
ROUTES = [{"src": "^/ask$", "dest": "/functions/ask"}, {"handle": "filesystem"}]


def bundle() -> bytes:
    """A page and a function that asks a model, as a zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({"version": 1, "routes": ROUTES}))
        archive.writestr("static/index.html", "<!doctype html><title>Hello</title>Hello")
        archive.writestr("functions/ask.func/index.mjs", FUNCTION)
    return packed.getvalue()


def upload(platform: Platform, prefix: str) -> str:
    """The deployId under which the bundle now waits to be deployed."""
    asked = platform.data_api("deployments/get-upload-url", {"id": prefix})
    assert asked.status_code == 200, asked.text
    sent = httpx.put(
        asked.json()["uploadUrl"],
        content=bundle(),
        headers={"content-type": "application/zip"},
        timeout=30,
    )
    assert sent.is_success, sent.text
    return str(asked.json()["deployId"])


def test_an_app_is_deployed_given_a_key_configured_asked_and_its_log_read(
    platform: Platform,
) -> None:
    deploy_id = upload(platform, "rest")
    deployed = platform.data_api("deployments/deploy", {"deployId": deploy_id}).json()
    assert (deployed["deployId"], deployed["status"]) == (deploy_id, "deployed")
    assert platform.site(deploy_id, "/").text.endswith("Hello")
    assert platform.site(deploy_id, "/ask").status_code == 503

    made = platform.data_api("aigateway/provision", {"deployId": deploy_id}).json()
    assert made["isNew"] is True
    changed = platform.data_api(
        "deployments/update-env",
        {"deployId": deploy_id, "environment": {"GREETING": "Good morning!"}, "redeploy": True},
    ).json()
    assert {"GREETING", "OPENAI_API_KEY", "OPENAI_BASE_URL"} <= set(changed["environment"])
    redeployed(platform, deploy_id, changed["releaseId"])

    def asked() -> httpx.Response | None:
        answer = platform.site(deploy_id, "/ask")
        return answer if answer.status_code == 200 else None

    answer = wait_for(asked, seconds=60, what="an answer of the model").json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 8

    def logged() -> bool:
        log = platform.data_api("deployments/get-logs", {"id": "rest", "minutes": 5}).json()
        lines = [entry["message"] for entry in log.get("entries", [])]
        return "Asked, with the greeting Good morning!." in lines

    wait_for(logged, what="the function's line in the log")
    found = platform.data_api("deployments/get-deployment", {"id": "rest"}).json()
    assert (found["exists"], found["deployId"], found["mode"]) == (True, deploy_id, "ssr")
    platform.data_api("deployments/delete-site", {"id": "rest"}).raise_for_status()
    wait_for(lambda: platform.site(deploy_id, "/").status_code == 404, what="the site to be gone")


def test_an_upload_address_needs_no_token_and_works_once(platform: Platform) -> None:
    asked = platform.data_api("aws/get-upload-url", {"id": "rest-once"}).json()
    headers = {"content-type": "application/zip"}
    first = httpx.put(asked["uploadUrl"], content=bundle(), headers=headers, timeout=30)
    assert first.is_success
    second = httpx.put(asked["uploadUrl"], content=bundle(), headers=headers, timeout=30)
    assert second.status_code == 409
    assert second.json()["error"]["code"] == "upload_already_used"


@pytest.mark.parametrize("call", ["get-upload-url", "deploy", "update-env", "get-logs"])
def test_without_a_token_nothing_is_done(platform: Platform, call: str) -> None:
    answer = httpx.post(f"{platform.facts['api_url']}/api/data/deployments/{call}", json={})
    assert answer.status_code == 401
    assert answer.json()["error"]["message"]
