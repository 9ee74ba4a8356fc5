"""The zip reader against ordinary, damaged and hostile archives."""

import io
import os
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from deployments.bundles import ENTRIES_MAX, Budget, UnableToReadBundle, Unpacked, unpack
from tests.deployments.zips import entry, make_zip, patched, static_site, with_descriptors, zip_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


def refusal(archive: bytes, folder: Path, budget: Budget | None = None) -> str:
    """The message `archive` is refused with; nothing may have escaped the folder."""
    with pytest.raises(UnableToReadBundle) as refused:
        unpack(io.BytesIO(archive), folder, budget)
    outside = [path for path in folder.parent.iterdir() if path != folder]
    assert outside == []
    return str(refused.value)


def test_files_and_folders_come_out_as_they_went_in(folder: Path) -> None:
    archive = make_zip(
        {"a.txt": "one", "deep/er/b.bin": bytes(range(256)) * 999, "empty/": "", "none": ""}
    )
    old_umask = os.umask(0o077)
    try:
        unpacked = unpack(io.BytesIO(archive), folder)
    finally:
        os.umask(old_umask)
    assert unpacked == Unpacked(file_count=3, byte_count=3 + 256 * 999)
    assert (folder / "a.txt").read_text() == "one"
    assert (folder / "deep/er/b.bin").read_bytes() == bytes(range(256)) * 999
    assert (folder / "empty").is_dir()
    assert (folder / "none").read_bytes() == b""
    assert stat.S_IMODE((folder / "a.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((folder / "deep").stat().st_mode) == 0o755


def test_sizes_written_after_the_content_are_understood(folder: Path) -> None:
    archive = with_descriptors({"a": "one" * 1000, "b": "two"})
    unpack(io.BytesIO(archive), folder)
    assert (folder / "a").read_text() == "one" * 1000


@pytest.mark.parametrize(
    "name",
    [
        "/etc/cron.d/job",
        "../escape",
        "static/../../escape",
        "static/..",
        "./config.json",
        "static//index.html",
        "static\\index.html",
        "C:/windows",
        "static/in\ndex.html",
        "static/\x7f",
        "cafe\u0301.html",  # e with a combining accent: not NFC
        "a" * 256,
        "/".join(["abcdefgh"] * 60),
        "/",
    ],
)
def test_unsafe_names_are_refused_by_name(name: str, folder: Path) -> None:
    assert refusal(zip_of((entry(name), b"x")), folder).startswith(f"Entry {name[:200]!r}"[:150])


def test_a_name_with_a_nul_is_refused_although_zipfile_would_cut_it(folder: Path) -> None:
    archive = patched(make_zip({"config.jsonX.exe": "{}"}), b"jsonX.exe", b"json\0.exe")
    assert "control character" in refusal(archive, folder)


@pytest.mark.parametrize("names", [("A.txt", "a.TXT"), ("a", "a"), ("straße", "STRASSE")])
def test_names_that_differ_by_case_at_most_are_refused(
    names: tuple[str, str], folder: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own remark on what we do on purpose
        archive = zip_of(*((entry(name), b"x") for name in names))
    assert "has the same name as" in refusal(archive, folder)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "A"), ("a/b/c", "a/b")])
def test_a_file_that_is_also_a_folder_is_refused(names: tuple[str, str], folder: Path) -> None:
    archive = zip_of(*((entry(name), b"x") for name in names))
    assert "both a file and a folder" in refusal(archive, folder)


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (stat.S_IFLNK | 0o777, "symbolic link"),
        (stat.S_IFCHR | 0o666, "neither a file nor a folder"),
        (stat.S_IFIFO | 0o666, "neither a file nor a folder"),
        (stat.S_IFSOCK | 0o666, "neither a file nor a folder"),
        (stat.S_IFDIR | 0o755, "by its mode or its name"),
    ],
)
def test_links_and_devices_are_refused(mode: int, problem: str, folder: Path) -> None:
    message = refusal(zip_of((entry("static/x", mode=mode), b"/etc/passwd")), folder)
    assert problem in message
    assert "'static/x'" in message


def test_a_folder_with_content_is_refused(folder: Path) -> None:
    assert "a folder with content" in refusal(zip_of((entry("static/"), b"x")), folder)


