"""The usual mistakes of a bundle, found before anything is sent.

Owns the findings and their wording; must know nothing of servers or terminals. An error stops a
deploy, because the app would not work (or would publish a secret); a warning is a guess worth a
look. The server has the last word, so its limits are repeated here only to save the upload.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

from deployments.cli import javascript
from deployments.cli.bundle import TOP_FOLDERS, Bundle

MEBIBYTE = 1024 * 1024
ZIP_BYTES_MAX = 100 * MEBIBYTE
FILE_BYTES_MAX = 100 * MEBIBYTE
TOTAL_BYTES_MAX = 250 * MEBIBYTE  # AWS Lambda's own limit for an unpacked function
FILES_MAX = 10_000
CONFIG_BYTES_MAX = MEBIBYTE
# Larger files are bundler output or data; reading them all would make validation slow.
SCRIPT_BYTES_MAX = 2 * MEBIBYTE
SCRIPTS_PER_FUNCTION_MAX = 200
STATIC_TEXT_BYTES_MAX = 5 * MEBIBYTE

ENTRIES = ("index.js", "index.mjs", "index.cjs")  # the order in which AWS Lambda looks
FUNCTION_FILE = re.compile(r"functions/[^/]+\.func/")
STATIC_TEXT_SUFFIXES = frozenset(
    {".html", ".htm", ".js", ".mjs", ".cjs", ".css", ".json", ".map", ".txt", ".svg", ".xml", ".md"}
)
# Not `.open-next`: OpenNext's server names that folder in every bundle and never reads it.
HIDDEN_BUILD_FOLDERS = (".next",)
# Where build tools put the folder people meant.
USUAL_OUTPUTS = (".vercel/output", ".open-next", "dist", "build", "out", "output")
# Gateway keys, and provider keys of the `sk-` family. The second also fits CSS class names such as
# `sk-folding-cube-animation`, hence the digit and the capital letter asked of it below.
GATEWAY_KEY = re.compile(r"(?<![\w-])aig_[a-z0-9-]+_[\w-]{20,}")
PROVIDER_KEY = re.compile(r"(?<![\w-])sk-[\w-]{20,}")


class Level(Enum):
    """How much a finding weighs."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One mistake: what is wrong where (`path` may be empty), and what to do (`hint`)."""

    level: Level
    path: str
    message: str
    hint: str = ""


def check(bundle: Bundle) -> list[Finding]:
    """Everything found, errors first. Raises UnableToReadBundle when a file cannot be read."""
    findings = [
        *_check_config(bundle),
        *_check_functions(bundle),
        *_check_leftovers(bundle),
        *_check_limits(bundle),
        *_check_secrets(bundle),
    ]
    return sorted(findings, key=lambda finding: finding.level is not Level.ERROR)


def has_errors(findings: list[Finding]) -> bool:
    """Whether these findings stop a deploy."""
    return any(finding.level is Level.ERROR for finding in findings)


def _error(path: str, message: str, hint: str = "") -> Finding:
    return Finding(Level.ERROR, path, message, hint)


def _warning(path: str, message: str, hint: str = "") -> Finding:
    return Finding(Level.WARNING, path, message, hint)


# config.json and its routes


def _check_config(bundle: Bundle) -> Iterator[Finding]:
    if "config.json" not in bundle.sizes:
        yield _error("config.json", "is missing.", _where_config_might_be(bundle))
        return
    try:
        config = json.loads(bundle.text("config.json", limit=CONFIG_BYTES_MAX))
    except json.JSONDecodeError as error:
        yield _error(
            "config.json",
            f"is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).",
            "JSON has no comments and no comma after the last element.",
        )
        return
    if not isinstance(config, dict):
        yield _error("config.json", 'must be an object: {"version": 1, "routes": [...]}.')
        return
    if config.get("version") != 1:
        yield _error("config.json", '"version" must be 1.')
    yield from _check_routes(config.get("routes"), bundle)


