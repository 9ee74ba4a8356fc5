"""Slots say how far each call had come, whatever instruction its process died at."""

import pytest

from billing.journal.slots import (
    DESCRIPTION_BYTES_MAX,
    SLOT_BYTES,
    DescriptionTooLong,
    NoFreeSlot,
    SlotTable,
)
from billing.pricing import Usage


@pytest.fixture
def memory():
    return bytearray(SLOT_BYTES * 3)


@pytest.fixture
def table(memory):
    return SlotTable(memoryview(memory))


def test_an_open_slot_is_found_by_whoever_maps_the_memory(table, memory):
    index = table.open(b"a call")
    table.relay(index, 7)
    table.report(index, Usage(input=5, output=2**40))
    [found] = SlotTable(memoryview(memory)).scan()
    assert (found.description, found.relayed) == (b"a call", 7)
    assert found.reported == Usage(input=5, output=2**40)


def test_a_call_without_a_report_says_so(table):
    table.open(b"a call")
    [found] = table.scan()
    assert (found.relayed, found.reported) == (0, None)


def test_a_freed_slot_takes_another_call_and_forgets_the_first(table):
    first = table.open(b"the first, with a long description")
    table.relay(first, 9)
    table.report(first, Usage(input=9))
    table.free(first)
    assert list(table.scan()) == []
    assert table.open(b"second") == first
    [found] = table.scan()
    assert (found.description, found.relayed, found.reported) == (b"second", 0, None)


def test_another_description_replaces_the_first(table):
    index = table.open(b"for the first candidate")
    table.relay(index, 3)
    table.describe(index, b"second")
    [found] = table.scan()
    assert (found.description, found.relayed) == (b"second", 3)


def test_a_full_table_refuses(table):
    for _ in range(3):
        table.open(b"call")
    assert table.free_count == 0
    with pytest.raises(NoFreeSlot):
        table.open(b"call")


def test_a_description_has_a_size(table):
    table.open(bytes(DESCRIPTION_BYTES_MAX))
    with pytest.raises(DescriptionTooLong):
        table.open(bytes(DESCRIPTION_BYTES_MAX + 1))
    assert table.free_count == 2


def test_nonsense_from_a_provider_fits_a_slot(table):
    index = table.open(b"call")
    table.report(index, Usage(input=-5, output=10**30))
    [found] = table.scan()
    assert found.reported == Usage(input=0, output=2**62)
