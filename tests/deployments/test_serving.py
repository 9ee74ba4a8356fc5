"""Static files: types, validators, ranges, caching, and no way out of the folder."""

import gzip
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import brotli
import pytest

from deployments import mediatypes, serving, staticindex
from deployments.serving import FileRequest, StaticFiles

ACTIVATED_AT = datetime(2026, 3, 1, 12, 30, 15, 999, tzinfo=UTC)


@pytest.fixture
def files(tmp_path: Path) -> StaticFiles:
    root = tmp_path / "release" / "static"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<h1>hi</h1>")
    (root / "data.bin").write_bytes(bytes(range(200)))
    (root / "large.txt").write_bytes(b"0123456789" * 20_000)
    (root / "empty.txt").touch()
    (root / "app.js").write_text("let answer = 42; // and so on\n" * 200)
    (root / "noise.js").write_bytes(random.Random(1).randbytes(5_000))
    (root / "photo.jpg").write_bytes(b"not compressed again " * 200)
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", root / "link.txt")
    os.symlink(tmp_path, root / "up")
    staticindex.write(root.parent)
    return StaticFiles.read(root.parent, activated_at=ACTIVATED_AT)


class Answer:
    """Collects what was sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        assert not self.messages[-1].get("more_body")
        return b"".join(message["body"] for message in self.messages[1:])


def release_of(files: StaticFiles) -> Path:
    return files._release


async def get(
    files: StaticFiles, name: str, method: str = "GET", headers: Any = None, **options: Any
) -> Answer:
    answer = Answer()
    await serving.serve_file(answer, files, name, FileRequest(method, headers or {}), **options)
    return answer


async def test_a_file_is_served_whole_with_its_type(files: StaticFiles) -> None:
    answer = await get(files, "index.html")
    assert (answer.status, answer.body) == (200, b"<h1>hi</h1>")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == "11"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


async def test_a_large_file_comes_in_bounded_pieces(files: StaticFiles) -> None:
    answer = await get(files, "large.txt")
    assert answer.body == b"0123456789" * 20_000
    assert max(len(message["body"]) for message in answer.messages[1:]) <= serving.CHUNK_BYTES


async def test_an_empty_file_is_a_complete_answer(files: StaticFiles) -> None:
    answer = await get(files, "empty.txt")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


async def test_head_has_the_headers_without_the_body(files: StaticFiles) -> None:
    answer = await get(files, "large.txt", "HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "200000")


async def test_other_methods_are_refused(files: StaticFiles) -> None:
    answer = await get(files, "index.html", "POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_an_unchanged_file_is_not_sent_again(files: StaticFiles) -> None:
    etag = (await get(files, "index.html")).headers["etag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await get(files, "index.html", headers={"if-none-match": tags})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == etag
        assert "content-length" not in answer.headers
    answer = await get(files, "index.html", headers={"if-none-match": '"other"'})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=190-", 190, 199),
        ("bytes=-5", 195, 199),
        ("bytes=-500", 0, 199),
        ("bytes=100-9999", 100, 199),
    ],
)
async def test_a_range_is_served_alone(
    files: StaticFiles, header: str, first: int, last: int
) -> None:
    answer = await get(files, "data.bin", headers={"range": header})
    assert answer.status == 206
    assert answer.body == bytes(range(first, last + 1))
    assert answer.headers["content-range"] == f"bytes {first}-{last}/200"


@pytest.mark.parametrize("header", ["bytes=200-", "bytes=-0"])
async def test_a_range_outside_the_file_is_refused(files: StaticFiles, header: str) -> None:
    answer = await get(files, "data.bin", headers={"range": header})
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */200")


@pytest.mark.parametrize(
    "header", ["bytes=0-1,5-6", "bytes=5-1", "bytes=-", "items=0-1", "bytes=a-b", "bytes=٣-٤"]
)
async def test_ranges_it_does_not_understand_are_ignored(files: StaticFiles, header: str) -> None:
    assert (await get(files, "data.bin", headers={"range": header})).status == 200


async def test_a_range_of_an_older_version_gets_the_whole_file(files: StaticFiles) -> None:
    headers = {"range": "bytes=0-0", "if-range": '"old"'}
    assert (await get(files, "data.bin", headers=headers)).status == 200
    headers["if-range"] = (await get(files, "data.bin")).headers["etag"]
    assert (await get(files, "data.bin", headers=headers)).status == 206


async def test_a_not_found_page_keeps_its_status_and_takes_no_range(files: StaticFiles) -> None:
    headers = {"range": "bytes=0-0", "if-none-match": "*"}
    answer = await get(files, "index.html", headers=headers, status=404)
    assert (answer.status, answer.body) == (404, b"<h1>hi</h1>")


async def test_headers_of_the_routes_win(files: StaticFiles) -> None:
    extra = (("cache-control", "max-age=5"), ("x-bad", "a\r\nset-cookie: b=1"), ("bad name", "1"))
    answer = await get(files, "index.html", extra_headers=extra)
    assert answer.headers["cache-control"] == "max-age=5"
    assert not {"x-bad", "bad name"} & set(answer.headers)


async def test_a_file_that_vanished_is_not_found(files: StaticFiles) -> None:
    (release_of(files) / "static" / "index.html").unlink()
    assert (await get(files, "index.html")).status == 404


def test_links_are_not_files_of_the_release(files: StaticFiles) -> None:
    assert "link.txt" not in files
    assert "up/secret.txt" not in files
    assert "../secret.txt" not in files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app.3f2a9c1b.js", serving.IMMUTABLE),
        ("assets/index-DkR3x9Qa.css", serving.IMMUTABLE),
        ("_next/static/chunks/main.js", serving.IMMUTABLE),
        ("app.js", serving.REVALIDATE),
        ("report-20240101.pdf", serving.REVALIDATE),
        ("my-tutorial.css", serving.REVALIDATE),
        ("photo-deadbeef.png", serving.REVALIDATE),
        ("index.3f2a9c1b.html", "no-cache"),
    ],
)
def test_only_names_with_a_hash_are_kept_for_ever(name: str, expected: str) -> None:
    assert serving.cache_control(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.png", "image/png"),
        ("LICENSE", "application/octet-stream"),
        ("a.cjs", "text/javascript; charset=utf-8"),
        ("a.webmanifest", "application/manifest+json; charset=utf-8"),
        ("a.xml", "application/xml; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.woff", "font/woff"),
        ("a.ttf", "font/ttf"),
        ("a.otf", "font/otf"),
        ("a.avif", "image/avif"),
        ("a.mp4", "video/mp4"),
        ("a.js.gz", "application/gzip"),
        ("a.tar.gz", "application/gzip"),
        ("a.svgz", "application/gzip"),
        ("A.HTML", "text/html; charset=utf-8"),
    ],
)
def test_types_follow_the_name(name: str, expected: str) -> None:
    assert mediatypes.content_type(name) == expected


# --- Compression -------------------------------------------------------------------------------

SCRIPT = ("let answer = 42; // and so on\n" * 200).encode()


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("br", "br"),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "br"),
        ("GZIP;Q=0.5", "gzip"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0, *", "gzip"),
        ("*", "br"),
        ("*;q=0", ""),
        ("gzip;q=0", ""),
        ("br;q=0.000, gzip;q=0", ""),
        ("identity, br;q=0.5", ""),
        ("identity;q=0, br;q=0.1", "br"),
        ("br;q=2", ""),
        ("br;quality=1", ""),
        ("deflate", ""),
        ("", ""),
    ],
)
async def test_the_client_decides_about_compression(
    files: StaticFiles, accepted: str, encoding: str
) -> None:
    answer = await get(files, "app.js", headers={"accept-encoding": accepted})
    decode = {"br": brotli.decompress, "gzip": gzip.decompress, "": bytes}[encoding]
    assert decode(answer.body) == SCRIPT
    assert answer.headers.get("content-encoding", "") == encoding
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["vary"] == "Accept-Encoding"
    assert (len(answer.body) < len(SCRIPT)) == bool(encoding)


async def test_head_has_the_length_of_the_compressed_copy(files: StaticFiles) -> None:
    headers = {"accept-encoding": "br"}
    whole = await get(files, "app.js", headers=headers)
    head = await get(files, "app.js", "HEAD", headers=headers)
    assert head.body == b""
    assert head.headers == whole.headers


async def test_every_form_has_a_tag_of_its_own(files: StaticFiles) -> None:
    tags = {}
    for accepted in ("", "gzip", "br"):
        headers = {"accept-encoding": accepted}
        answer = await get(files, "app.js", headers=headers)
        tags[accepted] = answer.headers["etag"]
        again = await get(files, "app.js", headers={**headers, "if-none-match": tags[accepted]})
        assert (again.status, again.headers["etag"]) == (304, tags[accepted])
        assert again.headers["vary"] == "Accept-Encoding"
        assert "content-encoding" not in again.headers
    assert len(set(tags.values())) == 3
    assert not tags[""].startswith("W/")
    assert tags["br"].startswith("W/")
    other = {"accept-encoding": "gzip", "if-none-match": tags["br"]}
    assert (await get(files, "app.js", headers=other)).status == 200


async def test_a_range_is_one_of_the_content_as_it_is(files: StaticFiles) -> None:
    headers = {"accept-encoding": "br", "range": "bytes=4-9"}
    answer = await get(files, "app.js", headers=headers)
    assert (answer.status, answer.body) == (206, b"answer")
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    compressed = await get(files, "app.js", headers={"accept-encoding": "br"})
    headers["if-range"] = compressed.headers["etag"]
    assert (await get(files, "app.js", headers=headers)).status == 200


@pytest.mark.parametrize("name", ["photo.jpg", "noise.js", "index.html", "empty.txt"])
async def test_what_gains_nothing_is_not_compressed(files: StaticFiles, name: str) -> None:
    answer = await get(files, name, headers={"accept-encoding": "br, gzip"})
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


@pytest.mark.parametrize(
    "header", [("content-encoding", "gzip"), ("cache-control", "max-age=9, no-transform")]
)
async def test_a_route_can_forbid_compression(files: StaticFiles, header: tuple[str, str]) -> None:
    answer = await get(files, "app.js", headers={"accept-encoding": "br"}, extra_headers=[header])
    assert answer.body == SCRIPT
    assert answer.headers[header[0]] == header[1]


@pytest.mark.parametrize(
    ("own", "expected"),
    [("Cookie", "Accept-Encoding, Cookie"), ("accept-encoding", "accept-encoding"), ("*", "*")],
)
async def test_a_routes_own_vary_is_kept(files: StaticFiles, own: str, expected: str) -> None:
    answer = await get(files, "app.js", extra_headers=[("vary", own)])
    assert answer.headers["vary"] == expected


async def test_a_not_found_page_is_compressed_too(files: StaticFiles) -> None:
    answer = await get(files, "app.js", headers={"accept-encoding": "gzip"}, status=404)
    assert (answer.status, gzip.decompress(answer.body)) == (404, SCRIPT)


def test_two_hosts_agree_about_the_same_content(tmp_path: Path) -> None:
    indexes = []
    for host in ("one", "two"):
        static = tmp_path / host / "static"
        static.mkdir(parents=True)
        (static / "app.js").write_bytes(SCRIPT)
        os.utime(static / "app.js", (len(indexes), len(indexes)))
        staticindex.write(tmp_path / host)
        indexes.append(staticindex.read(tmp_path / host))
    assert indexes[0] == indexes[1]


def test_no_bundle_takes_for_ever_to_compress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staticindex, "COMPRESSED_TOTAL_BYTES_MAX", len(SCRIPT) * 2)
    (tmp_path / "static").mkdir()
    for name in "abc":
        (tmp_path / "static" / f"{name}.js").write_bytes(SCRIPT)
    staticindex.write(tmp_path)
    found = staticindex.read(tmp_path)
    assert [bool(found[f"{name}.js"].encoded_sizes) for name in "abc"] == [True, True, False]


# --- Dates and what was planted later ----------------------------------------------------------


async def test_a_date_is_a_condition_only_without_tags_and_exactly(files: StaticFiles) -> None:
    answer = await get(files, "app.js")
    assert answer.headers["last-modified"] == "Sun, 01 Mar 2026 12:30:15 GMT"
    since = {"if-modified-since": answer.headers["last-modified"]}
    assert (await get(files, "app.js", headers=since)).status == 304
    tagged = {**since, "if-none-match": '"other"'}
    assert (await get(files, "app.js", headers=tagged)).status == 200
    for date in ("Sun, 01 Mar 2026 12:30:14 GMT", "Mon, 01 Mar 2027 12:30:15 GMT", "soon", ""):
        assert (await get(files, "app.js", headers={"if-modified-since": date})).status == 200


async def test_after_a_rollback_no_client_keeps_what_came_after(files: StaticFiles) -> None:
    """What is served now was made before what the client has, and activated after it."""
    newer = StaticFiles(
        release_of(files), files._files, activated_at=ACTIVATED_AT + timedelta(minutes=1)
    )
    has = {"if-modified-since": newer.last_modified}
    assert (await get(files, "app.js", headers=has)).status == 200


@pytest.mark.parametrize("planted", ["link", "folder link", "pipe", "longer", "folder"])
async def test_what_is_planted_after_the_release_is_not_served(
    files: StaticFiles, tmp_path: Path, planted: str
) -> None:
    static = release_of(files) / "static"
    victim = static / "data.bin"
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(200))
    victim.unlink()
    if planted == "link":
        victim.symlink_to(secret)
    elif planted == "folder link":
        (tmp_path / "elsewhere").mkdir()
        secret.rename(tmp_path / "elsewhere" / "data.bin")
        static.rename(tmp_path / "old")
        static.symlink_to(tmp_path / "elsewhere")
    elif planted == "pipe":
        os.mkfifo(victim)
    elif planted == "longer":
        victim.write_bytes(bytes(201))
    else:
        victim.mkdir()
    answer = await get(files, "data.bin")
    assert (answer.status, answer.body) == (404, b"Not found.")
