"""How often the interpreter looks for garbage in cycles: rarely, in a process that serves.

Owns the collector's settings of serving processes. Must know nothing of what is served.
"""

import gc

# CPython's 700 allocations are a few calls' worth. Most of a call's objects are freed by counting
# references; what is left in cycles after so many is a few megabytes.
YOUNG_OBJECTS_MAX = 5_000
GENERATIONS = 20


def collect_rarely() -> None:
    """Leave out for ever what has been loaded by now, and look through the rest less often.

    Django and the dialects are some 300,000 objects: looking through them takes 0.1 to 0.3 s, in
    which no stream moves. Serving without that took 15 % less CPU a call (docs/adr/0003).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, GENERATIONS, GENERATIONS)
