"""The file system a function sees: Node.js, its libraries and a few files of /etc, nothing else.

Owns which files of this machine are shared with functions, at the paths they have here, and what
the made-up files of /etc say. There is no shell. Must not know how the tree is mounted.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from deployments.runtime.driver import UnableToLaunch
from deployments.runtime.local_plain import BOOTSTRAP, node_path

NODE = "/usr/bin/node"
RUNTIME = "/var/runtime"
BOOTSTRAP_INSIDE = f"{RUNTIME}/{BOOTSTRAP.name}"
LDD_SECONDS_MAX = 10

# Opened by the C library or by native add-ons when they need them; beside the C library.
_EXTRA_LIBRARIES = ("libresolv.so.2", "librt.so.1", "libnss_files.so.2", "libnss_dns.so.2")
# Node has certificates of its own; other programs look here. Debian, Alpine; Fedora.
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


@dataclass(frozen=True)
class Tree:
    """Files of this machine by the path at which a function sees them; both absolute."""

    files: tuple[tuple[str, str], ...]  # (here, inside)
    programs: tuple[tuple[str, str], ...]  # name -> path, of the helpers asked for

    def program(self, name: str) -> str:
        """Where a helper is, here and inside."""
        return dict(self.programs)[name]

    @property
    def folders(self) -> list[str]:
        """Every folder above the files, outermost first."""
        return parents_of(inside for _, inside in self.files)


@lru_cache
def tree(helpers: tuple[str, ...]) -> Tree:
    """Node, its bootstrap and `helpers`: programs of this machine that start it.

    Raises UnableToLaunch.
    """
    programs = {name: _program(name) for name in helpers}
    node = str(node_path())
    shared = {inside: here for here, inside in ((node, NODE), (str(BOOTSTRAP), BOOTSTRAP_INSIDE))}
    for program in (node, *programs.values()):
        for library in _libraries(program):
            shared[library] = library
    for library in list(shared):
        if Path(library).name.startswith("libc.so"):
            shared |= {path: path for path in _extra_libraries(Path(library).parent)}
    shared |= {path: path for path in programs.values()}
    shared |= {path: path for path in _CERTIFICATES if Path(path).exists()}
    return Tree(tuple((here, inside) for inside, here in shared.items()), tuple(programs.items()))


def etc_files(uid: int, hosts: Iterable[str]) -> dict[str, str]:
    """Path -> content of /etc: one user; `hosts` are names of the function's own loopback."""
    names = " ".join(["localhost", "function", *dict.fromkeys(hosts)])
    return {
        "/etc/passwd": f"root:x:0:0::/:/bin/false\nfunction:x:{uid}:{uid}::/tmp:/bin/false\n",
        "/etc/group": f"root:x:0:\nfunction:x:{uid}:\n",
        "/etc/hosts": f"127.0.0.1 {names}\n::1 localhost\n",
        # Nobody to ask: names that are not in /etc/hosts do not exist.
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "/etc/resolv.conf": "",
    }


def parents_of(paths: Iterable[str]) -> list[str]:
    """Every folder above the paths but the root, outermost first."""
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    return sorted(folders - {"/"})


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise UnableToLaunch(f"Functions are started with '{name}': install it (util-linux).")
    return found


def _libraries(program: str) -> list[str]:
    """The shared libraries of a program of this machine, as ldd(1) finds them."""
    listed = subprocess.run(  # noqa: S603 - programs of this machine
        [_program("ldd"), program],
        capture_output=True,
        text=True,
        check=False,
        timeout=LDD_SECONDS_MAX,
    )
    return _LIBRARY.findall(listed.stdout)


def _extra_libraries(folder: Path) -> list[str]:
    return [str(folder / name) for name in _EXTRA_LIBRARIES if (folder / name).exists()]
