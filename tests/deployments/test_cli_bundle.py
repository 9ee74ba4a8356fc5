"""Which files are sent, and the zip they are sent in."""

import os
import zipfile
from pathlib import Path

import pytest

from deployments.cli.bundle import UnableToReadBundle, as_zip, open_bundle, write_zip


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return folder


def ignore(done: int) -> None:
    pass


def test_names_are_in_one_order_and_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    first = make(
        tmp_path / "a", "static/b.txt", "config.json", "static/a.txt", "functions/f.func/x"
    )
    second = make(
        tmp_path / "b", "functions/f.func/x", "static/a.txt", "static/b.txt", "config.json"
    )
    os.utime(second / "config.json", (0, 0))
    (second / "config.json").chmod(0o700)
    for folder in (first, second):
        write_zip(open_bundle(folder), folder.with_suffix(".zip"), on_progress=ignore)
    assert first.with_suffix(".zip").read_bytes() == second.with_suffix(".zip").read_bytes()
    with zipfile.ZipFile(first.with_suffix(".zip")) as archive:
        assert archive.namelist() == [
            "config.json",
            "functions/f.func/x",
            "static/a.txt",
            "static/b.txt",
        ]
        assert archive.read("static/a.txt") == b"content of static/a.txt"


def test_symbolic_links_are_left_out_and_told(tmp_path: Path) -> None:
    make(tmp_path / "outside", "secret.txt")
    folder = make(tmp_path / "app", "config.json", "static/index.html")
    (folder / "static" / "file.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    (folder / "static" / "folder").symlink_to(tmp_path / "outside")
    (folder / "functions").symlink_to(tmp_path / "outside")
    bundle = open_bundle(folder)
    assert list(bundle.sizes) == ["config.json", "static/index.html"]
    assert bundle.links == ("functions", "static/file.txt", "static/folder")


def test_hidden_files_below_static_and_functions_are_sent_but_not_what_tools_leave(
    tmp_path: Path,
) -> None:
    folder = make(
        tmp_path,
        "config.json",
        ".env",
        ".env.production",
        ".git/HEAD",
        "package.json",
        "node_modules/x/index.js",
        "static/.well-known/security.txt",
        "static/.DS_Store",
        "functions/default.func/.next/BUILD_ID",
        "functions/default.func/node_modules/x/index.js",
        "functions/default.func/.git/HEAD",
    )
    bundle = open_bundle(folder)
    assert list(bundle.sizes) == [
        ".env.production",
        "config.json",
        "functions/default.func/.next/BUILD_ID",
        "functions/default.func/node_modules/x/index.js",
        "static/.well-known/security.txt",
    ]
    assert bundle.ignored == (".env", ".git", "node_modules", "package.json")


def test_progress_adds_up_to_the_bytes_of_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "app", "config.json")
    (folder / "static").mkdir()
    (folder / "static" / "large.bin").write_bytes(os.urandom(600_000))
    bundle = open_bundle(folder)
    done: list[int] = []
    with as_zip(bundle, on_progress=done.append) as path:
        assert path.is_file()
    assert sum(done) == bundle.total_bytes
    assert len(done) > 3  # piece by piece
    assert not path.exists()


def test_a_ready_zip_is_sent_as_it_is_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("static/", "")
    bundle = open_bundle(path)
    assert dict(bundle.sizes) == {"config.json": 2}
    assert bundle.text("config.json", limit=10) == "{}"
    with as_zip(bundle, on_progress=ignore) as sent:
        assert sent == path
    assert path.exists()


def test_what_is_neither_folder_nor_zip_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnableToReadBundle, match="nowhere does not exist"):
        open_bundle(tmp_path / "nowhere")
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    with pytest.raises(UnableToReadBundle, match="is not a zip file"):
        open_bundle(text)
