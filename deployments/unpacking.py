"""The child process that unpacks one uploaded zip, held by the system to limits of its own.

Owns those limits and what the child answers. Pure, and started without Django, settings or an
environment (`confinement.py` starts it): whatever a hostile archive makes of zlib or of a route
pattern happens here, where there is nothing to take and nothing to take down.

The bundle is standard input, the empty target folder the argument; the answer is one JSON object
on standard output: `{"manifest", "environment"}`, `{"refusal": message}` or `{"crash": traceback}`.
"""

import json
import os
import resource
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments import bundles, layout, staticindex

# Frames of a pattern or of nested JSON: what can be read here can be read in a server's deep stack.
RECURSION_MAX = 500
NICENESS = 10  # visitors of sites come first
TRACEBACK_CHARACTERS_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What the system lets the child have."""

    memory_bytes: int = 512 * bundles.MIB  # of address space, the interpreter's 30 MB included
    cpu_seconds: int = 60
    file_bytes: int = 101 * bundles.MIB  # a little more than bundles.Budget, which says so nicely
    open_files: int = 32


def confine(limits: Limits) -> None:
    """Hold this process to `limits` for good, with no core dump."""
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
    ):
        if kind != resource.RLIMIT_AS or sys.platform != "darwin":  # macOS refuses that one
            resource.setrlimit(kind, (limit, limit))
    os.nice(NICENESS)
    sys.setrecursionlimit(RECURSION_MAX)


def answer(folder: Path) -> Mapping[str, Any]:
    """Unpack standard input below `folder`; the answer, as the module's docstring has it."""
    try:
        with open(0, "rb", closefd=False) as bundle:
            bundles.unpack(bundle, folder)
        unpacked = layout.read(folder)
        # Its variables go into the encrypted snapshot; plain text is not left lying around.
        (folder / layout.ENVIRONMENT_FILE).unlink(missing_ok=True)
        staticindex.write(folder)
        # One call for all files: an fsync each took seconds for a bundle of three thousand. Linux
        # returns when everything is on the disk (sync(2)).
        os.sync()
    except (bundles.UnableToReadBundle, layout.UnableToReadLayout) as error:
        return {"refusal": str(error)}
    except MemoryError:
        return {"refusal": "The bundle needs too much memory to unpack."}
    except Exception:  # told to the parent, which logs it
        return {"crash": traceback.format_exc()[-TRACEBACK_CHARACTERS_MAX:]}
    return {"manifest": unpacked.manifest, "environment": unpacked.environment}


def main() -> None:
    """Entry point: `<folder> <limits as JSON>`."""
    folder, limits = sys.argv[-2:]
    confine(Limits(**json.loads(limits)))
    json.dump(answer(Path(folder)), sys.stdout)
