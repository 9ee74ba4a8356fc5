"""The usual mistakes of a bundle, found before anything is sent.

Owns the order of the checks, and those of names, config.json, `.env.production` and sizes; must
know nothing of servers or terminals. An error stops a deploy, because the app would not work (or
would publish a secret); a warning is a guess worth a look. The server has the last word, so its
limits are repeated here only to save the upload.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from deployments import variables
from deployments.cli import functions, leaks
from deployments.cli.bundle import TOP_FOLDERS, Bundle
from deployments.cli.findings import Finding, Level, error, warning

MEBIBYTE = 1024 * 1024
ZIP_BYTES_MAX = 100 * MEBIBYTE
FILE_BYTES_MAX = 100 * MEBIBYTE
TOTAL_BYTES_MAX = 250 * MEBIBYTE  # AWS Lambda's own limit for an unpacked function
FILES_MAX = 10_000
CONFIG_BYTES_MAX = MEBIBYTE
# Where build tools put the folder people meant.
USUAL_OUTPUTS = (".vercel/output", ".open-next", "dist", "build", "out", "output")
ENVIRONMENT_BYTES_MAX = 256 * 1024
# Provision sets these; an app that sets them itself talks to somebody else.
GATEWAY_VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL")


def check(bundle: Bundle) -> list[Finding]:
    """Everything found, errors first. Raises UnableToReadBundle when a file cannot be read."""
    findings = [
        *_check_names(bundle),
        *_check_config(bundle),
        *functions.check(bundle),
        *_check_environment(bundle),
        *_check_leftovers(bundle),
        *_check_limits(bundle),
        *leaks.check(bundle),
    ]
    return sorted(findings, key=lambda finding: finding.level is not Level.ERROR)


def has_errors(findings: list[Finding]) -> bool:
    """Whether these findings stop a deploy."""
    return any(finding.level is Level.ERROR for finding in findings)


# names of files


def _check_names(bundle: Bundle) -> Iterator[Finding]:
    """Names that only a zip can have; the server refuses them."""
    for name in bundle.sizes:
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            hint = "Zip from inside the folder: cd <folder> && zip -r ../app.zip ."
            yield error(name, "is an absolute path.", hint)
        elif "\\" in name:
            hint = "Zip it with a tool that writes /, or give the folder itself."
            yield error(name, "has a backslash where / belongs.", hint)
        elif ".." in name.split("/"):
            yield error(name, "leads out of the bundle.", "Give names without '..'.")


# config.json and its routes


def _check_config(bundle: Bundle) -> Iterator[Finding]:
    if "config.json" not in bundle.sizes:
        yield error("config.json", "is missing.", _where_config_might_be(bundle))
        return
    try:
        config = json.loads(bundle.text("config.json", limit=CONFIG_BYTES_MAX))
    except json.JSONDecodeError as problem:
        yield error(
            "config.json",
            f"is not valid JSON: {problem.msg} (line {problem.lineno}, column {problem.colno}).",
            "JSON has no comments and no comma after the last element.",
        )
        return
    if not isinstance(config, dict):
        yield error("config.json", 'must be an object: {"version": 1, "routes": [...]}.')
        return
    if config.get("version") != 1:
        yield error("config.json", '"version" must be 1.')
    yield from _check_routes(config.get("routes"), bundle)


def _where_config_might_be(bundle: Bundle) -> str:
    """A hint that names the folder that was probably meant."""
    if bundle.is_zip:
        nested = sorted(
            (name for name in bundle.sizes if name.endswith("/config.json")),
            key=lambda name: name.count("/"),
        )
        if nested:
            folder = nested[0].removesuffix("/config.json")
            return (
                f"It is inside the folder {folder}/: zip what is in it, not the folder "
                f"(cd {folder} && zip -r ../app.zip .)."
            )
        return "It belongs at the top of the zip."
    for folder in (*USUAL_OUTPUTS, *bundle.ignored):
        if (bundle.source / folder / "config.json").is_file():
            return f"There is one in {folder}/: deploy that folder."
    return (
        'The smallest one is {"version": 1, "routes": [{"handle": "filesystem"}]}, '
        "beside a folder static/."
    )


def _check_routes(routes: Any, bundle: Bundle) -> Iterator[Finding]:
    if not isinstance(routes, list):
        yield error("config.json", 'needs "routes": a list.')
        return
    if not routes and "static/_redirects" not in bundle.sizes:
        yield error(
            "config.json",
            "has no routes, so every request would answer 404.",
            'Add {"handle": "filesystem"} to serve static/, or '
            '{"src": "^/api/.*$", "dest": "/functions/<name>"} to call a function.',
        )
    findings = [
        finding
        for number, route in enumerate(routes, 1)
        for finding in _check_route(f"config.json, route {number}", route, bundle)
    ]
    yield from findings
    is_unserved = bundle.below("static/") and not _serves_files(routes, bundle)
    if routes and not findings and is_unserved:
        yield warning(
            "static/",
            "has files, but no route serves them.",
            'Add {"handle": "filesystem"} to the routes, before those that call functions.',
        )


def _serves_files(routes: list[Any], bundle: Bundle) -> bool:
    """Whether a route, or a rule of static/_redirects, leads into static/."""
    return "static/_redirects" in bundle.sizes or any(
        "handle" in route or str(route.get("dest", "")).startswith("/static/")
        for route in routes
        if isinstance(route, dict)
    )


def _check_route(where: str, route: Any, bundle: Bundle) -> Iterator[Finding]:
    if not isinstance(route, dict):
        yield error(where, "must be an object.")
    elif "handle" in route:
        if route["handle"] != "filesystem":
            yield error(where, '"handle" can only be "filesystem".')
    elif not isinstance(route.get("src"), str):
        yield error(where, 'needs "handle": "filesystem" or a "src" with a regular expression.')
    else:
        yield from _check_pattern(where, route["src"])
        yield from _check_destination(where, route, bundle)


def _check_pattern(where: str, pattern: str) -> Iterator[Finding]:
    """Only a warning: the server's engine knows more than Python's own."""
    try:
        re.compile(pattern.replace("(?<", "(?P<").replace("(?P<=", "(?<=").replace("(?P<!", "(?<!"))
    except re.error as problem:
        yield warning(
            where,
            f'"src" does not seem to be a regular expression: {problem.msg}.',
            'A path is written "^/api/.*$": * alone is no wildcard, . is any character.',
        )


def _check_destination(where: str, route: dict[str, Any], bundle: Bundle) -> Iterator[Finding]:
    destination = route.get("dest")
    if destination is None:
        if not isinstance(route.get("headers"), dict):
            yield error(where, 'needs a "dest", or "headers" to add.')
        return
    if not isinstance(destination, str) or not destination.startswith(("/functions/", "/static/")):
        yield error(
            where, f'"dest" must be "/functions/<name>" or "/static/<file>", not {destination!r}.'
        )
        return
    if "$" in destination:
        return  # the request decides which file or function is meant
    if destination.startswith("/static/"):
        if destination.removeprefix("/") not in bundle.sizes:
            yield error(where, f"sends to {destination}, but there is no such file.")
        return
    name = destination.removeprefix("/functions/")
    if not bundle.below(f"functions/{name}.func/"):
        known = ", ".join(functions.names(bundle)) or "none"
        yield error(
            where,
            f"calls the function {name!r}, but there is no folder functions/{name}.func.",
            f"Functions in this bundle: {known}.",
        )


# .env.production


def _check_environment(bundle: Bundle) -> Iterator[Finding]:
    name = ".env.production"
    if name not in bundle.sizes:
        return
    if bundle.sizes[name] > ENVIRONMENT_BYTES_MAX:
        yield error(name, f"is larger than {ENVIRONMENT_BYTES_MAX:,} bytes.")
        return
    try:
        found = variables.read_environment_file(bundle.text(name, limit=ENVIRONMENT_BYTES_MAX))
    except variables.UnableToReadEnvironmentFile as problem:
        # It names the file and the line, never a value.
        hint = 'One NAME=VALUE a line; quote a value with spaces around it: NAME=" value ".'
        yield error("", str(problem), hint)
        return
    for variable in GATEWAY_VARIABLES:
        if variable in found:
            yield warning(
                name,
                f"sets {variable}, so the app does not use the key that it is given.",
                "Remove it unless that is meant: provision sets it for the gateway.",
            )


# what lies around, and how much it is


def _check_leftovers(bundle: Bundle) -> Iterator[Finding]:
    for name in bundle.ignored:
        if re.fullmatch(r"\.env(\.(?!production$|example$|sample$).*)?", name):
            yield warning(
                name,
                "is not sent; only .env.production is used.",
                "Rename it, or set the values on the server with update-env.",
            )
    if bundle.links:
        shown = ", ".join(bundle.links[:3]) + (", ..." if len(bundle.links) > 3 else "")
        yield warning(
            "",
            f"{len(bundle.links)} symbolic link(s) left out: {shown}",
            "Put copies of the files in their place.",
        )
    if "config.json" in bundle.sizes and not any(
        name.startswith(tuple(f"{folder}/" for folder in TOP_FOLDERS)) for name in bundle.sizes
    ):
        yield error("", "There is nothing to serve: neither static/ nor functions/ has a file.")


def _check_limits(bundle: Bundle) -> Iterator[Finding]:
    for name, size in bundle.sizes.items():
        if size > FILE_BYTES_MAX:
            yield error(
                name, f"is {_mebibytes(size)}; a file may have {_mebibytes(FILE_BYTES_MAX)}."
            )
    if bundle.total_bytes > TOTAL_BYTES_MAX:
        yield error(
            "",
            f"All files together are {_mebibytes(bundle.total_bytes)}; "
            f"{_mebibytes(TOTAL_BYTES_MAX)} are allowed.",
            "Leave out development packages (npm prune --omit=dev), source maps and media.",
        )
    if len(bundle.sizes) > FILES_MAX:
        yield error(
            "",
            f"There are {len(bundle.sizes):,} files; {FILES_MAX:,} are allowed.",
            "Bundle functions into one file each (esbuild --bundle --platform=node).",
        )
    if bundle.is_zip and (size := bundle.source.stat().st_size) > ZIP_BYTES_MAX:
        yield error("", f"The zip is {_mebibytes(size)}; {_mebibytes(ZIP_BYTES_MAX)} are allowed.")


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:,.1f} MiB"
