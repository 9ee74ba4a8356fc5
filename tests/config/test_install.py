"""The installer: does nothing twice, and says why it could not."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import install

Names = list[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with requirement files that name nothing."""
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-model.txt"):
        (tmp_path / name).write_text("# nothing\n")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(sys, "argv", ["install.py"])
    return tmp_path


@pytest.fixture
def ran(root: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """What was run, with nothing run."""
    names: Names = []

    def make_venv(command: Names, **_: object) -> None:
        names.append("venv")
        (root / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (root / ".venv" / "bin" / "python").touch()
        (root / ".venv" / "bin" / "pip").touch()

    monkeypatch.setattr(subprocess, "run", make_venv)
    monkeypatch.setattr(install, "install", names.append)
    return names


def test_installing_twice_does_it_once(ran: Names) -> None:
    install.main()
    install.main()
    assert ran == ["venv", "requirements.txt", "requirements-model.txt"]


def test_a_changed_pin_installs_again(ran: Names, root: Path) -> None:
    install.main()
    ran.clear()
    (root / "requirements-model.txt").write_text("x==1\n")
    install.main()
    assert ran == ["requirements.txt", "requirements-model.txt"]


def test_development_has_requirements_and_a_stamp_of_its_own(
    ran: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.main()
    monkeypatch.setattr(sys, "argv", ["install.py", "--dev"])
    install.main()
    install.main()
    assert ran[3:] == ["requirements-dev.txt", "requirements-model.txt"]


def test_an_interrupted_venv_is_made_again(ran: Names, root: Path) -> None:
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").touch()
    install.main()
    assert ran[0] == "venv"


def test_an_interrupted_installation_is_repeated(
    ran: Names, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SystemExit("no")

    with monkeypatch.context() as patched:
        patched.setattr(install, "install", fail)
        with pytest.raises(SystemExit):
            install.main()
    install.main()
    assert ran == ["venv", "requirements.txt", "requirements-model.txt"]


def test_an_old_python_is_told_what_to_do(ran: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed.*PYTHON="):
        install.main()
    assert ran == []


def test_a_failure_shows_pips_own_words(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    (root / "requirements.txt").write_text("no-such-package-of-ours==1.0\n")
    with pytest.raises(SystemExit) as raised:
        install.install("requirements.txt", "--no-index")
    assert "no-such-package-of-ours==1.0" in str(raised.value)
    assert "Installation failed" in str(raised.value)


def test_progress_counts_packages_once() -> None:
    text = "a==1 \\\n    --hash=sha256:0\nB.c[x,y]==2 ; python_version < '4'\n    # via a\n"
    assert install.NAMES.findall(text) == ["a", "B.c"]
    for line in ("Collecting a==1", "  Requirement already satisfied: a in x", "Processing ./a"):
        assert install.STARTED.match(line)
    assert not install.STARTED.match("Downloading a.whl")
