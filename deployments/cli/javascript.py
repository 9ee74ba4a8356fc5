"""What the text of a JavaScript file gives away, read with regular expressions.

Owns guesses and says how sure each one is; must know nothing of bundles. No parser: the client has
to start fast and work without Node, and a wrong guess costs a message, which `--no-validate`
overrules. Where a text can be read two ways, these functions keep silent.
"""

import re
from dataclasses import dataclass
from enum import Enum

# `require("node:module").builtinModules` of Node 20 to 24, without the ones that begin with "_".
NODE_MODULES = frozenset(
    """
    assert async_hooks buffer child_process cluster console constants crypto dgram
    diagnostics_channel dns domain events fs http http2 https inspector module net os path
    perf_hooks process punycode querystring readline repl stream string_decoder sys timers tls
    trace_events tty url util v8 vm wasi worker_threads zlib
    """.split()  # noqa: SIM905 - readable; a list would be one name a line
)

LINE_COMMENT = re.compile(r"(?m)^[ \t]*//.*$")
# Anchored at the start of a statement, so that prose about imports in a string is not one; of
# bounded length, so that a text of nothing but beginnings takes no quadratic time.
STATIC_IMPORT = re.compile(
    r"(?:^|[;}\n])[ \t]*"
    r"(?:import\b[\w\s{},*$]{0,1000}?(?:\bfrom\s*)?|export\b[\w\s{},*$]{0,1000}?\bfrom\s*)"
    r"""(?P<quote>["'])(?P<name>[^"'\n]+)(?P=quote)"""
)
DYNAMIC_IMPORT = re.compile(
    r"""(?<![\w$.])(?:require|import)\s*\(\s*(?P<quote>["'])(?P<name>[^"'\n]+)(?P=quote)\s*\)"""
)
PACKAGE_NAME = re.compile(r"^(@[a-z0-9~-][\w.~-]*/)?[a-z0-9~-][\w.~-]*", re.IGNORECASE)

EXPORTS_HANDLER = re.compile(
    r"""exports\s*\.\s*handler\b|exports\s*\[\s*["']handler["']\s*\]"""
    r"""|\bexport\s+(?:async\s+)?(?:const|let|var|function\s*\*?|class)\s+handler\b"""
    r"""|\bexport\s*\{[^}]*\bhandler\b[^}]*\}"""
    r"""|\bmodule\s*\.\s*exports\s*=\s*\{[^}]*\bhandler\b"""
    r"""|\bhandler\s*:"""  # an export table of a bundler: `__export(x, {handler: () => handler})`
)
# Something is exported whose names this text alone does not tell.
EXPORTS_UNKNOWN = re.compile(
    r"\bexport\s*\*|\bmodule\s*\.\s*exports\s*=(?!\s*(?:\{|async\b|function\b|\())"
    r"|\b__exportStar\b|\bObject\.assign\(\s*(?:module\.)?exports"
)
COMMON_JS_EXPORT = re.compile(r"(?m)^[ \t]*(?:module\s*\.\s*)?exports\s*(?:\.\s*\w+\s*)?=(?!=)")
MODULE_EXPORT = re.compile(r"\bexport\s*(?:\{|\*|default\b|const\b|let\b|var\b|async\b|function\b)")
HTTP_PARAMETERS = r"\(\s*_?(?:req|request)\s*(?::[^,)]*)?,\s*_?(?:res|response|reply)\b[^)]*\)"
HTTP_HANDLER = re.compile(
    r"\b(?:handler\s*=\s*(?:async\s*)?(?:function\b[^(]*)?"
    r"|function\s+handler\s*"
    r"|export\s+default\s+(?:async\s+)?(?:function\b[^(]*)?"
    r"|module\s*\.\s*exports\s*=\s*(?:async\s*)?(?:function\b[^(]*)?)" + HTTP_PARAMETERS
)


class Certainty(Enum):
    """Whether a missing package stops the module from loading or may never be asked for."""

    ALWAYS_LOADED = "loaded at start"
    MAYBE_LOADED = "loaded when reached"


@dataclass(frozen=True)
class Import:
    """One import specifier as written."""

    name: str
    certainty: Certainty


def exports_handler(text: str) -> bool:
    """False only if the text surely exports no `handler`."""
    return bool(EXPORTS_HANDLER.search(text) or EXPORTS_UNKNOWN.search(text))


def is_http_handler(text: str) -> bool:
    """Whether what is exported takes `(req, res)`, as Express and Next.js pages do."""
    return bool(HTTP_HANDLER.search(text))


def mixes_modules(text: str) -> bool:
    """Whether a file that Node reads as an ES module exports only in the CommonJS way."""
    return bool(COMMON_JS_EXPORT.search(text)) and not MODULE_EXPORT.search(text)


def imports(text: str) -> list[Import]:
    """Every specifier imported, in order of certainty and place, each once."""
    code = LINE_COMMENT.sub("", _without_block_comments(text))
    found: dict[str, Certainty] = {}
    for match in STATIC_IMPORT.finditer(code):
        found.setdefault(match["name"], Certainty.ALWAYS_LOADED)
    for match in DYNAMIC_IMPORT.finditer(code):
        found.setdefault(match["name"], Certainty.MAYBE_LOADED)
    return [Import(name, certainty) for name, certainty in found.items()]


def _without_block_comments(text: str) -> str:
    """The text without `/* ... */`. A `/*` in a string hides code: then imports go unseen."""
    kept: list[str] = []
    place = 0
    while (start := text.find("/*", place)) >= 0 and (end := text.find("*/", start + 2)) >= 0:
        kept.append(text[place:start])
        place = end + 2
    return " ".join((*kept, text[place:]))


def package_of(specifier: str) -> str | None:
    """The package a specifier needs: `@scope/name` or `name`.

    None for relative and absolute paths, URLs, `#internal` names and what is part of Node.
    """
    if specifier.startswith((".", "/", "#")) or ":" in specifier:
        return None
    match = PACKAGE_NAME.match(specifier)
    if match is None or specifier.split("/", 1)[0] in NODE_MODULES:
        return None
    return match.group(0)
