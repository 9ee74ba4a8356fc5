"""Static files: types, validators, ranges, caching, and no way out of the folder."""

import os
from pathlib import Path
from typing import Any

import pytest

from deployments import serving
from deployments.serving import FileRequest, StaticFiles


@pytest.fixture
def files(tmp_path: Path) -> StaticFiles:
    root = tmp_path / "static"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<h1>hi</h1>")
    (root / "data.bin").write_bytes(bytes(range(200)))
    (root / "large.txt").write_bytes(b"0123456789" * 20_000)
    (root / "empty.txt").touch()
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", root / "link.txt")
    os.symlink(tmp_path, root / "up")
    return StaticFiles.scan(root)


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
    headers["if-range"] = files["data.bin"].etag
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
    (files.root / "index.html").unlink()
    assert (await get(files, "index.html")).status == 404


def test_links_are_not_files_of_the_release(files: StaticFiles) -> None:
    assert "link.txt" not in files
    assert "up/secret.txt" not in files
    assert "../secret.txt" not in files
    with pytest.raises(OSError, match=r"link\.txt"):
        files.open("link.txt")


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
    ],
)
def test_types_follow_the_name(name: str, expected: str) -> None:
    assert serving.content_type(name) == expected
