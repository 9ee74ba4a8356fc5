"""The usual mistakes of a function's folder: its entry, its handler, its imports.

Owns the findings and their wording; what the text of a script gives away is javascript.py's.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from deployments.cli import javascript, leaks
from deployments.cli.bundle import Bundle
from deployments.cli.findings import Finding, error, warning

# Larger files are bundler output or data; reading them all would make validation slow.
SCRIPT_BYTES_MAX = 2 * 1024 * 1024
SCRIPTS_PER_FUNCTION_MAX = 200

ENTRIES = ("index.js", "index.mjs", "index.cjs")  # the order in which AWS Lambda looks
FUNCTION_FILE = re.compile(r"functions/[^/]+\.func/")
# Not `.open-next`: OpenNext's server names that folder in every bundle and never reads it.
HIDDEN_BUILD_FOLDERS = (".next",)


def names(bundle: Bundle) -> list[str]:
    """The names of function folders, `functions/<name>.func/`."""
    folders = {name.split("/")[1] for name in bundle.sizes if FUNCTION_FILE.match(name)}
    return sorted(folder.removesuffix(".func") for folder in folders)


def check(bundle: Bundle) -> Iterator[Finding]:
    """Every finding in the folders of functions. Raises UnableToReadBundle."""
    stray = sorted(
        {
            name.split("/")[1]
            for name in bundle.sizes
            if name.startswith("functions/") and not FUNCTION_FILE.match(name)
        }
    )
    for name in stray:
        yield warning(
            f"functions/{name}",
            "is not used.",
            f"Functions are folders whose name ends in .func: functions/{name}.func/index.mjs",
        )
    for name in names(bundle):
        yield from _check_function(bundle, f"functions/{name}.func/")


def _check_function(bundle: Bundle, folder: str) -> Iterator[Finding]:
    entry = next((folder + name for name in ENTRIES if folder + name in bundle.sizes), None)
    if entry is None:
        yield error(
            folder,
            "has no index.mjs, index.js or index.cjs.",
            "The entry exports the function: export const handler = async (event) => ({...})",
        )
        return
    yield from _check_entry(bundle, entry)
    scripts = _scripts(bundle, entry)
    yield from _check_imports(bundle, folder, scripts)
    yield from _check_paths(bundle, scripts)
    yield from _check_keys_in_code(scripts)
    yield from _check_hidden_folders(bundle, folder, scripts)


def _check_entry(bundle: Bundle, entry: str) -> Iterator[Finding]:
    if bundle.sizes[entry] > SCRIPT_BYTES_MAX:
        return  # a bundler's output; what it exports may stand beyond what is read
    text = bundle.text(entry, limit=SCRIPT_BYTES_MAX)
    if javascript.is_http_handler(text):
        yield error(
            entry,
            "exports a function of (req, res), which this platform does not call.",
            "Export the AWS Lambda form: export const handler = async (event) => "
            '({statusCode: 200, headers: {"content-type": "text/plain"}, body: "hello"})',
        )
    elif entry.endswith(".mjs") and javascript.mixes_modules(text):
        yield error(
            entry,
            "assigns to `exports`, which does not exist in an .mjs file.",
            "Write `export const handler = ...`, or rename the file to index.cjs.",
        )
    elif not javascript.exports_handler(text):
        yield error(
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


def _path_of(importer: str, specifier: str) -> str:
    """The name in the bundle that a relative specifier stands for, without what Node tries."""
    parts: list[str] = []
    for part in (*PurePosixPath(importer).parent.parts, *specifier.split("/")):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)


def _is_there(bundle: Bundle, importer: str, specifier: str) -> bool:
    """Whether Node may find a file for a relative specifier: itself, with a suffix, a folder."""
    path = _path_of(importer, specifier.partition("?")[0])
    suffixes = ("", ".js", ".json", ".node", ".mjs", ".cjs")
    return any(path + suffix in bundle.sizes for suffix in suffixes) or bool(
        bundle.below(f"{path}/")
    )


def _resolve(bundle: Bundle, importer: str, specifier: str) -> list[str]:
    """The script a relative specifier means: at most one name."""
    path = _path_of(importer, specifier)
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
        if bundle.below(f"{place}/node_modules/{package}/"):
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
    return (error if is_sure else warning)(script, message, hint)


def _check_paths(bundle: Bundle, scripts: dict[str, str]) -> Iterator[Finding]:
    """Imports by path: of this machine, or of files that are not there."""
    for script, text in scripts.items():
        for imported in javascript.imports(text):
            if re.match(r"/|file:|[A-Za-z]:[\\/]", imported.name):
                yield error(
                    script,
                    f"imports {imported.name!r}, a path of this machine.",
                    "Copy the file into the function's folder and import it with './...'.",
                )
            elif (
                imported.name.startswith(("./", "../"))
                and imported.certainty is javascript.Certainty.ALWAYS_LOADED
                and not _is_there(bundle, script, imported.name)
            ):
                yield _missing_file(script, imported.name)


def _missing_file(script: str, specifier: str) -> Finding:
    hint = "Build first, or look at the name: capital letters count, and so does the suffix."
    if any(part.startswith(".") and part.strip(".") for part in specifier.split("/")):
        hint = "`cp -r from/* to` leaves hidden folders out; `cp -r from/. to` takes them along."
    return warning(script, f"imports {specifier!r}, which is not in the bundle.", hint)


def _check_keys_in_code(scripts: dict[str, str]) -> Iterator[Finding]:
    for script, text in scripts.items():
        if found := leaks.GATEWAY_KEY.search(text):
            yield warning(
                script,
                f"contains a gateway key ({found.group(0)[:8]}...).",
                "Read process.env.OPENAI_API_KEY instead: it changes when the key is rotated.",
            )


def _check_hidden_folders(
    bundle: Bundle, folder: str, scripts: dict[str, str]
) -> Iterator[Finding]:
    """Folders such as `.next` that the code reads and a `cp -r out/* there` left behind."""
    files = bundle.below(folder)
    for hidden in HIDDEN_BUILD_FOLDERS:
        mention = re.compile(rf"""(?<![\w.]){re.escape(hidden)}(?=[/"'`])""")
        mentioned = next((name for name, text in scripts.items() if mention.search(text)), None)
        if mentioned and not any(f"/{hidden}/" in name for name in files):
            yield warning(
                mentioned,
                f"mentions {hidden}/, but there is no such folder in {folder}.",
                "`cp -r from/* to` leaves hidden folders out; `cp -r from/. to` takes them along.",
            )
