"""Log lines: kept in order, cut, read back by age, dropped when there are too many, purged."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from deployments import logs, tasks
from deployments.models import Deployment, LogEntry, LogStream
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


def test_lines_of_one_request_or_function_are_found(deployment: Deployment) -> None:
    logs.append_many(
        [
            logs.LogLine(deployment.pk, function, request, f"{function} {request}", NOW)
            for function in ("chat", "api")
            for request in ("r1", "r2")
        ]
    )

    def found(only: logs.LineFilter) -> list[str]:
        return messages(logs.recent(deployment, minutes=1, only=only, at=NOW))

    assert found(logs.LineFilter(request_id="r2")) == ["chat r2", "api r2"]
    assert found(logs.LineFilter(function_name="api")) == ["api r1", "api r2"]
    assert found(logs.LineFilter("r1", "chat")) == ["chat r1"]
    assert found(logs.LineFilter("r3")) == []


def test_of_a_log_that_is_too_long_the_oldest_lines_are_dropped(
    deployment: Deployment, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LINES_MAX", 10)
    monkeypatch.setattr(logs, "LINES_DROPPED_AT_ONCE", 3)
    other = factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    logs.append_many([line(other, "other's")])
    logs.append_many([line(deployment, str(number)) for number in range(12)])
    assert LogStream.objects.get(deployment=deployment).line_count == 12
    logs.append_many([line(deployment, "12")])
    kept = messages(list(LogEntry.objects.filter(deployment=deployment)))
    assert kept == [str(number) for number in range(3, 13)]
    assert LogStream.objects.get(deployment=deployment).line_count == 10
    assert LogEntry.objects.filter(deployment=other).count() == 1


def test_purging_counts_what_is_left(deployment: Deployment) -> None:
    logs.append_many([line(deployment, "old", minutes_ago=24 * 60 + 1), line(deployment, "new")])
    assert logs.purge(at=NOW) == 1
    assert LogStream.objects.get(deployment=deployment).line_count == 1


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_lines_become_visible_in_the_order_of_their_ids() -> None:
    deployment = factories.make_deployment(workspace=factories.make_workspace())
    logs.append_many([line(deployment, "before")])

    def append() -> None:
        logs.append_many([line(deployment, "from another process")])
        connection.close()

    other = threading.Thread(target=append)
    with transaction.atomic():
        logs.append_many([line(deployment, "not committed yet")])
        other.start()
        other.join(0.5)
        # Otherwise its line, with the higher id, would be seen before ours.
        assert other.is_alive()
    other.join(10)
    assert messages(list(LogEntry.objects.all())) == [
        "before",
        "not committed yet",
        "from another process",
    ]


def test_a_line_cannot_command_the_terminal_of_whoever_reads_it(deployment: Deployment) -> None:
    message = "\x1b[31mred\x1b[0m\t\x1b]0;owned\x07\x1b[2J\r\x9b\nnext"
    logs.append_many([line(deployment, message)])
    assert LogEntry.objects.get().message == "red\t␛]0;owned␇␛[2J␍\ufffd\nnext"
