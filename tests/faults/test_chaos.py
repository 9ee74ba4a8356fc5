"""Half a minute of random kills; `make chaos` goes on for as long as you like."""

import os

import pytest

from tests.faults import chaos

pytestmark = pytest.mark.faults


def test_whatever_dies_every_call_is_exact():
    seed = int(os.environ.get("SEED", "") or int.from_bytes(os.urandom(3), "big"))
    assert chaos.run(30, seed) == []