def _where_config_might_be(bundle: Bundle) -> str:
    """A hint that names the folder that was probably meant."""
    if bundle.is_zip:
        nested = [name for name in bundle.sizes if name.count("/") == 1]
        for name in nested:
            if name.endswith("/config.json"):
                folder = name.removesuffix("/config.json")
                return f"It is inside the folder {folder}/: zip what is in it, not the folder."
        return "It belongs at the top of the zip."
    for folder in USUAL_OUTPUTS:
        if (bundle.source / folder / "config.json").is_file():
            return f"There is one in {folder}/: deploy that folder."
    return (
        'The smallest one is {"version": 1, "routes": [{"handle": "filesystem"}]}, '
        "beside a folder static/."
    )


def _check_routes(routes: Any, bundle: Bundle) -> Iterator[Finding]:
    if not isinstance(routes, list):
        yield _error("config.json", 'needs "routes": a list.')
        return
    if not routes and "static/_redirects" not in bundle.sizes:
        yield _error(
            "config.json",
            "has no routes, so every request would answer 404.",
            'Add {"handle": "filesystem"} to serve static/, or '
            '{"src": "^/api/.*$", "dest": "/functions/<name>"} to call a function.',
        )
    for number, route in enumerate(routes, 1):
        yield from _check_route(f"config.json, route {number}", route, bundle)


def _check_route(where: str, route: Any, bundle: Bundle) -> Iterator[Finding]:
    if not isinstance(route, dict):
        yield _error(where, "must be an object.")
    elif "handle" in route:
        if route["handle"] != "filesystem":
            yield _error(where, '"handle" can only be "filesystem".')
    elif not isinstance(route.get("src"), str):
        yield _error(where, 'needs "handle": "filesystem" or a "src" with a regular expression.')
    else:
        yield from _check_destination(where, route, bundle)


def _check_destination(where: str, route: dict[str, Any], bundle: Bundle) -> Iterator[Finding]:
    destination = route.get("dest")
    if destination is None:
        if not isinstance(route.get("headers"), dict):
            yield _error(where, 'needs a "dest", or "headers" to add.')
        return
    if not isinstance(destination, str) or not destination.startswith(("/functions/", "/static/")):
        yield _error(
            where, f'"dest" must be "/functions/<name>" or "/static/<file>", not {destination!r}.'
        )
        return
    if "$" in destination:
        return  # the request decides which file or function is meant
    if destination.startswith("/static/"):
        if destination.removeprefix("/") not in bundle.sizes:
            yield _error(where, f"sends to {destination}, but there is no such file.")
        return
    name = destination.removeprefix("/functions/")
    if not _files_below(bundle, f"functions/{name}.func/"):
        known = ", ".join(_functions(bundle)) or "none"
        yield _error(
            where,
            f"calls the function {name!r}, but there is no folder functions/{name}.func.",
            f"Functions in this bundle: {known}.",
        )


# functions


def _functions(bundle: Bundle) -> list[str]:
    """The names of function folders, `functions/<name>.func/`."""
    folders = {name.split("/")[1] for name in bundle.sizes if FUNCTION_FILE.match(name)}
    return sorted(folder.removesuffix(".func") for folder in folders)


def _files_below(bundle: Bundle, folder: str) -> list[str]:
    return [name for name in bundle.sizes if name.startswith(folder)]


def _check_functions(bundle: Bundle) -> Iterator[Finding]:
    stray = sorted(
        {
            name.split("/")[1]
            for name in bundle.sizes
            if name.startswith("functions/") and not FUNCTION_FILE.match(name)
        }
    )
    for name in stray:
        yield _warning(
            f"functions/{name}",
            "is not used.",
            f"Functions are folders whose name ends in .func: functions/{name}.func/index.mjs",
        )
    for name in _functions(bundle):
        yield from _check_function(bundle, f"functions/{name}.func/")


def _check_function(bundle: Bundle, folder: str) -> Iterator[Finding]:
    entry = next((folder + name for name in ENTRIES if folder + name in bundle.sizes), None)
    if entry is None:
        yield _error(
            folder,
            "has no index.mjs, index.js or index.cjs.",
            "The entry exports the function: export const handler = async (event) => ({...})",
        )
        return
    yield from _check_entry(bundle, entry)
    scripts = _scripts(bundle, entry)
    yield from _check_imports(bundle, folder, scripts)
    yield from _check_hidden_folders(bundle, folder, scripts)


