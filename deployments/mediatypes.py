"""Media types of files by their names, and which of them gain by compressing. Pure: a table."""

import mimetypes

_types = mimetypes.MimeTypes()  # Python's own table, without what this machine happens to have
for _suffix, _type in {
    ".js": "text/javascript",  # RFC 9239
    ".mjs": "text/javascript",
    ".cjs": "text/javascript",
    ".json": "application/json",
    ".jsonld": "application/ld+json",
    ".map": "application/json",
    ".geojson": "application/geo+json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".xml": "application/xml",
    ".rss": "application/rss+xml",
    ".atom": "application/atom+xml",
    ".md": "text/markdown",
    ".vtt": "text/vtt",
    ".ics": "text/calendar",
    ".avif": "image/avif",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".eot": "application/vnd.ms-fontobject",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".flac": "audio/flac",
    ".gltf": "model/gltf+json",
    ".glb": "model/gltf-binary",
}.items():
    _types.add_type(_type, _suffix)
TEXT_ENDINGS = ("+json", "+xml")
TEXT_TYPES = frozenset({"application/json", "application/xml"})
# Not text, and not compressed by themselves.
PLAIN_TYPES = frozenset(
    {
        "application/wasm",
        "application/vnd.ms-fontobject",
        "font/ttf",
        "font/otf",
        "image/bmp",
        "image/vnd.microsoft.icon",
        "image/x-icon",
        "model/gltf-binary",
    }
)
UNKNOWN = "application/octet-stream"


def _guess(name: str) -> str:
    guessed, encoding = _types.guess_type(name, strict=False)
    # `app.js.gz` is an archive to whoever asks for it: its name promises no decoded script.
    if encoding is not None:
        return "application/gzip" if encoding == "gzip" else UNKNOWN
    return guessed or UNKNOWN


def _is_text(media_type: str) -> bool:
    return (
        media_type.startswith("text/")
        or media_type in TEXT_TYPES
        or media_type.endswith(TEXT_ENDINGS)
    )


def content_type(name: str) -> str:
    """The Content-Type of a file by its name, with the charset of text."""
    media_type = _guess(name)
    return f"{media_type}; charset=utf-8" if _is_text(media_type) else media_type


def is_compressible(name: str) -> bool:
    """Whether files of this name get smaller by compressing: text, and a few plain formats."""
    media_type = _guess(name)
    return _is_text(media_type) or media_type in PLAIN_TYPES
