"""Hostile zips, deployed for real: each refused by name and rule, with nothing left or changed.

The archives are made here, byte by byte where no tool would write them. `deploy` is the whole way
from a stored upload to a release, the child process included.
"""

import contextlib
import json
import os
import random
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deployments import bundles, confinement, releases, storage
from deployments.models import Deployment, Release
from orgs.models import Workspace
from tests import factories
from tests.deployments.releasing import deploy
from tests.deployments.zips import (
    config,
    entry,
    make_zip,
    patched,
    static_site,
    with_descriptors,
    zip_of,
)

GOOD = ("config.json", config({"handle": "filesystem"}).encode())


def beside_good(*more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """A working site with hostile entries in it: they alone are the reason to refuse."""
    return zip_of((entry(GOOD[0]), GOOD[1]), *more)


def named(name: str, *, mode: int = 0) -> bytes:
    return beside_good((entry(name, mode=mode), b"x"))


def raw_named(name: bytes, *, utf8: bool = True) -> bytes:
    """An entry whose name is these bytes, which zipfile itself would not write."""
    stand_in = "N" * len(name)
    archive = bytearray(patched(named(stand_in), stand_in.encode(), name))
    if utf8:
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = archive.rindex(signature) + offset
            archive[at : at + 2] = struct.pack("<H", 0x800)
    return bytes(archive)


def headers_of(archive: bytes, name: bytes) -> tuple[int, int]:
    """Where the entry's local header and its record in the directory start."""
    local = archive.index(name) - 30
    central = archive.rindex(name) - 46
    assert archive[local:][:4] == b"PK\x03\x04"
    assert archive[central:][:4] == b"PK\x01\x02"
    return local, central


def forged(archive: bytes, name: bytes, *, local: Any = (), central: Any = ()) -> bytes:
    """`archive` with (offset, format, value) written into one entry's two headers."""
    found = headers_of(archive, name)
    changed = bytearray(archive)
    for start, changes in zip(found, (local, central), strict=True):
        for offset, form, value in changes:
            struct.pack_into(form, changed, start + offset, value)
    return bytes(changed)


def shared_body() -> bytes:
    """The overlap bomb: two records of the directory, one body."""
    archive = beside_good((entry("static/a"), b"x" * 100), (entry("static/b"), b"y" * 100))
    first, _ = headers_of(archive, b"static/a")
    return forged(archive, b"static/b", central=[(42, "<I", first)])


def quoted_overlap() -> bytes:
    """The first body covers the header of the second, as in the bombs of 2019."""
    archive = beside_good((entry("static/a"), b"x" * 50), (entry("static/b"), b"y" * 50))
    sizes = [(18, "<I", 120), (22, "<I", 120)], [(20, "<I", 120), (24, "<I", 120)]
    return forged(archive, b"static/a", local=sizes[0], central=sizes[1])


def lying_size() -> bytes:
    archive = make_zip({"config.json": GOOD[1], "static/liar": b"x" * 77_777})
    return patched(archive, struct.pack("<I", 77_777), struct.pack("<I", 10))


def zip64_lie() -> bytes:
    """A zip64 field that promises 2^60 bytes of content."""
    info = entry("static/huge")
    info.extra = struct.pack("<HHQQ", 1, 16, 2**60, 2**60)
    archive = beside_good((info, b"x" * 16))
    sizes = [(20, "<I", 0xFFFFFFFF), (24, "<I", 0xFFFFFFFF)]
    local = [(18, "<I", 0xFFFFFFFF), (22, "<I", 0xFFFFFFFF)]
    return forged(archive, b"static/huge", local=local, central=sizes)


def lying_descriptor() -> bytes:
    archive = bytearray(with_descriptors({"config.json": GOOD[1], "static/a": b"one" * 100}))
    struct.pack_into("<I", archive, archive.rindex(b"PK\x07\x08") + 12, 7)
    return bytes(archive)


def truncated() -> bytes:
    archive = static_site()
    return archive[: len(archive) - 30]


def commented(comment: bytes) -> bytes:
    archive = static_site()
    return archive[:-2] + struct.pack("<H", len(comment)) + comment


def encrypted() -> bytes:
    archive = named("static/secret")
    return forged(archive, b"static/secret", local=[(6, "<H", 1)], central=[(8, "<H", 1)])


def of_method(method: int) -> bytes:
    archive = named("static/odd")
    return forged(archive, b"static/odd", local=[(8, "<H", method)], central=[(10, "<H", method)])


def configured(text: str, **more: str) -> bytes:
    return make_zip({"config.json": text, "static/index.html": "x", **more})


def routed(*patterns: str) -> bytes:
    headers = {"x-a": "b"}
    return configured(config(*({"src": pattern, "headers": headers} for pattern in patterns)))


@dataclass(frozen=True)
class Hostile:
    """An archive, and what its refusal must say: which entry or place, and which rule."""

    name: str
    make: Callable[[], bytes]
    tells: tuple[str, ...]


E_ACUTE_NFD = unicodedata.normalize("NFD", "static/é")
CORPUS = [
    Hostile("traversal", lambda: named("../x"), ("'../x'", "'..' as a step")),
    Hostile("traversal inside", lambda: named("static/../../x"), ("'static/../../x'", "'..'")),
    Hostile("traversal at the end", lambda: named("static/.."), ("'static/..'", "'..'")),
    Hostile("a dot as a step", lambda: named("static/./x"), ("'static/./x'", "'.' as a step")),
    Hostile("an empty step", lambda: named("static//x"), ("'static//x'", "'' as a step")),
    Hostile("absolute", lambda: named("/etc/cron.d/x"), ("'/etc/cron.d/x'", "absolute")),
    Hostile("backslashes", lambda: named("..\\..\\x"), ("..\\\\..\\\\x", "backslash or colon")),
    Hostile("a drive letter", lambda: named("C:/x"), ("'C:/x'", "backslash or colon")),
    Hostile("a stream of NTFS", lambda: named("static/a:b"), ("'static/a:b'", "colon")),
    Hostile("no name", lambda: raw_named(b"/"), ("'/'", "folder with content")),
    Hostile(
        "a symbolic link",
        lambda: named("static/link", mode=stat.S_IFLNK | 0o777),
        ("'static/link'", "symbolic link"),
    ),
    Hostile(
        "a device",
        lambda: named("static/sda", mode=stat.S_IFBLK | 0o666),
        ("'static/sda'", "neither a file nor a folder"),
    ),
    Hostile(
        "a pipe",
        lambda: named("static/fifo", mode=stat.S_IFIFO | 0o666),
        ("'static/fifo'", "neither a file nor a folder"),
    ),
    Hostile(
        "a socket",
        lambda: named("static/sock", mode=stat.S_IFSOCK | 0o666),
        ("'static/sock'", "neither a file nor a folder"),
    ),
    Hostile(
        "set-user-id",
        lambda: named("functions/a.func/su", mode=stat.S_IFREG | stat.S_ISUID | 0o755),
        ("'functions/a.func/su'", "set-user-id"),
    ),
    Hostile(
        "a folder by mode, a file by name",
        lambda: named("static/x", mode=stat.S_IFDIR | 0o755),
        ("'static/x'", "by its mode or its name"),
    ),
    Hostile("a folder with content", lambda: named("static/x/"), ("'static/x/'", "with content")),
    Hostile("one body for two, as a hard link", shared_body, ("'static/b'", "overlaps")),
    Hostile("a body over the next header", quoted_overlap, ("'static/b'", "overlaps 'static/a'")),
    Hostile(
        "a bomb",
        lambda: make_zip({"config.json": GOOD[1], "static/bomb": bytes(50_000_000)}),
        ("'static/bomb'", "more than 200 times its size"),
    ),
    Hostile("a size that lies", lying_size, ("'static/liar'", "differ from the zip's directory")),
    Hostile(
        "another name in the local header",
        lambda: named("static/harmless").replace(b"harmless", b"harmful!", 1),
        ("'static/harmless'", "described differently at two places"),
    ),
    Hostile(
        "another checksum in the local header",
        lambda: forged(named("static/a"), b"static/a", local=[(14, "<I", 7)]),
        ("'static/a'", "described differently at two places"),
    ),
    Hostile(
        "a local header that is none",
        lambda: forged(named("static/a"), b"static/a", local=[(0, "<I", 0)]),
        ("'static/a'", "no header where the zip's directory says"),
    ),
    Hostile("a descriptor that lies", lying_descriptor, ("'static/a'", "described differently")),
    Hostile(
        "content that is not what was summed",
        lambda: patched(beside_good((entry("static/a"), b"content")), b"content", b"CONTENT"),
        ("'static/a'", "checksum"),
    ),
    Hostile(
        "the same name twice",
        lambda: patched(
            beside_good((entry("static/a"), b"1"), (entry("static/b"), b"2")),
            b"static/b",
            b"static/a",
        ),
        ("'static/a'", "the same name as 'static/a'"),
    ),
    Hostile(
        "names that differ by case",
        lambda: beside_good((entry("static/A.js"), b"1"), (entry("static/a.JS"), b"2")),
        ("'static/a.JS'", "the same name as 'static/A.js'"),
    ),
    Hostile(
        "names that differ by normal form",
        lambda: beside_good((entry("static/é"), b"1"), (entry(E_ACUTE_NFD), b"2")),
        (repr(E_ACUTE_NFD), "normal form C"),
    ),
    Hostile(
        "a file that is a folder, too",
        lambda: beside_good((entry("static/a"), b"1"), (entry("static/a/b"), b"2")),
        ("'static/a'", "both a file and a folder"),
    ),
    Hostile("a name that is not UTF-8", lambda: raw_named(b"static/\xff"), ("not valid UTF-8",)),
    Hostile("a NUL", lambda: raw_named(b"static/a.html\x00.exe"), ("a.html", "control character")),
    Hostile("a line feed", lambda: named("static/a\nb"), ("'static/a\\nb'", "control character")),
    Hostile(
        "a reversed reading order",
        lambda: named("static/\u202egnp.exe"),
        ("gnp.exe", "hides how it reads"),
    ),
    Hostile("a step too long", lambda: named("static/" + "a" * 256), ("aaa", "255 bytes")),
    Hostile("a name too long", lambda: named("static/" + "a/" * 260 + "b"), ("a/a/", "512 bytes")),
    Hostile(
        "too many entries",
        lambda: make_zip({f"static/{number}": "" for number in range(10_001)}),
        ("10,001 entries", "at most 10,000"),
    ),
    Hostile(
        "too many folders",
        lambda: make_zip({f"{number}/" + "a/" * 200 + "f": "" for number in range(101)}),
        ("more than 20,000 folders",),
    ),
    Hostile("a zip64 size that lies", zip64_lie, ("'static/huge'", "zip's directory")),
    Hostile("the platform's own folder", lambda: named(".platform/x"), ("'.platform/x'", "own")),
    Hostile("truncated", truncated, ("not a readable zip",)),
    Hostile("something before it", lambda: b"#!/bin/sh\n" + static_site(), ("before its first",)),
    Hostile("something behind it", lambda: static_site() + b"<?php ?>", ("behind its end",)),
    Hostile("a huge comment", lambda: commented(b"x" * 65_535), ("comment is longer than 1,024",)),
    Hostile("encrypted", encrypted, ("'static/secret'", "encrypted")),
    Hostile("an unknown method", lambda: of_method(97), ("'static/odd'", "store or deflate")),
    Hostile("deflate64", lambda: of_method(9), ("'static/odd'", "store or deflate")),
    Hostile("empty", lambda: make_zip({}), ("empty",)),
    Hostile("not a zip", lambda: os.urandom(2000), ("not a readable zip",)),
    Hostile(
        "a config of two megabytes",
        lambda: configured(json.dumps({"version": 1, "routes": [], "x": os.urandom(10**6).hex()})),
        ("config.json is larger than 1,024 KB",),
    ),
    Hostile(
        "a config nested beyond reason",
        lambda: configured('{"version": 1, "routes": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("config.json is nested too deeply",),
    ),
    Hostile("a pattern of 3,000 characters", lambda: routed("a" * 3000), ("routes[0]", "2,000")),
    Hostile(
        "a pattern nested beyond reason", lambda: routed("(" * 900 + ")" * 900), ("routes[0]",)
    ),
    Hostile(
        "a megabyte of patterns",
        lambda: routed(*(f"^/{number}" + "x" * 1900 for number in range(60))),
        ("patterns of all routes", "100,000 characters"),
    ),
    Hostile(
        "a function without an entry",
        lambda: configured(config(), **{"functions/api.func/README.md": "x"}),
        ("functions/api.func", "no entry file"),
    ),
]


@pytest.fixture
def live(workspace: Workspace) -> Release:
    """A release that serves before the attack."""
    deployment = factories.make_deployment(workspace=workspace, deployed=False)
    return deploy(deployment, static_site("still here"))


def files_below(*folders: Any) -> set[str]:
    return {str(path) for folder in folders for path in Path(folder).rglob("*")}


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
def test_a_hostile_bundle_is_refused_by_name_and_leaves_nothing(
    hostile: Hostile, live: Release, settings: Any
) -> None:
    deployment: Deployment = live.deployment
    before = files_below(settings.RELEASES_DIR, settings.INCOMING_DIR)
    with pytest.raises(releases.UnableToRelease) as refused:
        deploy(deployment, hostile.make())
    for told in hostile.tells:
        assert told in str(refused.value)
    assert files_below(settings.RELEASES_DIR, settings.INCOMING_DIR) == before
    assert list(storage.stored_bundles()) == [live.bundle_sha256]
    deployment.refresh_from_db()
    live.refresh_from_db()
    assert deployment.active_release == live
    assert live.status == Release.Status.ACTIVE
    page = storage.release_folder(live) / "static" / "index.html"
    assert page.read_text() == "still here"


def test_a_bomb_inside_a_zip_stays_a_file(live: Release) -> None:
    inner = make_zip({"bomb": bytes(5_000_000)})
    release = deploy(live.deployment, static_site(**{"static/inner.zip": inner}))
    kept = storage.release_folder(release) / "static" / "inner.zip"
    assert kept.read_bytes() == inner


def test_harmless_oddities_are_taken(live: Release) -> None:
    """Modes without a kind, a short comment, descriptors, hidden names, files of other programs."""
    bundle = with_descriptors(
        {"config.json": GOOD[1], "static/.well-known/x": b"1", "__MACOSX/._config.json": b"2"}
    )
    release = deploy(live.deployment, bundle)
    assert (storage.release_folder(release) / "static/.well-known/x").read_bytes() == b"1"
    assert deploy(live.deployment, commented(b"made by a tool")).status == Release.Status.ACTIVE


def assert_harmless(archive: bytes, parent: Path) -> None:
    """The archive is refused or unpacked; nothing appears outside its folder."""
    folder = parent / "unpacked"
    folder.mkdir()
    zip_file = parent / "bundle.zip"
    zip_file.write_bytes(archive)
    with zip_file.open("rb") as bundle, contextlib.suppress(bundles.UnableToReadBundle):
        bundles.unpack(bundle, folder)
    assert sorted(os.listdir(parent)) == ["bundle.zip", "unpacked"]
    for path in folder.rglob("*"):
        assert not path.is_symlink()


SITES = [
    static_site(**{"static/a/b.txt": "text " * 50, "static/é.txt": "é"}),
    with_descriptors({"config.json": GOOD[1], "static/a": b"one" * 99}),
]


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bits_and_cuts_never_break_the_reader(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = bytearray(data.draw(st.sampled_from(SITES)))
    for _ in range(data.draw(st.integers(0, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(archive))))
    assert_harmless(bytes(archive[:cut]), tmp_path_factory.mktemp("fuzz"))


def test_every_cut_of_a_good_bundle_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    archive = SITES[0]
    for end in range(len(archive)):
        parent = tmp_path_factory.mktemp("cut")
        assert_harmless(archive[:end], parent)
        assert not (parent / "unpacked" / "config.json").exists()


def test_random_mutations_through_the_child_are_answered(tmp_path: Path) -> None:
    """The whole way, child included: a refusal or a layout, never anything else."""
    chance = random.Random(20)
    for number in range(15):
        archive = bytearray(SITES[number % 2])
        for _ in range(3):
            archive[chance.randrange(len(archive))] = chance.randrange(256)
        parent = tmp_path / str(number)
        (parent / "unpacked").mkdir(parents=True)
        (parent / "bundle.zip").write_bytes(archive)
        with (
            (parent / "bundle.zip").open("rb") as bundle,
            contextlib.suppress(confinement.UnableToUnpack),
        ):
            confinement.unpack(bundle, parent / "unpacked")
        assert sorted(os.listdir(parent)) == ["bundle.zip", "unpacked"]
