"""The collector's settings, seen in a process of their own: they hold for all of it."""

import subprocess
import sys

LEAVE_OUT = """
import gc
from config import garbage
cycle = []
cycle.append(cycle)
garbage.collect_rarely()
assert gc.get_freeze_count() > 1_000, gc.get_freeze_count()
assert not gc.get_objects(generation=2), "what was there is looked through again"
assert gc.get_threshold()[0] > 700
assert gc.isenabled(), "cycles made from now on are garbage, too"
"""


def test_what_is_there_is_left_out_and_what_comes_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE_OUT], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
