"""The self-test: it passes where functions are isolated, and fails, row by row, where not."""

import os
from typing import Any

import pytest
from django.core.management import call_command

from deployments.runtime import isolation, local_bwrap
from deployments.runtime.isolation import NotIsolated
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain
from tests.deployments.sandboxes import as_ordinary_user, needs_bwrap

pytestmark = pytest.mark.functions


@needs_bwrap
async def test_every_promise_holds_in_a_sandbox() -> None:
    findings = await isolation.verify(LocalBwrap())
    assert [each for each in findings if not each.ok] == []
    isolation.require(findings)


@needs_bwrap
def test_every_promise_holds_without_root() -> None:
    findings = as_ordinary_user(lambda: isolation.verify(LocalBwrap()))
    assert [each for each in findings if not each.ok] == []
    (user,) = [each for each in findings if each.row == "a user id of its own"]
    assert user.expected == "not available without root"


@pytest.mark.skipif(os.geteuid() != 0, reason="shows what root could do")
async def test_every_promise_that_isolation_makes_fails_without_it() -> None:
    findings = await isolation.verify(LocalPlain())
    assert {each.row for each in findings if each.ok} == {"process 1 tells no variable"}
    with pytest.raises(NotIsolated) as refusal:
        isolation.require(findings)
    assert "cannot read the host's /etc/shadow (expected an error, saw " in str(refusal.value)
    assert isolation.REMEDY in str(refusal.value)


async def test_a_machine_that_cannot_start_sandboxes_is_one_failed_row_with_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_bwrap.shutil, "which", lambda *_, **__: None)
    (finding,) = await isolation.verify(LocalBwrap())
    assert finding.row == "functions start"
    assert not finding.ok
    assert "Install bubblewrap" in finding.seen


@needs_bwrap
async def test_what_bubblewrap_complains_of_is_the_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_bwrap, "CODE", "/proc/self/no/such/place")
    (finding,) = await isolation.verify(LocalBwrap())
    assert "bwrap: " in finding.seen


@needs_bwrap
def test_the_command_shows_the_table(capsys: Any) -> None:
    call_command("check_isolation")
    output = capsys.readouterr().out
    assert "system calls refused" in output
    assert "Functions are isolated on this machine." in output


def test_the_command_says_what_to_do_where_nothing_isolates(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_bwrap.shutil, "which", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        call_command("check_isolation")
    shown = capsys.readouterr()
    assert "FAILS" in shown.out
    assert "In Docker" in shown.err
