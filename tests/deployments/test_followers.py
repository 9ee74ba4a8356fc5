"""Reading on in a log: every line once, in order, and a jump when too many wait."""

import pytest
from django.utils import timezone

from deployments import followers, logs
from deployments.models import Deployment
from orgs.models import Workspace
from tests import factories

NOW = timezone.now()


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def write(deployment: Deployment, *messages: str, request_id: str = "") -> None:
    logs.append_many(
        [logs.LogLine(deployment.pk, "chat", request_id, message, NOW) for message in messages]
    )


def read_all(follower: followers.Follower) -> tuple[list[str], int]:
    """Messages until there are no more, and how many were dropped."""
    read: list[str] = []
    dropped = 0
    while True:
        batch = follower.read()
        read += [entry.message for entry in batch.entries]
        dropped += batch.dropped
        if batch.is_last:
            return read, dropped


def test_it_begins_with_the_newest_lines_and_reads_on(
    deployment: Deployment, workspace: Workspace
) -> None:
    other = factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    write(deployment, "a", "b", "c")
    follower = followers.from_tail(deployment.pk, only=logs.EVERY_LINE, lines=2)
    write(other, "foreign")
    assert read_all(follower) == (["b", "c"], 0)
    assert read_all(follower) == ([], 0)
    write(deployment, "d")
    assert read_all(follower) == (["d"], 0)


@pytest.mark.parametrize(("lines", "read"), [(0, []), (1, ["c"]), (3, ["a", "b", "c"]), (9, None)])
def test_the_number_of_lines_to_begin_with_may_be_any(
    deployment: Deployment, lines: int, read: list[str] | None
) -> None:
    write(deployment, "a", "b", "c")
    follower = followers.from_tail(deployment.pk, only=logs.EVERY_LINE, lines=lines)
    assert read_all(follower)[0] == (["a", "b", "c"] if read is None else read)


def test_the_tail_of_a_request_is_found_however_far_back(deployment: Deployment) -> None:
    write(deployment, "wanted 1", "wanted 2", request_id="r1")
    write(deployment, *["other"] * 20, request_id="r2")
    only = logs.LineFilter(request_id="r1")
    follower = followers.from_tail(deployment.pk, only=only, lines=1)
    assert read_all(follower) == (["wanted 2"], 0)
    assert follower.position == logs.newest_id(deployment.pk)


def test_batches_are_bounded_and_lose_nothing(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "BATCH_MAX", 3)
    written = [str(number) for number in range(10)]
    write(deployment, *written)
    follower = followers.from_id(deployment.pk, only=logs.EVERY_LINE, after_id=0)
    first = follower.read()
    assert (len(first.entries), first.is_last) == (3, False)
    assert read_all(follower) == (written[3:], 0)


def test_whoever_is_too_far_behind_is_put_forward_and_told(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "BATCH_MAX", 3)
    monkeypatch.setattr(followers, "BEHIND_MAX", 5)
    written = [str(number) for number in range(12)]
    write(deployment, *written)
    write(deployment, *["unwanted"] * 10, request_id="r2")
    follower = followers.from_id(deployment.pk, only=logs.LineFilter("", "chat"), after_id=0)
    read, dropped = read_all(follower)
    assert (read, dropped) == (["unwanted"] * 5, 17)
    assert read_all(follower) == ([], 0)
