"""`key`: shown without its secret, made, replaced and revoked; the secret only when asked for."""

import json

import pytest

from tests.deployments.cli_server import DEPLOY_ID, SECRET, ProtocolServer, run

ROTATE = "/api/data/aigateway/rotate"
REVOKE = "/api/data/aigateway/revoke"
REDEPLOY = "/api/data/deployments/redeploy"


def test_alone_it_shows_the_key_without_its_secret(server: ProtocolServer) -> None:
    for arguments in (["key"], ["key", "show"]):
        result = run(server, *arguments)
        assert result.exit_code == 0, result.output
        assert f"aig_{DEPLOY_ID}_thes..." in result.stdout
        assert "never" in result.stdout
    assert json.loads(run(server, "key", "--json").stdout)["exists"] is True
    assert server.calls("/api/data/aigateway/info")[0].json == {"deployId": DEPLOY_ID}


def test_without_a_key_it_says_how_to_make_one(server: ProtocolServer) -> None:
    server.answers["/api/data/aigateway/info"] = (200, {"exists": False})
    assert "key provision\n" in run(server, "key").stdout


def test_advice_is_for_the_site_that_was_meant(server: ProtocolServer) -> None:
    """Copied as it stands, it must not make a key for the default site."""
    server.answers["/api/data/aigateway/info"] = (200, {"exists": False})
    for arguments in (["key", "--id", "notes"], ["--id", "notes", "key", "show"]):
        assert "key provision --id notes" in run(server, *arguments).stdout
    name = "notes-of-a-rather-long-winded-person"
    info = run(server, "info", "--id", name, columns=60).stdout  # in one line all the same
    assert f"key provision --redeploy --id {name}\n" in info
    assert "key provision --id notes" in run(server, "key", "revoke", "-y", "--id", "notes").stdout


def test_without_a_site_there_is_no_key(server: ProtocolServer) -> None:
    server.answers["/api/data/aws/get-deployment"] = (200, {"exists": False})
    for arguments in (["key"], ["key", "provision"], ["key", "revoke", "-y"]):
        result = run(server, *arguments)
        assert result.exit_code == 1
        assert "There is no such site yet. Deploy it first" in result.stderr


@pytest.mark.parametrize("command", [["provision"], ["rotate", "--yes"]])
def test_a_secret_is_printed_only_when_asked_for_and_then_alone(
    server: ProtocolServer, command: list[str]
) -> None:
    hidden = run(server, "key", *command)
    assert hidden.exit_code == 0, hidden.output
    assert SECRET not in hidden.output
    assert f"aig_{DEPLOY_ID}..." in hidden.stdout
    shown = run(server, "key", *command, "--show-secret")
    assert shown.stdout == f"{SECRET}\n"
    as_json = json.loads(run(server, "key", *command, "--json").stdout)
    assert "apiKey" not in as_json
    assert as_json["keyPrefix"] == f"aig_{DEPLOY_ID}"
    as_json = json.loads(run(server, "key", *command, "--json", "--show-secret").stdout)
    assert as_json["apiKey"] == SECRET


def test_a_new_key_reaches_the_app_when_asked_to(server: ProtocolServer) -> None:
    result = run(server, "key", "provision")
    assert "next deploy on (--redeploy does that at once)" in result.stderr
    assert server.calls(REDEPLOY) == []
    assert run(server, "key", "provision", "--redeploy").exit_code == 0
    assert len(server.calls(REDEPLOY)) == 1


def test_rotating_asks_first_and_says_what_happens_to_the_old_key(server: ProtocolServer) -> None:
    result = run(server, "key", "rotate", input="n\n")
    assert result.exit_code == 1
    assert "The old one stops working at once." in result.stderr
    assert server.calls(ROTATE) == []
    result = run(server, "key", "rotate", "--grace", "60", input="y\n")
    assert result.exit_code == 0
    assert "The old one works for 60 s more." in result.stderr
    assert "warning: OPENAI_API_KEY is set by hand." in result.stderr
    assert server.calls(ROTATE)[0].json == {"deployId": DEPLOY_ID, "graceSeconds": 60}
    assert run(server, "key", "rotate", "--grace", "-1").exit_code == 2


def test_rotating_is_never_repeated_by_itself(server: ProtocolServer) -> None:
    server.answers[ROTATE] = (503, "Busy.")
    assert run(server, "key", "rotate", "--yes").exit_code == 1
    assert len(server.calls(ROTATE)) == 1


def test_revoking_asks_first(server: ProtocolServer) -> None:
    assert run(server, "key", "revoke", input="n\n").exit_code == 1
    assert server.calls(REVOKE) == []
    result = run(server, "key", "revoke", input="y\n")
    assert result.exit_code == 0
    assert result.stdout.startswith("Revoked.")
    assert json.loads(run(server, "key", "revoke", "-y", "--json").stdout)["revoked"] is True
