"""Environment variables: what is read, what is refused, and where secrets come from."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config import env
from config.env import UnableToReadEnvironment


def test_blank_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "   ")
    assert env.text("X", "default") == "default"
    assert env.integer("X", 5) == 5
    assert env.flag("X", default=True) is True
    monkeypatch.delenv("X")
    assert env.text("X") == ""


def test_text_is_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", " a b\n")
    assert env.text("X") == "a b"


@pytest.mark.parametrize("value", ["x", "1.5", "1e3", "0x10", "--1"])
def test_what_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PORT", value)
    with pytest.raises(UnableToReadEnvironment, match=r"PORT must be a whole number, not '"):
        env.integer("PORT", 1)


def test_a_time_may_have_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.seconds("X_SECONDS", 5) == 5
    monkeypatch.setenv("X_SECONDS", "0.25")
    assert env.seconds("X_SECONDS", 5) == 0.25


@pytest.mark.parametrize("value", ["x", "0", "-1", "inf", "nan", "1s"])
def test_what_is_no_time_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("X_SECONDS", value)
    with pytest.raises(UnableToReadEnvironment, match=r"X_SECONDS must be a number of seconds"):
        env.seconds("X_SECONDS", 1)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *[("1", True), ("TRUE", True), ("yes", True), ("On", True)],
        *[("0", False), ("False", False), ("no", False), ("OFF", False)],
    ],
)
def test_flags_are_read_in_any_case(
    monkeypatch: pytest.MonkeyPatch, value: str, meaning: bool
) -> None:
    monkeypatch.setenv("X", value)
    assert env.flag("X", default=not meaning) is meaning


def test_what_is_no_flag_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "maybe")
    with pytest.raises(UnableToReadEnvironment, match="DEBUG must be true or false, not 'maybe'"):
        env.flag("DEBUG", default=False)


def test_names_are_split_and_blanks_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", " a, ,b,")
    assert env.names("X") == ["a", "b"]
    monkeypatch.delenv("X")
    assert env.names("X", "c,d") == ["c", "d"]


# --- secrets ----------------------------------------------------------------------------------


def secret(path: Path, *, generate: bool = True) -> str:
    return env.secret("A_SECRET", fallback_file=path, generate=generate)


def test_a_generated_secret_is_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "a"
    made = secret(path)
    assert len(made) == 64
    assert secret(path) == made
    assert secret(path, generate=False) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["a"]


def test_without_generating_a_missing_secret_is_empty(tmp_path: Path) -> None:
    assert secret(tmp_path / "a", generate=False) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_variable_wins_then_the_named_file_then_the_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fallback, named = tmp_path / "fallback", tmp_path / "named"
    fallback.write_text("from the fallback\n")
    named.write_text("from the file\n")
    assert secret(fallback) == "from the fallback"
    monkeypatch.setenv("A_SECRET_FILE", str(named))
    assert secret(fallback) == "from the file"
    monkeypatch.setenv("A_SECRET", "from the variable")
    assert secret(fallback) == "from the variable"


def test_a_named_file_that_is_missing_is_an_error_not_a_new_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_FILE", str(tmp_path / "missing"))
    with pytest.raises(UnableToReadEnvironment, match=r"A_SECRET_FILE: .*missing cannot be read"):
        secret(tmp_path / "fallback")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_together_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "a"
    start = threading.Barrier(8)
    found: list[str] = []

    def read() -> None:
        start.wait(timeout=5)
        found.append(secret(path))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {path.read_text()}
    assert "" not in found


@pytest.mark.parametrize(
    ("environment", "are_started"),
    [
        ({}, True),
        ({"STANDINS": "off"}, False),
        ({"EMBEDDED": "off"}, False),
        ({"EMBEDDED": "off", "STANDINS": "on"}, True),
    ],
)
def test_stand_ins_are_for_one_machine_unless_asked_for(
    tmp_path: Path, environment: dict[str, str], are_started: bool
) -> None:
    code = "from config import settings; print(settings.STANDINS)"
    inherited = {name: value for name, value in os.environ.items() if "STANDIN" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "DATA_DIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(are_started)