def test_encrypted_entries_are_refused(folder: Path) -> None:
    archive = bytearray(make_zip({"a": "x"}))
    archive[6] |= 1
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refusal(bytes(archive), folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused(method: int, folder: Path) -> None:
    assert "store or deflate" in refusal(zip_of((entry("a", method=method), b"x")), folder)


def test_a_bomb_is_stopped_by_its_ratio(folder: Path) -> None:
    archive = make_zip({"bomb": bytes(50_000_000)})
    assert len(archive) < 100_000
    assert "more than 200 times" in refusal(archive, folder)
    assert (folder / "bomb").stat().st_size < 12_000_000


def test_what_comes_out_is_counted_not_what_is_declared(folder: Path) -> None:
    archive = make_zip({"liar": os.urandom(1000) * 500})
    archive = patched(archive, struct.pack("<I", 500_000), struct.pack("<I", 10))
    message = refusal(archive, folder, Budget(file_bytes_max=200_000))
    assert "'liar'" in message
    assert "is larger than" in message


def test_a_declared_size_that_is_wrong_is_damage(folder: Path) -> None:
    archive = make_zip({"liar": "x" * 77_777})
    archive = patched(archive, struct.pack("<I", 77_777), struct.pack("<I", 10))
    assert "damaged" in refusal(archive, folder)


def test_all_files_together_have_a_limit(folder: Path) -> None:
    archive = make_zip({f"file{number}": os.urandom(1000) for number in range(10)})
    message = refusal(archive, folder, Budget(total_bytes_max=9_500))
    assert "'file9': with it the bundle is larger" in message


def test_too_many_entries_are_refused(folder: Path) -> None:
    archive = make_zip({f"f{number}": "" for number in range(ENTRIES_MAX + 1)})
    assert "10,001 entries" in refusal(archive, folder)


def test_a_huge_directory_is_refused_before_it_is_read(folder: Path) -> None:
    archive = bytearray(make_zip({"a": "x"}))
    end = archive.index(b"PK\x05\x06")
    archive[end:end] = bytes(20_000_000)
    end = archive.index(b"PK\x05\x06")
    archive[end + 12 : end + 16] = struct.pack("<I", 20_000_000)
    assert "directory is larger" in refusal(bytes(archive), folder)


def test_a_few_names_cannot_stand_for_a_million_folders(folder: Path) -> None:
    archive = make_zip({f"{number}/" + "a/" * 200 + "f": "" for number in range(200)})
    assert "folders" in refusal(archive, folder)


def test_entries_that_share_one_body_are_refused(folder: Path) -> None:
    """Two directory records point at the same local header, renamed: the overlap bomb."""
    archive = make_zip({"a": "x" * 100, "b": "y" * 100})
    directory = archive.index(b"PK\x01\x02")
    second = archive.index(b"PK\x01\x02", directory + 4)
    forged = bytearray(archive)
    forged[second + 42 : second + 46] = forged[directory + 42 : directory + 46]
    assert "overlaps" in refusal(bytes(forged), folder)


def test_a_body_that_covers_the_next_header_is_refused(folder: Path) -> None:
    """A quoted-overlap bomb: the first body spans everything that follows."""
    archive = zip_of((entry("a"), b"x" * 50), (entry("b"), b"y" * 50))
    directory = archive.index(b"PK\x01\x02")
    forged = bytearray(archive)
    for offset in (18, 22, directory + 20, directory + 24):
        forged[offset : offset + 4] = struct.pack("<I", 100)
    assert "'b': overlaps 'a'" in refusal(bytes(forged), folder)


def test_a_body_that_reaches_into_the_directory_is_refused(folder: Path) -> None:
    archive = zip_of((entry("a"), b"x" * 50))
    directory = archive.index(b"PK\x01\x02")
    forged = bytearray(archive)
    for offset in (18, 22, directory + 20, directory + 24):
        forged[offset : offset + 4] = struct.pack("<I", 60)
    assert "reaches into" in refusal(bytes(forged), folder)


def test_an_entry_described_differently_at_two_places_is_refused(folder: Path) -> None:
    archive = make_zip({"harmless": "x"})
    forged = archive.replace(b"harmless", b"harmful!", 1)
    assert "described differently" in refusal(forged, folder)


@pytest.mark.parametrize("junk", [b"", b"not a zip", b"PK\x05\x06" + bytes(18), bytes(100_000)])
def test_what_is_not_a_zip_or_empty_is_refused(junk: bytes, folder: Path) -> None:
    assert "zip" in refusal(junk, folder)


def test_a_wrong_checksum_is_damage(folder: Path) -> None:
    archive = zip_of((entry("a"), b"content"))
    assert "damaged" in refusal(archive.replace(b"content", b"CONTENT"), folder)


def test_no_file_is_written_into_a_folder_that_has_any(folder: Path) -> None:
    (folder / "old").touch()
    with pytest.raises(ValueError, match="not empty"):
        unpack(io.BytesIO(static_site()), folder)
