"""Tallies of one process, for monitoring: what its calls came to, and how late they are booked.

In memory only, since the process's start. Owns counting, at about a microsecond a call; bills
are made of usage records, never of these. Times are arguments. Must not know how it is read.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from billing.calls import Ending, Opening

# Upper ends of a histogram, in milliseconds: from a cached word to the longest agent's turn.
DURATIONS_MS = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000)
MARK_SECONDS = 1.0
MARKS_MAX = 100_000  # more than a day without anybody booking


@dataclass(slots=True)
class Durations:
    """A histogram: how many were at most each of DURATIONS_MS (the last: longer), and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATIONS_MS) + 1))
    sum_ms: int = 0

    def add(self, milliseconds: int) -> None:
        """One more."""
        self.counts[bisect_left(DURATIONS_MS, milliseconds)] += 1
        self.sum_ms += milliseconds


@dataclass(slots=True)
class Sum:
    """What the calls of one provider and model came to that ended alike."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    durations: Durations = field(default_factory=Durations)
    first_tokens: Durations = field(default_factory=Durations)


class Tally:
    """Sums of ended calls. There are as many as the catalog has models, and ways to end."""

    def __init__(self) -> None:
        # By provider, its name of the model, and the status of the call.
        self.sums: dict[tuple[str, str, str], Sum] = {}
        # Attempts that brought no answer, by provider and outcome.
        self.failures: dict[tuple[str, str], int] = {}

    def add(self, opening: Opening, ending: Ending, cost_nanos: int) -> None:
        """A call has been settled."""
        served = ending.served or opening
        key = (served.provider, served.upstream_model, ending.status)
        total = self.sums.get(key)
        if total is None:
            total = self.sums[key] = Sum()
        total.calls += 1
        total.input_tokens += ending.usage.whole_input
        total.output_tokens += ending.usage.whole_output
        total.cost_nanos += cost_nanos
        total.durations.add(ending.duration_ms)
        if ending.first_token_ms is not None:
            total.first_tokens.add(ending.first_token_ms)
        for attempt in ending.attempts:
            failure = (attempt.get("provider", ""), attempt.get("outcome", ""))
            self.failures[failure] = self.failures.get(failure, 0) + 1


class Lag:
    """How long the oldest settlement has been waiting to be booked, to a second."""

    def __init__(self) -> None:
        # Positions of the log, and when they were reached: one a second at most.
        self._marks: deque[tuple[int, float]] = deque(maxlen=MARKS_MAX)

    def wrote(self, position: int, now: float) -> None:
        """The log has grown up to `position` by `now`."""
        if not self._marks or now - self._marks[-1][1] >= MARK_SECONDS:
            self._marks.append((position, now))

    def seconds(self, *, booked: int, written: int, now: float) -> float:
        """The wait so far, when the log is booked up to one position and written up to another."""
        if booked >= written:
            self._marks.clear()
            return 0.0
        last = now
        while self._marks and self._marks[0][0] <= booked:
            last = self._marks.popleft()[1]
        if not self._marks:  # what waits was written within a second after the last mark
            self._marks.append((written, last))
        return now - self._marks[0][1]