def _check_entry(bundle: Bundle, entry: str) -> Iterator[Finding]:
    if bundle.sizes[entry] > SCRIPT_BYTES_MAX:
        return  # a bundler's output; what it exports may stand beyond what is read
    text = bundle.text(entry, limit=SCRIPT_BYTES_MAX)
    if javascript.is_http_handler(text):
        yield _error(
            entry,
            "exports a function of (req, res), which this platform does not call.",
            "Export the AWS Lambda form: export const handler = async (event) => "
            '({statusCode: 200, headers: {"content-type": "text/plain"}, body: "hello"})',
        )
    elif entry.endswith(".mjs") and javascript.mixes_modules(text):
        yield _error(
            entry,
            "assigns to `exports`, which does not exist in an .mjs file.",
            "Write `export const handler = ...`, or rename the file to index.cjs.",
        )
    elif not javascript.exports_handler(text):
        yield _error(
            entry,
            "does not seem to export `handler`.",
            "Write `export const handler = ...` (index.cjs: `exports.handler = ...`). "
            "A default export is not called.",
        )


def _scripts(bundle: Bundle, entry: str) -> dict[str, str]:
    """The entry and what it imports by relative path: name -> text, bounded."""
    scripts: dict[str, str] = {}
    waiting = [entry]
    while waiting and len(scripts) < SCRIPTS_PER_FUNCTION_MAX:
        name = waiting.pop()
        if name in scripts or bundle.sizes[name] > SCRIPT_BYTES_MAX:
            continue
        scripts[name] = bundle.text(name, limit=SCRIPT_BYTES_MAX)
        for imported in javascript.imports(scripts[name]):
            if imported.name.startswith("."):
                waiting.extend(_resolve(bundle, name, imported.name))
    return scripts


def _resolve(bundle: Bundle, importer: str, specifier: str) -> list[str]:
    """The script a relative specifier means: at most one name."""
    parts: list[str] = []
    for part in (*PurePosixPath(importer).parent.parts, *specifier.split("/")):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    path = "/".join(parts)
    candidates = (path, f"{path}.js", f"{path}.mjs", f"{path}.cjs", f"{path}/index.js")
    scripts = (".js", ".mjs", ".cjs")
    return [name for name in candidates if name in bundle.sizes and name.endswith(scripts)][:1]


def _check_imports(bundle: Bundle, folder: str, scripts: dict[str, str]) -> Iterator[Finding]:
    reported: set[str] = set()
    for script, text in scripts.items():
        for imported in javascript.imports(text):
            package = javascript.package_of(imported.name)
            if package is None or package in reported:
                continue
            if not _has_package(bundle, folder, script, package):
                reported.add(package)
                yield _missing_package(bundle, folder, script, package, imported.certainty)


def _has_package(bundle: Bundle, folder: str, script: str, package: str) -> bool:
    """Whether Node, going up from the script, finds the package inside the function's folder."""
    place = PurePosixPath(script).parent
    while f"{place}/".startswith(folder):
        if _files_below(bundle, f"{place}/node_modules/{package}/"):
            return True
        place = place.parent
    return False


def _missing_package(
    bundle: Bundle,
    folder: str,
    script: str,
    package: str,
    certainty: javascript.Certainty,
) -> Finding:
    hint = (
        f"Install it there (npm install --prefix {folder.rstrip('/')} {package}), "
        "or bundle the function into one file (esbuild --bundle --platform=node)."
    )
    linked = f"node_modules/{package}"
    if any(name.endswith(linked) or f"{linked}/" in name for name in bundle.links):
        hint = (
            "It is there as a symbolic link, and links are not sent: install with npm, or with "
            "pnpm's node-linker=hoisted."
        )
    message = f"imports {package!r}, which is not in {folder}node_modules."
    # A bundler's output may hold `require` calls that are never reached; AWS's own runtime brings
    # its SDK along.
    is_sure = certainty is javascript.Certainty.ALWAYS_LOADED and not package.startswith("@aws-sdk")
    return (_error if is_sure else _warning)(script, message, hint)


