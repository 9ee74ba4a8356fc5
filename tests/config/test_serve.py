"""`manage.py serve`: what stops it from starting, and the first start's demo."""

import fcntl
import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from billing.models import LedgerAccount
from config import demo
from config.management.commands import serve
from gateway import keys
from orgs import tokens
from orgs.models import Organization, User


@pytest.fixture(autouse=True)
def _own_folder(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DATA_DIR = tmp_path / "data"

    def nothing(*_: Any) -> None:
        raise AssertionError("it started")

    monkeypatch.setattr(serve.Command, "_start", nothing)


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_busy_port_is_refused_with_another(settings: Any, busy_port: int) -> None:
    settings.PORT = busy_port
    with pytest.raises(CommandError) as raised:
        call_command("serve")
    assert str(raised.value) == (
        f"Port {busy_port} is in use. Choose another: PORT={busy_port + 1} make run"
    )


def test_a_data_folder_in_use_is_refused_with_another(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(CommandError, match="already runs with the data folder") as raised:
            call_command("serve")
    assert str(tmp_path / "data") in str(raised.value)
    assert "DATA_DIR=.data2 PORT=8001 make run" in str(raised.value)


def test_a_refused_start_leaves_the_folder_free(
    settings: Any, busy_port: int, tmp_path: Path
) -> None:
    settings.PORT = busy_port
    with pytest.raises(CommandError, match="is in use"):
        call_command("serve")
    with (tmp_path / "data" / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failing_start_stops_what_runs_and_leaves_no_facts(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings.PORT = free.getsockname()[1]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.json").write_text("{}")
    stopped = []
    monkeypatch.setattr(serve.Supervisor, "take_signals", lambda _: None)
    monkeypatch.setattr(serve.Supervisor, "stop", lambda _: stopped.append(True))
    with pytest.raises(AssertionError, match="it started"):
        call_command("serve")
    assert stopped == [True]
    assert not (tmp_path / "data" / "dev.json").exists()


def test_a_file_of_secrets_is_private_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "dev.json"
    demo.write_private(path, {"password": "x"})
    demo.write_private(path, {"password": "y"})
    assert json.loads(path.read_text()) == {"password": "y"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["dev.json"]


def test_the_demo_works_at_once_and_stays_the_same(db: None, settings: Any) -> None:
    said: list[str] = []
    first = demo.seed(at=timezone.now(), say=said.append)
    again = demo.seed(at=timezone.now(), say=said.append)
    assert again == first
    assert said == ["Made the organization Demo with $25 of credit."]
    assert keys.deploy_id_of(first.gateway_key)
    assert tokens.verify(first.auth_token, at=timezone.now()).workspace.name == "main"
    assert User.objects.get(email=first.email).check_password(first.password)
    organization = Organization.objects.get()
    credit = LedgerAccount.objects.get(organization=organization, kind="CREDITS")
    assert credit.posted_nanos == 25_000_000_000


def test_a_demo_whose_secrets_were_lost_gets_new_ones(db: None, settings: Any) -> None:
    first = demo.seed(at=timezone.now(), say=lambda _: None)
    (settings.DATA_DIR / "secrets" / "demo.json").unlink()
    second = demo.seed(at=timezone.now(), say=lambda _: None)
    assert second.password != first.password
    assert second.auth_token != first.auth_token
    assert User.objects.get(email=second.email).check_password(second.password)
    assert second.gateway_key == first.gateway_key


def test_a_demo_under_another_vault_key_gets_a_key_it_can_show(db: None, settings: Any) -> None:
    first = demo.seed(at=timezone.now(), say=lambda _: None)
    settings.VAULT_KEY = "another key"
    second = demo.seed(at=timezone.now(), say=lambda _: None)
    assert second.gateway_key != first.gateway_key
    assert demo.seed(at=timezone.now(), say=lambda _: None).gateway_key == second.gateway_key
