"""Where the client finds its server."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.configuration import Server, UnableToFindServer, find_server

REBYTE = {"REBYTE_API_URL": "http://rebyte", "REBYTE_API_TOKEN": "rebyte-token"}
PLAIN = {"API_URL": "http://plain/", "AUTH_TOKEN": "plain-token"}


def write_auth_file(home: Path, content: Any) -> None:
    folder = home / ".rebyte.ai"
    folder.mkdir()
    (folder / "auth.json").write_text(content if isinstance(content, str) else json.dumps(content))


def found(
    home: Path,
    environ: dict[str, str] | None = None,
    *,
    url: str | None = None,
    token: str | None = None,
) -> tuple[str, str]:
    server = find_server(api_url=url, api_token=token, environ=environ or {}, home=home)
    return server.url, server.token


def test_the_auth_file_wins_over_every_variable(tmp_path: Path) -> None:
    write_auth_file(tmp_path, {"sandbox": {"token": "t", "relay_url": "http://relay"}})
    assert found(tmp_path, REBYTE | PLAIN) == ("http://relay", "t")


def test_rebyte_variables_win_over_the_ones_make_run_prints(tmp_path: Path) -> None:
    assert found(tmp_path, REBYTE | PLAIN) == ("http://rebyte", "rebyte-token")


def test_the_variables_make_run_prints_are_enough(tmp_path: Path) -> None:
    assert found(tmp_path, PLAIN) == ("http://plain", "plain-token")


def test_flags_win_over_everything_even_over_a_broken_auth_file(tmp_path: Path) -> None:
    write_auth_file(tmp_path, "{")
    flags = {"url": "https://flag", "token": "flag-token"}
    assert found(tmp_path, REBYTE, **flags) == ("https://flag", "flag-token")


def test_one_flag_replaces_its_half_of_the_pair(tmp_path: Path) -> None:
    assert found(tmp_path, REBYTE, url="http://flag") == ("http://flag", "rebyte-token")


def test_halves_of_two_places_are_never_put_together(tmp_path: Path) -> None:
    halves = {"REBYTE_API_URL": "http://rebyte", "AUTH_TOKEN": "plain-token"}
    with pytest.raises(UnableToFindServer, match="no token for it"):
        found(tmp_path, halves)


def test_an_auth_file_without_a_sandbox_is_passed_over(tmp_path: Path) -> None:
    write_auth_file(tmp_path, {"user": {}})
    assert found(tmp_path, PLAIN) == ("http://plain", "plain-token")


def test_a_broken_auth_file_is_named(tmp_path: Path) -> None:
    write_auth_file(tmp_path, "{")
    with pytest.raises(UnableToFindServer, match=r"auth\.json cannot be read as JSON"):
        found(tmp_path, PLAIN)


def test_without_any_server_the_message_says_how_to_set_one(tmp_path: Path) -> None:
    with pytest.raises(UnableToFindServer, match="Set REBYTE_API_URL and REBYTE_API_TOKEN"):
        found(tmp_path)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host"])
def test_an_address_that_is_not_http_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UnableToFindServer, match="must start with http"):
        found(tmp_path, PLAIN, url=url)


def test_a_token_with_a_space_inside_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(UnableToFindServer) as caught:
        found(tmp_path, PLAIN, token="two words")
    assert "two words" not in str(caught.value)


def test_the_token_is_not_in_the_representation() -> None:
    assert "secret" not in repr(Server("http://x", "secret", "flags"))
