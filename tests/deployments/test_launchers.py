"""FUNCTION_DRIVER becomes a launcher, or a reason why functions do not run."""

import asyncio
from pathlib import Path

import pytest

from deployments.runtime import launchers
from deployments.runtime.driver import FunctionSpec, Place
from deployments.runtime.launchers import UnableToChoose
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """bubblewrap is on the path, whatever this machine has."""
    (tmp_path / "bwrap").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The path has no program at all."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("allow_plain", [True, False])
def test_auto_isolates_where_bubblewrap_is_installed(install: None, allow_plain: bool) -> None:
    assert isinstance(launchers.choose("auto", allow_plain=allow_plain), LocalBwrap)


def test_auto_is_plain_on_a_laptop_without_bubblewrap(uninstall: None) -> None:
    assert isinstance(launchers.choose("auto", allow_plain=True), LocalPlain)


def test_auto_runs_nothing_in_production_without_bubblewrap(uninstall: None) -> None:
    with pytest.raises(UnableToChoose, match="apt install bubblewrap"):
        launchers.choose("auto", allow_plain=False)


def test_a_driver_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnableToChoose) as raised:
        launchers.choose("docker", allow_plain=True)
    assert str(raised.value) == (
        "FUNCTION_DRIVER='docker' is unknown; choose one of: "
        "auto, local-bwrap, local-plain, aws-lambda."
    )


async def test_a_launcher_that_promises_nothing_has_nothing_to_prove() -> None:
    await launchers.prove(LocalPlain())


class Leaky(LocalBwrap):
    """A sandbox with a hole: it starts functions as the plain launcher does."""

    async def launch(self, spec: FunctionSpec, place: Place) -> asyncio.subprocess.Process:
        return await LocalPlain().launch(spec, place)


async def test_a_launcher_that_breaks_a_promise_is_refused_with_the_promise() -> None:
    with pytest.raises(UnableToChoose) as raised:
        await launchers.prove(Leaky())
    assert "none will run: " in str(raised.value)
    assert "cannot read a file of the host" in str(raised.value)
