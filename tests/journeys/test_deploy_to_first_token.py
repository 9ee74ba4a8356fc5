"""The platform's main story: an agent deploys an app, gives it a key, and it talks to a model."""

import json
import math
import time
from typing import Any

import httpx
import openai
import pytest

from tests.journeys.conftest import ROOT, Platform, wait_for

CHAT_APP = str(ROOT / "examples" / "chat-app")
# The local model may ramble, and on a busy machine a long answer takes more than a function's 30 s.
# (OpenAI's models refuse so low a limit.)
SHORT_ANSWERS = {"ANSWER_TOKENS_MAX": "8"}


def deploy(platform: Platform, name: str, app: str = CHAT_APP, *options: str) -> str:
    """The deployId of an app, deployed by our client under the prefix `name`."""
    flags = ["--api-url", platform.facts["api_url"], "--api-token", platform.facts["auth_token"]]
    command = ["deploy", app, "--id", name, "--json", *options]
    done = platform.command("-m", "deployments.cli", *flags, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads(done.stdout)["deployId"])


def redeployed(platform: Platform, deploy_id: str, release_id: str) -> Any:
    """Waits until the release is the active one."""

    def is_active() -> bool:
        answer = platform.data_api("deployments/releases", {"deployId": deploy_id}).json()
        return any(
            row["releaseId"] == release_id and row["status"].lower() == "active"
            for row in answer["releases"]
        )

    return wait_for(is_active, seconds=60, what="the redeploy")


def shorten_answers(platform: Platform, deploy_id: str) -> None:
    """Redeploys with SHORT_ANSWERS; a key provisioned before comes into effect, too."""
    changed = platform.data_api(
        "deployments/update-env",
        {"deployId": deploy_id, "environment": SHORT_ANSWERS, "redeploy": True},
    ).json()
    redeployed(platform, deploy_id, changed["releaseId"])


def chat(platform: Platform, key: str, **fields: Any) -> httpx.Response:
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_completion_tokens": 24,
        **fields,
    }
    return httpx.post(
        f"{platform.facts['api_url']}/api/ai/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_an_app_goes_from_deploy_to_streamed_tokens_to_a_bill_and_is_revoked(
    platform: Platform,
) -> None:
    nothing = platform.data_api("aigateway/provision", {"deployId": "journey"})
    assert nothing.status_code == 404
    assert nothing.json()["error"]["code"] == "deployment_not_found"

    deploy_id = deploy(platform, "journey")
    assert platform.site(deploy_id, "/").status_code == 200
    before = platform.site(deploy_id, "/api/models")
    assert before.status_code == 503, "without a key the function says so"

    first = platform.data_api("aigateway/provision", {"deployId": deploy_id}).json()
    again = platform.data_api("aigateway/provision", {"deployId": deploy_id}).json()
    assert first["isNew"] is True
    assert again["isNew"] is False
    assert first["apiKey"] == again["apiKey"]
    assert first["apiKey"].startswith(f"aig_{deploy_id}_")
    assert first["baseUrl"] == f"{platform.facts['api_url']}/api/ai"
    key = first["apiKey"]

    changed = platform.data_api(
        "deployments/update-env",
        {
            "deployId": deploy_id,
            "environment": {
                "OPENAI_API_KEY": key,
                "OPENAI_BASE_URL": f"{first['baseUrl']}/v1",
                **SHORT_ANSWERS,
            },
            "redeploy": True,
        },
    )
    assert changed.status_code == 200, changed.text
    assert "ANSWER_TOKENS_MAX" in changed.json()["environment"]
    redeployed(platform, deploy_id, changed.json()["releaseId"])

    answer = wait_for(
        lambda: _ask_the_app(platform, deploy_id),
        seconds=60,
        what="the function with its new environment",
    )
    assert len(answer) > 0

    _stream_arrives_over_time(platform, key)
    _usage_appears_with_cost(platform, deploy_id)
    _ledger_is_exact(platform)

    revoked = platform.data_api("aigateway/revoke", {"deployId": deploy_id})
    assert revoked.json() == {"deployId": deploy_id, "revoked": True}
    time.sleep(1)  # the promise is: on every process within one second
    refused = chat(platform, key)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert platform.data_api("aigateway/info", {"deployId": deploy_id}).json()["exists"] is False


def _ask_the_app(platform: Platform, deploy_id: str) -> str:
    """What the deployed function answers; "" while it still runs without the key."""
    answer = platform.site(
        deploy_id,
        "/api/chat",
        method="POST",
        json={"messages": [{"role": "user", "content": "Say hello."}], "model": "smollm2-135m"},
    )
    return answer.text if answer.status_code == 200 else ""


def _stream_arrives_over_time(platform: Platform, key: str) -> None:
    """With OpenAI's own client: many chunks, then usage."""
    base_url = f"{platform.facts['api_url']}/api/ai/v1"
    with openai.OpenAI(api_key=key, base_url=base_url, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "Tell me a long story about the sea."}],
            max_completion_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert len(chunks) > 10
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 10


def _usage_appears_with_cost(platform: Platform, deploy_id: str) -> None:
    def total() -> Any:
        body = {"deployId": deploy_id, "groupBy": "model"}
        answer = platform.data_api("aigateway/usage", body).json()
        return answer if answer["total"]["calls"] >= 2 else None

    usage = wait_for(total, what="the usage")
    assert usage["total"]["costNanos"] > 0
    assert usage["rows"][0]["costNanos"] == usage["total"]["costNanos"]


