"""Bundles for tests: ordinary ones by path and content, hostile ones by hand."""

import io
import json
import zipfile
from typing import Any

FUNCTION = "exports.handler = async () => ({statusCode: 200, body: 'hello'});\n"


def make_zip(files: dict[str, str | bytes]) -> bytes:
    """A plain deflated zip with these paths: the same bytes whenever it is made."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o600 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def config(*routes: dict[str, Any]) -> str:
    return json.dumps({"version": 1, "routes": list(routes)})


def static_site(page: str = "<h1>hello</h1>", **more: str | bytes) -> bytes:
    """A site of one page; `more` are files by path."""
    return make_zip(
        {"config.json": config({"handle": "filesystem"}), "static/index.html": page, **more}
    )


def function_site(**more: str) -> bytes:
    """A site whose every path is answered by one function called `default`."""
    return make_zip(
        {
            "config.json": config({"src": "^/.*$", "dest": "/functions/default"}),
            "functions/default.func/index.js": FUNCTION,
            **more,
        }
    )


def entry(name: str, *, mode: int = 0, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """Directory data of an entry, as no careful tool would write it."""
    info = zipfile.ZipInfo(name)
    info.orig_filename = info.filename = name
    info.external_attr = mode << 16
    info.compress_type = method
    return info


def zip_of(*entries: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return buffer.getvalue()


class _Unseekable(io.BytesIO):
    """Makes zipfile write descriptors behind the bodies, as streaming tools do."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError

    def tell(self) -> int:
        raise OSError


def with_descriptors(files: dict[str, str | bytes]) -> bytes:
    """A zip whose checksums and sizes follow the content."""
    buffer = _Unseekable()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def patched(archive: bytes, old: bytes, new: bytes) -> bytes:
    """`archive` with every `old` replaced by a `new` of the same length."""
    assert len(old) == len(new)
    assert old in archive
    return archive.replace(old, new)
