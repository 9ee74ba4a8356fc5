"""The commands as a person runs them, against a real HTTP server."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deployments.cli import logs, shipping
from deployments.cli.client import Client
from deployments.cli.commands import main
from deployments.cli.configuration import Server
from deployments.cli.display import clean, local_time
from tests.deployments.cli_server import DEPLOY_ID, SECRET, TOKEN, ProtocolServer, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "static").mkdir(parents=True)
    (folder / "config.json").write_text('{"version": 1, "routes": [{"handle": "filesystem"}]}')
    (folder / "static" / "index.html").write_text("<h1>hello</h1>")
    return folder


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("REBYTE_API_URL", "REBYTE_API_TOKEN", "API_URL", "AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def paths(server: ProtocolServer) -> list[str]:
    return [request.path for request in server.received]


def test_deploy_uploads_a_zip_of_the_folder_and_prints_the_address(
    server: ProtocolServer, app: Path
) -> None:
    result = run(server, "deploy", str(app))
    assert result.exit_code == 0, result.output
    assert f"http://{DEPLOY_ID}.localhost:8000" in result.stdout
    assert DEPLOY_ID in result.stdout
    assert "deployed" in result.stdout
    assert "Uploading" in result.stderr
    assert paths(server) == [
        "/api/data/aws/get-upload-url",
        "/uploads/signed",
        "/api/data/aws/deploy",
    ]
    asked, put, deployed = server.received
    assert asked.json == {}
    assert "authorization" not in put.headers
    assert put.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(put.body)) as archive:
        assert archive.namelist() == ["config.json", "static/index.html"]
    assert deployed.json == {"deployId": DEPLOY_ID}
    assert deployed.headers["authorization"] == f"Bearer {TOKEN}"


def test_deploy_takes_the_folder_it_is_run_in(
    server: ProtocolServer, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(app)
    assert run(server, "deploy").exit_code == 0


def test_deploy_sends_a_ready_zip_byte_for_byte(
    server: ProtocolServer, app: Path, tmp_path: Path
) -> None:
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("static/index.html", "config.json"):
            archive.write(app / name, name)
    assert run(server, "deploy", str(path)).exit_code == 0
    assert server.calls("/uploads/signed")[0].body == path.read_bytes()


def test_an_upload_that_broke_off_is_repeated_with_a_url_of_its_own(
    server: ProtocolServer, app: Path
) -> None:
    def breaking_off(request: Any) -> Any:
        if len(server.calls("/uploads/signed")) == 1:
            raise ConnectionError("The server hangs up without an answer.")
        return 200, ""

    server.answers["/uploads/signed"] = breaking_off
    result = run(server, "deploy", str(app))
    assert result.exit_code == 0, result.output
    assert "warning: The upload broke off. Trying again." in result.stderr
    assert paths(server) == [
        "/api/data/aws/get-upload-url",
        "/uploads/signed",
        "/api/data/aws/get-upload-url",
        "/uploads/signed",
        "/api/data/aws/deploy",
    ]


def test_an_upload_that_is_refused_is_not_repeated(server: ProtocolServer, app: Path) -> None:
    server.answers["/uploads/signed"] = (413, "Too large.")
    assert run(server, "deploy", str(app)).exit_code == 1
    assert len(server.calls("/uploads/signed")) == 1


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_site_may_be_named_before_or_after_the_command(
    server: ProtocolServer, app: Path, where: str
) -> None:
    flag = ["--id", "shop"]
    arguments = [*flag, "deploy", str(app)] if where == "before" else ["deploy", str(app), *flag]
    assert run(server, *arguments).exit_code == 0
    assert server.received[0].json == {"id": "shop"}


def test_deploy_with_provision_waits_for_the_release_and_never_prints_the_key(
    server: ProtocolServer, app: Path
) -> None:
    result = run(server, "deploy", str(app), "--provision")
    assert result.exit_code == 0, result.output
    assert f"aig_{DEPLOY_ID}..." in result.stdout
    assert SECRET.rsplit("_", 2)[1] not in result.output
    assert paths(server)[3:] == [
        "/api/data/aigateway/provision",
        "/api/data/deployments/redeploy",
        "/api/data/deployments/releases",
        "/api/data/deployments/releases",
    ]
    assert server.calls("/api/data/aigateway/provision")[0].json == {"deployId": DEPLOY_ID}


def test_a_key_that_was_there_before_needs_no_redeploy_and_warnings_are_shown(
    server: ProtocolServer, app: Path
) -> None:
    status, body = server.answers["/api/data/aigateway/provision"]  # type: ignore[misc]
    server.answers["/api/data/aigateway/provision"] = (
        status,
        {**body, "isNew": False, "warnings": ["OPENAI_API_KEY is set by hand."]},
    )
    result = run(server, "deploy", str(app), "--provision")
    assert result.exit_code == 0
    assert server.calls("/api/data/deployments/redeploy") == []
    assert "warning: OPENAI_API_KEY is set by hand." in result.stderr


def test_a_redeploy_that_fails_fails_the_command_with_its_reason(
    server: ProtocolServer, app: Path
) -> None:
    rows = [{"releaseId": "rel_2", "status": "failed", "failure": "The disk is full."}]
    server.answers["/api/data/deployments/releases"] = (200, {"releases": rows})
    result = run(server, "deploy", str(app), "--provision")
    assert result.exit_code == 1
    assert "The redeploy failed: The disk is full." in result.stderr


def test_a_redeploy_that_never_ends_is_given_up(server: ProtocolServer) -> None:
    server.answers["/api/data/deployments/releases"] = (200, {"releases": []})
    times = iter([0.0, 1.0, 500.0])
    with (
        Client(Server(server.url, TOKEN, "test")) as client,
        pytest.raises(shipping.UnableToActivate, match=r"rel_2 .* was not active"),
    ):
        shipping.redeploy(client, DEPLOY_ID, pause=lambda seconds: None, clock=lambda: next(times))


def test_json_is_one_object_on_standard_output(server: ProtocolServer, app: Path) -> None:
    result = run(server, "deploy", str(app), "--provision", "--json")
    answer = json.loads(result.stdout)
    assert answer["deployId"] == DEPLOY_ID
    assert answer["gateway"]["isNew"] is True
    assert result.stderr == ""


def test_a_refusal_as_json_has_its_status(server: ProtocolServer, app: Path) -> None:
    server.answers["/api/data/aws/get-upload-url"] = (401, {"error": {"message": "Bad token."}})
    result = run(server, "deploy", str(app), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["status"] == 401


def test_a_refusal_is_shown_with_its_hint_and_exit_code_1(
    server: ProtocolServer, app: Path
) -> None:
    server.answers["/api/data/aws/get-upload-url"] = (401, {"error": {"message": "Bad token."}})
    result = run(server, "deploy", str(app))
    assert result.exit_code == 1
    assert "401 Bad token." in result.stderr
    assert "Make a new one in the console" in result.stderr


def test_an_incorrect_bundle_is_not_sent(server: ProtocolServer, app: Path) -> None:
    (app / "config.json").unlink()
    result = run(server, "deploy", str(app))
    assert result.exit_code == 1
    assert "config.json is missing." in result.stderr
    assert server.received == []
    assert run(server, "deploy", str(app), "--no-validate").exit_code == 0


def test_validate_needs_no_server(app: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(app)])
    assert result.exit_code == 0
    assert "looks right: 2 files" in result.stdout
    (app / "config.json").write_text("{")
    assert CliRunner().invoke(main, ["validate", str(app)]).exit_code == 1


def test_wrong_usage_and_a_missing_server_are_exit_code_2(app: Path) -> None:
    assert CliRunner().invoke(main, ["unknown"]).exit_code == 2
    assert CliRunner().invoke(main, ["logs", "--minutes", "481"]).exit_code == 2
    result = CliRunner().invoke(main, ["deploy", str(app)])
    assert result.exit_code == 2
    assert "Set REBYTE_API_URL and REBYTE_API_TOKEN" in result.stderr


def test_info_shows_the_site_and_its_key(server: ProtocolServer) -> None:
    result = run(server, "info")
    assert result.exit_code == 0
    for shown in (DEPLOY_ID, "ssr", f"aig_{DEPLOY_ID}_thes...", "never"):
        assert shown in result.stdout
    answer = json.loads(run(server, "info", "--json").stdout)
    assert answer["gateway"]["exists"] is True


def test_info_works_where_there_is_no_gateway(server: ProtocolServer) -> None:
    del server.answers["/api/data/aigateway/info"]
    result = run(server, "info")
    assert result.exit_code == 0
    assert DEPLOY_ID in result.stdout
    assert "Gateway" not in result.stdout


def test_info_says_when_nothing_is_deployed(server: ProtocolServer) -> None:
    server.answers["/api/data/aws/get-deployment"] = (200, {"exists": False})
    result = run(server, "info")
    assert result.exit_code == 0
    assert "Nothing is deployed here yet" in result.stdout


def test_logs_show_local_time_and_no_control_characters(
    server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(server, "logs", "--minutes", "5")
    assert result.exit_code == 0
    assert result.stdout == f"{local_time('2026-01-31T12:00:00.5Z')}  hello[2J\n"
    assert server.received[0].json == {"minutes": 5}


def test_logs_print_the_server_s_message_and_stop(server: ProtocolServer) -> None:
    server.answers["/api/data/aws/get-logs"] = (200, {"message": "Static sites have no logs."})
    result = run(server, "logs")
    assert (result.exit_code, result.stdout) == (0, "Static sites have no logs.\n")


def test_following_shows_each_line_once_and_ends_with_ctrl_c(
    server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries(*messages: str) -> tuple[int, Any]:
        rows = [{"timestamp": 1_769_860_800_000, "message": message} for message in messages]
        return 200, {"entries": rows, "hasMore": False}

    polls = iter([entries("a", "b"), entries("a", "b", "b"), entries("b", "b", "c")])
    server.answers["/api/data/aws/get-logs"] = lambda request: next(polls)

    def interrupt_after_three_polls(seconds: float) -> None:
        if len(server.received) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(logs.time, "sleep", interrupt_after_three_polls)
    result = run(server, "logs", "-f")
    assert result.exit_code == 0
    assert [line[-1] for line in result.stdout.splitlines()] == ["a", "b", "b", "c"]


def test_delete_asks_first(server: ProtocolServer) -> None:
    result = run(server, "delete", input="n\n")
    assert result.exit_code == 1
    assert server.calls("/api/data/aws/delete-site") == []
    result = run(server, "delete", input="y\n")
    assert result.exit_code == 0
    assert f"Deleted {DEPLOY_ID}." in result.stdout


def test_delete_with_yes_does_not_ask(server: ProtocolServer) -> None:
    assert run(server, "delete", "--yes", "--id", "shop").exit_code == 0
    assert server.calls("/api/data/aws/delete-site")[0].json == {"id": "shop"}


def test_delete_of_nothing_fails(server: ProtocolServer) -> None:
    server.answers["/api/data/aws/get-deployment"] = (200, {"exists": False})
    assert run(server, "delete", "--yes").exit_code == 1


def test_timestamps_in_seconds_milliseconds_and_text_are_the_same_moment() -> None:
    shown = {local_time(1_769_860_800), local_time(1_769_860_800_000), local_time(1_769_860_800.0)}
    assert shown == {local_time("2026-01-31T12:00:00+00:00")}
    assert local_time("soon") == "soon"


def test_control_characters_are_removed_but_lines_stay() -> None:
    assert clean("a\x1b[31m\tb\r\nc\x07\u202e") == "a[31m\tb\nc"


def test_the_client_imports_nothing_of_ours_but_pure_rules_and_no_django() -> None:
    code = (
        "import sys, deployments.cli.commands\n"
        "ours = ('django', 'config', 'gateway', 'billing', 'orgs', 'celery')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ours or"
        " (name.startswith('deployments.') and not name.startswith('deployments.cli')"
        " and name != 'deployments.variables')])"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60
    )
    assert result.stdout == "[]\n", result.stderr


def test_it_runs_as_a_module(server: ProtocolServer, app: Path) -> None:
    environ = {**os.environ, "API_URL": server.url, "AUTH_TOKEN": TOKEN}
    result = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "deploy", str(app), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["deployId"] == DEPLOY_ID


def run_demo(data_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "DATA_DIR": str(data_dir), "COLUMNS": "200"},
        timeout=60,
    )


def write_notes(folder: Path, url: str) -> None:
    notes = {
        "api_url": url,
        "auth_token": TOKEN,
        "console_url": f"{url}/console/demo/",
        "email": "demo@example.com",
        "password": "demo-password",
    }
    (folder / "dev.json").write_text(json.dumps(notes))


def test_the_demo_deploys_the_example_with_a_key(server: ProtocolServer, tmp_path: Path) -> None:
    write_notes(tmp_path, server.url)
    result = run_demo(tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"http://{DEPLOY_ID}.localhost:8000" in result.stdout
    assert f"{server.url}/console/demo/" in result.stdout
    assert server.calls("/api/data/aws/get-upload-url")[0].json == {"id": "chat"}
    with zipfile.ZipFile(io.BytesIO(server.calls("/uploads/signed")[0].body)) as archive:
        assert "functions/chat.func/index.mjs" in archive.namelist()
    assert len(server.calls("/api/data/deployments/redeploy")) == 1


def test_the_demo_says_that_the_platform_has_to_run(tmp_path: Path) -> None:
    result = run_demo(tmp_path)
    assert result.returncode == 1
    assert "Start the platform first: make run" in result.stderr
    write_notes(tmp_path, "http://127.0.0.1:1")
    result = run_demo(tmp_path)
    assert result.returncode == 1
    assert "Start the platform first: make run" in result.stderr
