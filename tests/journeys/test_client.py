"""A person does everything with the command line client: deploy to delete, against the platform."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployments.waiting import hear_ctrl_c
from tests.journeys.conftest import ROOT, Platform, wait_for

HANDLER = """export const handler = async (event) => {
  console.log(`asked for ${event.rawPath}`);
  return { statusCode: 200, body: JSON.stringify({
    version: VERSION, greeting: process.env.GREETING ?? null, hasKey: !!process.env.OPENAI_API_KEY,
  }) };
};
"""
CONFIG = {"version": 1, "routes": [{"src": "^/.*$", "dest": "/functions/api"}]}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "functions" / "api.func").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def release(app: Path, version: int) -> None:
    entry = app / "functions" / "api.func" / "index.mjs"
    entry.write_text(HANDLER.replace("VERSION", str(version)))


def environ(platform: Platform) -> dict[str, str]:
    return {
        **os.environ,
        "API_URL": platform.facts["api_url"],
        "AUTH_TOKEN": platform.facts["auth_token"],
        "HOME": str(platform.data_dir),
    }


def aigw(platform: Platform, *arguments: str, text: str = "") -> str:
    """The client's standard output; it has to succeed."""
    result = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments, "--id", "client"],
        cwd=ROOT,
        env=environ(platform),
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def as_json(platform: Platform, *arguments: str) -> Any:
    return json.loads(aigw(platform, *arguments, "--json"))


def asked(platform: Platform, deploy_id: str, path: str = "/") -> Any:
    return platform.site(deploy_id, path).json()


def wait_until_asked(platform: Platform, deploy_id: str, **facts: Any) -> None:
    """Until the site says so: it may serve the release before for a second."""
    wait_for(lambda: asked(platform, deploy_id).items() >= facts.items(), what=f"{facts}")


def models(platform: Platform, key: str) -> int:
    """The status of a call of the AI API with this key."""
    url = f"{platform.facts['api_url']}/api/ai/v1/models"
    return httpx.get(url, headers={"authorization": f"Bearer {key}"}, timeout=30).status_code


def test_everything_from_deploy_to_delete(platform: Platform, app: Path, tmp_path: Path) -> None:
    release(app, 1)
    deploy_id = as_json(platform, "deploy", str(app))["deployId"]
    assert asked(platform, deploy_id) == {"version": 1, "greeting": None, "hasKey": False}

    secrets = tmp_path / ".env"
    secrets.write_text("GREETING='good day'\nUNUSED=1\n")
    aigw(platform, "env", "set", "--file", str(secrets), "--redeploy")
    wait_until_asked(platform, deploy_id, greeting="good day")
    aigw(platform, "env", "unset", "UNUSED")
    listed = as_json(platform, "env")["environment"]
    assert set(listed) == {"GREETING"}
    assert "good day" not in listed["GREETING"]

    key = aigw(platform, "key", "provision", "--redeploy", "--show-secret").strip()
    wait_until_asked(platform, deploy_id, hasKey=True)
    assert models(platform, key) == 200
    rotated = aigw(platform, "key", "rotate", "--grace", "60", "-y", "--show-secret").strip()
    assert rotated != key
    assert models(platform, key) == models(platform, rotated) == 200

    release(app, 2)
    aigw(platform, "deploy", str(app))
    wait_until_asked(platform, deploy_id, version=2)
    aigw(platform, "rollback", text="1\ny\n")
    wait_until_asked(platform, deploy_id, version=1)
    states = [row["status"] for row in as_json(platform, "releases")["releases"]]
    assert states.count("active") == 1
    assert states[0] == "superseded"

    assert_followed(platform, deploy_id)

    aigw(platform, "key", "revoke", "--yes")
    wait_for(lambda: models(platform, rotated) == 401, what="the key to be refused")
    aigw(platform, "delete", "--yes")
    assert as_json(platform, "info") == {"exists": False}


def assert_followed(platform: Platform, deploy_id: str) -> None:
    """`logs -f` shows what a visitor's request prints, and ends with Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", "logs", "-f", "--json", "--id", "client"],
        cwd=ROOT,
        env=environ(platform),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout is not None
    try:
        while json.loads(process.stdout.readline())["message"] != "asked for /":
            pass
        request_id = platform.site(deploy_id, "/live").headers["x-request-id"]
        while (line := json.loads(process.stdout.readline()))["message"] != "asked for /live":
            pass
        assert (line["requestId"], line["functionName"]) == (request_id, "api")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()