def _check_hidden_folders(
    bundle: Bundle, folder: str, scripts: dict[str, str]
) -> Iterator[Finding]:
    """Folders such as `.next` that the code reads and a `cp -r out/* there` left behind."""
    files = _files_below(bundle, folder)
    for hidden in HIDDEN_BUILD_FOLDERS:
        mention = re.compile(rf"""(?<![\w.]){re.escape(hidden)}(?=[/"'`])""")
        mentioned = next((name for name, text in scripts.items() if mention.search(text)), None)
        if mentioned and not any(f"/{hidden}/" in name for name in files):
            yield _warning(
                mentioned,
                f"mentions {hidden}/, but there is no such folder in {folder}.",
                "`cp -r from/* to` leaves hidden folders out; `cp -r from/. to` takes them along.",
            )


# what lies around, how much it is, and what must not be public


def _check_leftovers(bundle: Bundle) -> Iterator[Finding]:
    for name in bundle.ignored:
        if re.fullmatch(r"\.env(\.(?!production$|example$|sample$).*)?", name):
            yield _warning(
                name,
                "is not sent; only .env.production is used.",
                "Rename it, or set the values on the server with update-env.",
            )
    if bundle.links:
        shown = ", ".join(bundle.links[:3]) + (", ..." if len(bundle.links) > 3 else "")
        yield _warning(
            "",
            f"{len(bundle.links)} symbolic link(s) left out: {shown}",
            "Put copies of the files in their place.",
        )
    if "config.json" in bundle.sizes and not any(
        name.startswith(tuple(f"{folder}/" for folder in TOP_FOLDERS)) for name in bundle.sizes
    ):
        yield _error("", "There is nothing to serve: neither static/ nor functions/ has a file.")


def _check_limits(bundle: Bundle) -> Iterator[Finding]:
    for name, size in bundle.sizes.items():
        if size > FILE_BYTES_MAX:
            yield _error(
                name, f"is {_mebibytes(size)}; a file may have {_mebibytes(FILE_BYTES_MAX)}."
            )
    if bundle.total_bytes > TOTAL_BYTES_MAX:
        yield _error(
            "",
            f"All files together are {_mebibytes(bundle.total_bytes)}; "
            f"{_mebibytes(TOTAL_BYTES_MAX)} are allowed.",
            "Leave out development packages (npm prune --omit=dev), source maps and media.",
        )
    if len(bundle.sizes) > FILES_MAX:
        yield _error(
            "",
            f"There are {len(bundle.sizes):,} files; {FILES_MAX:,} are allowed.",
            "Bundle functions into one file each (esbuild --bundle --platform=node).",
        )
    if bundle.is_zip and (size := bundle.source.stat().st_size) > ZIP_BYTES_MAX:
        yield _error("", f"The zip is {_mebibytes(size)}; {_mebibytes(ZIP_BYTES_MAX)} are allowed.")


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:,.1f} MiB"


def _check_secrets(bundle: Bundle) -> Iterator[Finding]:
    for name in _files_below(bundle, "static/"):
        path = PurePosixPath(name)
        if path.name == ".env" or path.name.startswith(".env."):
            yield _error(name, "would be public.", "Everything in static/ can be downloaded.")
        elif path.suffix.lower() in STATIC_TEXT_SUFFIXES:
            yield from _check_secrets_in(name, bundle.text(name, limit=STATIC_TEXT_BYTES_MAX))


def _check_secrets_in(name: str, text: str) -> Iterator[Finding]:
    """At most one finding a file: it shows the beginning of the secret and its line only."""
    for pattern, kind in ((GATEWAY_KEY, "a gateway key"), (PROVIDER_KEY, "an API key")):
        for match in pattern.finditer(text):
            secret = match.group(0)
            if pattern is PROVIDER_KEY and not _looks_random(secret.removeprefix("sk-")):
                continue
            line = text.count("\n", 0, match.start()) + 1
            yield _error(
                f"{name}:{line}",
                f"contains what looks like {kind} ({secret[:8]}...), and static/ is public.",
                "Call the model from a function, where the key is in process.env.OPENAI_API_KEY, "
                "and revoke this key if it was ever published.",
            )
            return


def _looks_random(text: str) -> bool:
    return bool(re.search(r"\d", text) and re.search(r"[A-Z]", text) and re.search(r"[a-z]", text))