def _ledger_is_exact(platform: Platform) -> None:
    checked = platform.command("manage.py", "verify_ledger")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_openai_clients_raise_their_typed_errors(platform: Platform) -> None:
    base_url = f"{platform.facts['api_url']}/api/ai/v1"
    key = _provisioned(platform, "errors")
    with openai.OpenAI(api_key=key, base_url=base_url, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="no-such-model", messages=_HELLO)
        with pytest.raises(openai.BadRequestError, match="Missing required parameter"):
            client.chat.completions.create(model="smollm2-135m", messages=[{}])  # type: ignore[list-item]
    stranger = openai.OpenAI(api_key=f"{key}x", base_url=base_url, max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


_HELLO: Any = [{"role": "user", "content": "Hello"}]


def _provisioned(platform: Platform, name: str) -> str:
    deploy_id = deploy(platform, name)
    return str(platform.data_api("aigateway/provision", {"deployId": deploy_id}).json()["apiKey"])


def test_what_was_written_is_forwarded_while_the_rest_is_awaited(platform: Platform) -> None:
    """The stand-in falls silent after two pieces: waiting for the end would be waiting for ever."""
    base_url = f"{platform.facts['api_url']}/api/ai/v1"
    key = _provisioned(platform, "streaming")
    script: Any = [{"role": "user", "content": "[[say One two three four.]] [[silence]]"}]
    with (
        openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=60) as client,
        client.chat.completions.create(model="gpt-4o", messages=script, stream=True) as stream,
    ):
        deltas = (chunk.choices[0].delta.content for chunk in stream if chunk.choices)
        assert next(text for text in deltas if text).startswith("One")


def test_models_say_who_is_stood_in_for(platform: Platform) -> None:
    key = _provisioned(platform, "catalog")
    base_url = f"{platform.facts['api_url']}/api/ai/v1"
    with openai.OpenAI(api_key=key, base_url=base_url, max_retries=0) as client:
        listed = {model.id: model for model in client.models.list()}
        one = client.models.retrieve("claude-sonnet-4-5")
    mission = {
        "gemini-3-flash",
        "gemini-3-pro",
        "gpt-4o",
        "gpt-5.2-codex",
        "claude-sonnet-4.5",
        "claude-opus-4.5",
    }
    assert mission | {"smollm2-135m"} <= set(listed)
    assert listed["smollm2-135m"].model_dump()["status"] == "available"
    local = listed["smollm2-135m"].model_dump()["pricing"]
    for name in mission:
        described = listed[name].model_dump()
        assert (described["status"], described["pricing"]) == ("stand_in", local)
    assert one.id == "claude-sonnet-4.5"


def test_stand_ins_answer_embed_and_are_billed_as_what_they_are(platform: Platform) -> None:
    key = _provisioned(platform, "standins")
    base_url = f"{platform.facts['api_url']}/api/ai/v1"
    with openai.OpenAI(api_key=key, base_url=base_url, max_retries=0) as client:
        said = client.chat.completions.create(
            model="gpt-4o", messages=_HELLO, max_completion_tokens=16
        )
        assert said.choices[0].message.content
        texts = ["The sea is blue.", "The ocean is azure.", "Quarterly tax returns are due."]
        rows = client.embeddings.create(model="text-embedding-3-small", input=texts).data
        short = client.embeddings.create(
            model="text-embedding-3-large", input=texts[0], dimensions=64, encoding_format="float"
        )
    sea, ocean, tax = (row.embedding for row in rows)
    assert len(sea) == 1536
    assert len(short.data[0].embedding) == 64
    assert _cosine(sea, ocean) > _cosine(sea, tax)
    # Calls are booked a moment after they were answered.
    billed = wait_for(lambda: _billed_to_stand_ins(platform), seconds=60, what="the booking")
    assert "openai " not in billed


SHOW_BILLED = """
from billing.models import UsageRecord
for provider in UsageRecord.objects.values_list("provider", flat=True).distinct():
    print(provider, end=" ;")
"""


def _billed_to_stand_ins(platform: Platform) -> str:
    """The providers that calls were billed for, each with a space behind it; "" without ours."""
    shown = platform.command("manage.py", "shell", "-v0", "-c", SHOW_BILLED).stdout
    return shown if "openai-standin" in shown else ""


def _cosine(one: list[float], other: list[float]) -> float:
    def length(vector: list[float]) -> float:
        return math.sqrt(sum(number * number for number in vector))

    return sum(a * b for a, b in zip(one, other, strict=True)) / (length(one) * length(other))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("OPTIONS", "/api/ai/v1/chat/completions"),
        ("OPTIONS", "/api/ai/v1/models"),
        ("POST", "/api/ai/v1/chat/completions"),
        ("GET", "/api/ai/v1/models"),
        ("GET", "/api/ai/nowhere"),
        ("OPTIONS", "/api/data/aigateway/provision"),
    ],
)
def test_browsers_get_no_cross_origin_headers(platform: Platform, method: str, path: str) -> None:
    headers = {
        "origin": "https://elsewhere.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    answer = httpx.request(method, platform.facts["api_url"] + path, headers=headers, timeout=10)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_key_sent_by_a_browser_is_refused(platform: Platform) -> None:
    key = _provisioned(platform, "browser-key")
    answer = httpx.get(
        f"{platform.facts['api_url']}/api/ai/v1/models",
        headers={"authorization": f"Bearer {key}", "origin": "https://app.example"},
        timeout=10,
    )
    assert answer.status_code == 403
    assert "rotate this key" in answer.json()["error"]["message"]
