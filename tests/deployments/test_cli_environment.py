"""`env`: listed masked, set from arguments and files, removed, applied; no value is printed."""

import json
from pathlib import Path

import pytest

from tests.deployments.cli_server import ProtocolServer, run

CALL = "/api/data/deployments/update-env"


def sent(server: ProtocolServer) -> dict[str, object]:
    body: dict[str, object] = server.calls(CALL)[0].json
    return body


def test_alone_it_lists_masked_values_and_who_set_them(server: ProtocolServer) -> None:
    for arguments in (["env"], ["env", "list"]):
        result = run(server, *arguments)
        assert result.exit_code == 0, result.output
        assert "GREETING        he…  (user)" in result.stdout
        assert "OPENAI_API_KEY  ai…  (gateway)" in result.stdout
        assert "FROM_BUNDLE     (.env.production of the bundle)" in result.stdout
    assert json.loads(run(server, "env", "--json").stdout)["bundle"] == ["FROM_BUNDLE", "GREETING"]


def test_without_variables_it_says_how_to_set_one(server: ProtocolServer) -> None:
    server.answers["/api/data/deployments/get-env"] = (200, {"environment": {}, "bundle": []})
    assert "env set NAME=VALUE" in run(server, "env").stdout


def test_setting_sends_the_values_and_prints_only_names(server: ProtocolServer) -> None:
    result = run(server, "env", "set", "A=one=two", "B=", "--id", "shop")
    assert result.exit_code == 0, result.output
    assert sent(server) == {
        "environment": {"A": "one=two", "B": ""},
        "redeploy": False,
        "id": "shop",
    }
    assert "A, B." in result.stdout
    assert "one=two" not in result.output
    assert "--redeploy applies it now" in result.stderr


@pytest.mark.parametrize("where", ["main", "group", "command"])
def test_the_site_may_be_named_anywhere(server: ProtocolServer, where: str) -> None:
    site = ["--id", "shop"]
    arguments = {
        "main": [*site, "env", "set", "A=1"],
        "group": ["env", *site, "set", "A=1"],
        "command": ["env", "set", "A=1", *site],
    }[where]
    assert run(server, *arguments).exit_code == 0
    assert sent(server)["id"] == "shop"


def test_a_file_is_read_as_the_server_reads_it_and_arguments_win(
    server: ProtocolServer, tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_text("# comment\nexport A='one # two'\nB=from file # comment\n")
    result = run(server, "env", "set", "B=given", "--file", str(path), "--json")
    assert result.exit_code == 0, result.output
    assert sent(server)["environment"] == {"A": "one # two", "B": "given"}
    assert json.loads(result.stdout)["environment"] == ["A", "B"]


def test_standard_input_is_a_file_too(server: ProtocolServer) -> None:
    assert run(server, "env", "set", "--file", "-", input="TOKEN=secret\n").exit_code == 0
    assert sent(server)["environment"] == {"TOKEN": "secret"}


def test_removing_sends_null(server: ProtocolServer) -> None:
    assert run(server, "env", "unset", "A", "B").exit_code == 0
    assert sent(server)["environment"] == {"A": None, "B": None}


def test_redeploying_waits_until_the_release_is_live(server: ProtocolServer) -> None:
    result = run(server, "env", "set", "A=1", "--redeploy")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("Live.\n")
    assert len(server.calls("/api/data/deployments/releases")) == 2


def test_a_change_with_redeploy_is_sent_once_and_one_without_again(
    server: ProtocolServer,
) -> None:
    server.answers[CALL] = (503, "Busy.")
    assert run(server, "env", "set", "A=1", "--redeploy").exit_code == 1
    assert len(server.calls(CALL)) == 1
    assert run(server, "env", "set", "A=1").exit_code == 1
    assert len(server.calls(CALL)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set"], "Give NAME=VALUE, or --file with a .env file."),
        (["set", "secret-without-name"], "Write each variable as NAME=VALUE"),
        (["set", "1A=secret"], "'1A' is not a variable name"),
        (["set", "_HANDLER=secret"], "_HANDLER is reserved for the runtime"),
        (["unset"], "Missing argument"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_repeats_no_value(
    server: ProtocolServer, arguments: list[str], message: str
) -> None:
    result = run(server, "env", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "secret" not in result.stderr
    assert server.received == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nsecret\n", "{path} line 2: expected KEY=VALUE."),
        (b"A='secret", "{path} line 1: the ' quote is never closed."),
        (b"\xff\xfe", "{path} cannot be read: not UTF-8 text."),
        (None, "{path} cannot be read: No such file or directory."),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    server: ProtocolServer, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "settings.env"
    if content is not None:
        path.write_bytes(content)
    result = run(server, "env", "set", "--file", str(path))
    assert result.exit_code == 1
    assert message.format(path=path) in result.stderr
    assert "secret" not in result.stderr
