"""Log lines: kept in order, cut, read back by age, purged."""

from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import logs, tasks
from deployments.models import Deployment, LogEntry
from orgs.models import Workspace
from tests import factories

NOW = timezone.now()


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def line(deployment: Deployment, message: str, *, minutes_ago: float = 0) -> logs.LogLine:
    return logs.LogLine(
        deployment.pk, "default", "req-1", message, NOW - timedelta(minutes=minutes_ago)
    )


def messages(entries: list[LogEntry]) -> list[str]:
    return [entry.message for entry in entries]


def test_recent_lines_come_oldest_first(deployment: Deployment, workspace: Workspace) -> None:
    other = factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    logs.append_many(
        [
            line(deployment, "old", minutes_ago=61),
            line(deployment, "first", minutes_ago=5),
            line(deployment, "second"),
            line(deployment, "third"),
            line(other, "foreign"),
        ]
    )
    assert messages(logs.recent(deployment, minutes=60, at=NOW)) == ["first", "second", "third"]
    assert messages(logs.recent(deployment, minutes=60, limit=2, at=NOW)) == ["second", "third"]


def test_messages_are_cut_and_made_storable(deployment: Deployment) -> None:
    logs.append(
        deployment.pk,
        function_name="f" * 300,
        request_id="r" * 100,
        message="\0\ud800" + "é" * 10_000,
        at=NOW,
    )
    entry = LogEntry.objects.get()
    assert len(entry.message.encode()) <= logs.MESSAGE_BYTES_MAX
    assert entry.message.startswith("\ufffd?é")
    assert entry.message.endswith("é … (cut)")


def test_lines_past_their_retention_are_purged(deployment: Deployment) -> None:
    logs.append_many([line(deployment, "old", minutes_ago=24 * 60 + 1), line(deployment, "new")])
    tasks.purge_logs.apply(kwargs={"from_a_newer_publisher": 1}).get()
    assert messages(list(LogEntry.objects.all())) == ["new"]
