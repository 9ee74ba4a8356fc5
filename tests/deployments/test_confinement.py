"""The child that unpacks bundles: what it is given, what it is refused, how its end is told."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from deployments import confinement
from deployments.bundles import MIB
from deployments.unpacking import Limits
from tests.deployments.zips import config, function_site, make_zip, static_site

PROBE = """
import json, os, resource, socket, sys
sys.path.append(sys.argv[1])
from deployments import unpacking
unpacking.confine(unpacking.Limits())
def refused(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__
    return ""
print(json.dumps({
    "environment": dict(os.environ),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "top": sorted(os.listdir("/")),
    "modules": sorted(name for name in sys.modules if name.startswith("django")),
    "outside": refused(lambda: open("/etc/passwd")),
    "write": refused(lambda: open(sys.argv[1] + "/deployments/planted", "w")),
}))
"""


def opened(content: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the fixture's file dies with the test
    file.write(content)
    file.flush()
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


@pytest.fixture(params=["bubblewrap", "limits alone"])
def shut_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways a child is started; where bubblewrap does not run, there is one."""
    if request.param == "limits alone":
        monkeypatch.setattr(confinement, "_shut_in", tuple)
    elif not confinement._shut_in():
        pytest.skip("bubblewrap does not run here")
    return request.param


def test_a_bundle_is_unpacked_and_understood(folder: Path, shut_in: str) -> None:
    bundle = function_site(**{".env.production": "KEY=välue\n", "static/ä.txt": "ä"})
    with opened(bundle) as file:
        found = confinement.unpack(file, folder)
    assert found.mode == "ssr"
    assert found.environment == {"KEY": "välue"}
    assert (folder / "static/ä.txt").read_text() == "ä"
    assert not (folder / ".env.production").exists()


def test_a_refusal_is_told_in_its_own_words(folder: Path, shut_in: str) -> None:
    with (
        opened(make_zip({"../x": "x"})) as file,
        pytest.raises(
            confinement.UnableToUnpack, match=r"Entry '\.\./x': the path contains '\.\.'"
        ),
    ):
        confinement.unpack(file, folder)


def test_a_bundle_that_needs_too_much_memory_is_refused(folder: Path, shut_in: str) -> None:
    many = make_zip({f"static/{number}": "" for number in range(9_000)} | {"config.json": config()})
    with opened(many) as file, pytest.raises(confinement.UnableToUnpack, match="memory"):
        confinement.unpack(file, folder, limits=Limits(memory_bytes=MIB))


def test_a_bundle_that_takes_too_much_processor_is_refused(folder: Path, shut_in: str) -> None:
    """Enough zeros for a second and more, each file within the ratio's first megabyte."""
    slow = make_zip({f"static/{number}": bytes(MIB) for number in range(240)})
    with opened(slow) as file, pytest.raises(confinement.UnableToUnpack, match="too long"):
        confinement.unpack(file, folder, limits=Limits(cpu_seconds=0))


def test_a_child_that_does_not_end_is_killed(
    folder: Path, shut_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "START", "import time; time.sleep(3600)")
    with (
        opened(static_site()) as file,
        pytest.raises(confinement.UnableToUnpack, match="took too long to unpack"),
    ):
        confinement.unpack(file, folder, seconds_max=0.5)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGXCPU", "SIGSEGV"])
def test_a_child_that_the_system_kills_is_told_as_what_it_was_refused(
    folder: Path, shut_in: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The kernel's killers of memory and time leave nothing but a signal."""
    kill = f"import os, signal; os.kill(os.getpid(), signal.{end})"
    monkeypatch.setattr(confinement, "START", kill)
    with (
        opened(static_site()) as file,
        pytest.raises(confinement.UnableToUnpack, match="too long or needed too much memory"),
    ):
        confinement.unpack(file, folder)


def test_a_child_that_ends_without_an_answer_is_the_platforms_fault(
    folder: Path, shut_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "START", "raise SystemExit(3)")
    with opened(static_site()) as file, pytest.raises(confinement.ChildCrashed, match="status 3"):
        confinement.unpack(file, folder)


def test_a_file_over_the_systems_limit_is_no_success(folder: Path, shut_in: str) -> None:
    large = make_zip({"config.json": config(), "static/a.bin": os.urandom(2 * MIB)})
    with opened(large) as file, pytest.raises(confinement.ChildCrashed, match="File too large"):
        confinement.unpack(file, folder, limits=Limits(file_bytes=MIB))


def test_the_child_has_no_environment_no_network_and_no_files_of_the_host() -> None:
    if not confinement._shut_in():
        pytest.skip("bubblewrap does not run here")
    command = [*confinement._shut_in(), "--", sys.executable, "-I", "-c", PROBE]
    done = subprocess.run(
        [*command, str(confinement.PACKAGE.parent)],
        env={},
        check=True,
        capture_output=True,
        timeout=60,
    )
    seen = json.loads(done.stdout)
    assert set(seen["environment"]) <= {"PWD", "LC_CTYPE"}
    assert seen["core"] == [0, 0]
    assert seen["files"] == [32, 32]
    assert seen["interfaces"] in ([], ["lo"])
    own = {path.parts[1] for path in (confinement.PACKAGE, Path(sys.base_prefix))}
    assert not ({"etc", "home", "tmp", "proc", "var"} - own) & set(seen["top"])
    assert seen["modules"] == []
    assert seen["outside"] == "FileNotFoundError"
    assert seen["write"] == "OSError"


def test_variables_of_the_platform_do_not_reach_the_child(
    folder: Path, shut_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "of the platform")
    monkeypatch.setattr(
        confinement,
        "START",
        "import json, os; print(json.dumps({'refusal': ' '.join(os.environ)}))",
    )
    with opened(static_site()) as file, pytest.raises(confinement.UnableToUnpack) as told:
        confinement.unpack(file, folder)
    assert set(str(told.value).split()) <= {"PWD", "LC_CTYPE"}


def test_patterns_too_deep_for_a_server_are_refused_in_the_child(folder: Path) -> None:
    deep = "(?:" * 150 + "a" + ")*" * 150
    bundle = make_zip({"config.json": config({"src": deep, "headers": {"a": "b"}})})
    with opened(bundle) as file, pytest.raises(confinement.UnableToUnpack, match=r"routes\[0\]"):
        confinement.unpack(file, folder)
