"""Slots: the calls in flight, in memory that outlives the process. Pure over a buffer.

A slot is 1,024 bytes: 64-bit words (state, pieces relayed, usage as the provider reported it), then
the call's description (records.py). Order is what makes it safe under kill -9 at any instruction:
the description and zeroed counters first, the state last; a settlement is in the log before its
slot is freed. Must not know files or what a description means.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from billing.pricing import RECORDED, Usage, recorded

SLOT_BYTES = 1024
WORDS = SLOT_BYTES // 8
FREE, OPEN = 0, 1
BELIEVED, DOUBTFUL = 1, 2
STATE, RELAYED, IS_REPORTED, LENGTH, REPORTED = range(5)
# After the last word of usage.
DESCRIPTION_AT = 24 * 8
DESCRIPTION_BYTES_MAX = SLOT_BYTES - DESCRIPTION_AT
TOKENS_MAX = 2**62


class NoFreeSlot(Exception):
    """As many calls are in flight as there are slots."""


class DescriptionTooLong(Exception):
    """A call's description does not fit into a slot."""


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """A call that was in flight: its description, and how far it had come."""

    index: int
    description: bytes
    relayed: int
    reported: Usage | None


class SlotTable:
    """Slots over a writable buffer whose length is a multiple of SLOT_BYTES."""

    def __init__(self, buffer: memoryview) -> None:
        """The buffer's free slots are free to be used; nothing is cleared."""
        self._bytes = buffer.cast("B")
        self._words = self._bytes.cast("Q")
        count = len(self._bytes) // SLOT_BYTES
        # Popped from the end: the lowest indexes, whose memory is warm, first.
        self._free = [
            index for index in reversed(range(count)) if self._words[index * WORDS] == FREE
        ]

    @property
    def free_count(self) -> int:
        """How many more calls fit."""
        return len(self._free)

    def open(self, description: bytes) -> int:
        """Take a slot for a call; its index. Raises NoFreeSlot, DescriptionTooLong."""
        if not self._free:
            raise NoFreeSlot
        _require_short(description)
        index = self._free.pop()
        word = index * WORDS
        self._words[word + RELAYED] = 0
        self._words[word + IS_REPORTED] = 0
        self._describe(index, description)
        self._words[word + STATE] = OPEN
        return index

    def describe(self, index: int, description: bytes) -> None:
        """Another description for the same call (another candidate serves it).

        Same length or not, a death in the middle leaves a description that cannot be read; the
        caller asks nothing of a provider until it is written. Raises DescriptionTooLong.
        """
        _require_short(description)
        self._words[index * WORDS + STATE] = FREE
        self._describe(index, description)
        self._words[index * WORDS + STATE] = OPEN

    def relay(self, index: int, pieces: int) -> None:
        """How many pieces of output have been relayed in all, the one about to go included."""
        self._words[index * WORDS + RELAYED] = pieces

    def report(self, index: int, usage: Usage) -> None:
        """What the provider has reported so far: replaces what was said before."""
        word = index * WORDS
        for place, tokens in enumerate(_counts(usage)):
            self._words[word + REPORTED + place] = min(max(tokens, 0), TOKENS_MAX)
        self._words[word + IS_REPORTED] = DOUBTFUL if usage.is_doubtful else BELIEVED

    def free(self, index: int) -> None:
        """The call's settlement is in the log: the slot can take another."""
        self._words[index * WORDS + STATE] = FREE
        self._free.append(index)

    def scan(self) -> Iterator[OpenSlot]:
        """The calls in flight."""
        for index in range(len(self._words) // WORDS):
            word = index * WORDS
            if self._words[word + STATE] == OPEN:
                yield self._read(index)

    def release(self) -> None:
        """Let go of the buffer, so that it can be closed."""
        self._words.release()
        self._bytes.release()

    def _describe(self, index: int, description: bytes) -> None:
        self._words[index * WORDS + LENGTH] = len(description)
        start = index * SLOT_BYTES + DESCRIPTION_AT
        self._bytes[start : start + len(description)] = description

    def _read(self, index: int) -> OpenSlot:
        word, start = index * WORDS, index * SLOT_BYTES + DESCRIPTION_AT
        length = min(self._words[word + LENGTH], DESCRIPTION_BYTES_MAX)
        reported = None
        if self._words[word + IS_REPORTED]:
            first = word + REPORTED
            counts = self._words[first : first + len(RECORDED)].tolist()
            is_doubtful = self._words[word + IS_REPORTED] == DOUBTFUL
            reported = recorded(counts, is_doubtful=is_doubtful)
        return OpenSlot(
            index=index,
            description=bytes(self._bytes[start : start + length]),
            relayed=self._words[word + RELAYED],
            reported=reported,
        )


_counts: "attrgetter[tuple[int, ...]]" = attrgetter(*RECORDED)


def _require_short(description: bytes) -> None:
    if len(description) > DESCRIPTION_BYTES_MAX:
        raise DescriptionTooLong(f"{len(description)} bytes; {DESCRIPTION_BYTES_MAX} fit.")
