"""`releases` and `rollback`: listed, picked, confirmed, named to the server."""

import json
from typing import Any

import pytest

from tests.deployments.cli_server import DEPLOY_ID, ProtocolServer, run

ROLLBACK = "/api/data/deployments/rollback"


def row(number: int, status: str, **more: Any) -> dict[str, Any]:
    made = f"2026-01-{number:02}T12:00:00Z"
    return {
        "releaseId": f"rel_{number}",
        "status": status,
        "mode": "ssr",
        "bundleSha256": "0123456789abcdef",
        "createdAt": made,
        "activatedAt": None if status in ("failed", "pending") else made,
        **more,
    }


@pytest.fixture
def rows(server: ProtocolServer) -> list[dict[str, Any]]:
    rows = [
        row(5, "superseded"),
        row(4, "active"),
        row(3, "failed", failure="There is no index.html."),
        row(2, "superseded"),
        row(1, "superseded"),
    ]
    server.answers["/api/data/deployments/releases"] = (200, {"releases": rows})
    return rows


def rolled_back_to(server: ProtocolServer) -> list[str]:
    return [request.json["releaseId"] for request in server.calls(ROLLBACK)]


def test_releases_are_listed_with_why_they_failed(
    server: ProtocolServer, rows: list[dict[str, Any]]
) -> None:
    result = run(server, "releases")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "Release",
        *(str(one["releaseId"]) for one in rows),
    ]
    assert "failed: There is no index.html." in result.stdout
    assert json.loads(run(server, "releases", "--json").stdout) == {"releases": rows}


def test_without_releases_it_says_how_to_begin(server: ProtocolServer) -> None:
    server.answers["/api/data/deployments/releases"] = (200, {"releases": []})
    assert "deploy <folder>" in run(server, "releases").stdout


@pytest.mark.usefixtures("rows")
def test_a_release_is_picked_from_those_that_were_live(server: ProtocolServer) -> None:
    result = run(server, "rollback", input="2\ny\n")
    assert result.exit_code == 0, result.output
    for shown in ("1  rel_2", "2  rel_1", "3  rel_5", f"Make rel_1 of {DEPLOY_ID} live?"):
        assert shown in result.stderr
    assert "rel_3" not in result.stderr
    assert rolled_back_to(server) == ["rel_1"]
    assert "rel_1" in result.stdout


@pytest.mark.usefixtures("rows")
def test_with_yes_it_is_the_one_before_the_live_one(server: ProtocolServer) -> None:
    result = run(server, "rollback", "--yes", "--json")
    assert json.loads(result.stdout)["releaseId"] == "rel_1"
    assert rolled_back_to(server) == ["rel_2"]


def test_a_named_release_is_confirmed(server: ProtocolServer) -> None:
    assert run(server, "rollback", "rel_1", input="n\n").exit_code == 1
    assert rolled_back_to(server) == []
    assert run(server, "rollback", "rel_1", "-y").exit_code == 0
    assert rolled_back_to(server) == ["rel_1"]


def test_without_an_earlier_release_nothing_is_asked(server: ProtocolServer) -> None:
    server.answers["/api/data/deployments/releases"] = (200, {"releases": [row(1, "active")]})
    result = run(server, "rollback")
    assert result.exit_code == 1
    assert "There is no earlier release to go back to." in result.stderr


@pytest.mark.usefixtures("rows")
def test_naming_the_release_makes_it_safe_to_try_again(server: ProtocolServer) -> None:
    answers = iter([(503, "Busy."), (200, {"releaseId": "rel_2"})])
    server.answers[ROLLBACK] = lambda request: next(answers)
    assert run(server, "rollback", "-y").exit_code == 0
    assert rolled_back_to(server) == ["rel_2", "rel_2"]
