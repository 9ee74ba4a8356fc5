"""What an unpacked bundle means: `config.json` and the folder tree, checked, as a manifest.

Pure: reads files below one folder, writes none. Owns the bundle's format, version 1:

    config.json            {"version": 1, "routes": [...]}
    static/...             files, optional; static/_redirects is compiled into routes
    functions/<name>.func/ functions, optional; entry index.js, index.mjs or index.cjs
    .env.production        KEY=VALUE lines, optional

Routes are tried in order. Must not know how they are served. Every error names the place to fix.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import regex

from deployments import variables

CONFIG_BYTES_MAX = 1024 * 1024
ENVIRONMENT_FILE = ".env.production"
ENVIRONMENT_FILE_BYTES_MAX = 1024 * 1024
REDIRECTS_BYTES_MAX = 256 * 1024
ROUTES_MAX = 1_000
PATTERN_CHARACTERS_MAX = 2_000
# Together: every process that serves the site compiles them, at about 5 ms for 2,000 characters.
PATTERNS_CHARACTERS_MAX = 100_000
HEADERS_MAX = 50
HEADER_VALUE_CHARACTERS_MAX = 4_096
ENTRIES = ("index.js", "index.mjs", "index.cjs")  # the order in which AWS Lambda looks
FUNCTION_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
# Framing belongs to the server that answers.
SERVER_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
# Conditions we would have to ignore, and the route would then match more than it says.
CONDITIONS = ("methods", "has", "missing", "host", "locale", "middlewarePath")
REWRITE_STATUSES = frozenset({200, 404})
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
REDIRECT_STATUS = "301"
PLACEHOLDER = re.compile(r":([A-Za-z_]\w*)", re.ASCII)
CAPTURES_MAX = 9  # routing.py knows $1 to $9


class UnableToReadLayout(Exception):
    """The bundle is not laid out as it must be; the message says where and what to change."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a bundle contains: the manifest a release keeps, and the variables it brings."""

    manifest: dict[str, Any]
    environment: dict[str, str]

    @property
    def mode(self) -> str:
        """`ssr` when there is a function, else `static`."""
        return str(self.manifest["mode"])


def read(folder: Path) -> Layout:
    """The layout of the unpacked bundle in `folder`.

    The manifest is `{"version": 1, "mode": "static"|"ssr", "routes": [...], "functions": {name:
    {"folder", "entry"}}, "static": bool, "bundle_environment": [names]}`; routes are `{"handle":
    "filesystem"}` or `{"src", "dest"?, "status"?, "headers"?}`. Raises UnableToReadLayout.
    """
    config = _read_config(folder)
    functions = _read_functions(folder / "functions")
    forced, redirects = _read_redirects(folder / "static" / "_redirects")
    routes = forced + _read_routes(config, functions) + redirects
    _check_patterns(routes)
    environment = _read_environment(folder / ENVIRONMENT_FILE)
    return Layout(
        manifest={
            "version": 1,
            "mode": "ssr" if functions else "static",
            "routes": routes,
            "functions": functions,
            "static": _has_files(folder / "static"),
            "bundle_environment": sorted(environment),
        },
        environment=environment,
    )


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))


def _read_text(path: Path, shown_name: str, bytes_max: int) -> str:
    if path.stat().st_size > bytes_max:
        raise UnableToReadLayout(f"{shown_name} is larger than {bytes_max // 1024:,} KB.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnableToReadLayout(f"{shown_name} is not UTF-8 text.") from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UnableToReadLayout(_missing_config(folder))
    text = _read_text(path, "config.json", CONFIG_BYTES_MAX)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnableToReadLayout(
            f"config.json is not valid JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}."
        ) from None
    except (RecursionError, ValueError):
        raise UnableToReadLayout("config.json is nested too deeply or has a huge number.") from None
    if not isinstance(config, dict):
        raise UnableToReadLayout('config.json must be an object: {"version": 1, "routes": [...]}.')
    version = config.get("version")
    if type(version) is not int or version != 1:
        raise UnableToReadLayout('config.json: "version" must be the number 1.')
    return config


def _missing_config(folder: Path) -> str:
    """Why there is no config.json: the commonest mistake is to zip the folder around it."""
    nested = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if nested:
        return (
            f"config.json is inside the folder {nested[0]!r}; zip that folder's content, so that "
            "config.json is at the top."
        )
    return "The bundle has no config.json at its top."


# --- Functions -------------------------------------------------------------------------------


def _read_functions(folder: Path) -> dict[str, dict[str, str]]:
    if not folder.is_dir():
        return {}
    functions = {}
    for path in sorted(folder.iterdir()):
        if not (path.is_dir() and path.name.endswith(".func")):
            continue
        name = path.name.removesuffix(".func")
        shown = f"functions/{path.name}"
        if not FUNCTION_NAME.fullmatch(name):
            raise UnableToReadLayout(
                f"{shown}: a function's name may have 1 to 64 letters, digits, '-', '_' and '.'."
            )
        entry = next((entry for entry in ENTRIES if (path / entry).is_file()), None)
        if entry is None:
            raise UnableToReadLayout(
                f"{shown} has no entry file: add index.js, index.mjs or index.cjs."
            )
        functions[name] = {"folder": shown, "entry": entry}
    return functions


# --- Routes ----------------------------------------------------------------------------------


def _read_routes(config: dict[str, Any], functions: dict[str, Any]) -> list[dict[str, Any]]:
    routes = config.get("routes")
    if not isinstance(routes, list):
        raise UnableToReadLayout('config.json: "routes" must be a list.')
    if len(routes) > ROUTES_MAX:
        raise UnableToReadLayout(
            f"config.json has {len(routes):,} routes; at most {ROUTES_MAX:,} are allowed."
        )
    return [_read_route(route, index, functions) for index, route in enumerate(routes)]


def _check_patterns(routes: list[dict[str, Any]]) -> None:
    if sum(len(route.get("src", "")) for route in routes) > PATTERNS_CHARACTERS_MAX:
        raise UnableToReadLayout(
            "The patterns of all routes and redirects together are longer than "
            f"{PATTERNS_CHARACTERS_MAX:,} characters."
        )


def _refuse_route(index: int, problem: str) -> NoReturn:
    raise UnableToReadLayout(f"config.json: routes[{index}]: {problem}")


def _read_route(route: Any, index: int, functions: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(route, dict):
        _refuse_route(index, "must be an object.")
    if "handle" in route:
        if route["handle"] != "filesystem":
            _refuse_route(index, 'the only "handle" there is is "filesystem".')
        return {"handle": "filesystem"}
    for condition in CONDITIONS:
        if condition in route:
            _refuse_route(index, f'"{condition}" is not supported; match on "src" alone.')
    pattern, capture_count = _read_pattern(route.get("src"), index)
    if "dest" not in route and "headers" not in route:
        _refuse_route(index, 'needs a "dest" or "headers".')
    checked: dict[str, Any] = {"src": pattern}
    if "dest" in route:
        checked["dest"] = _read_destination(route["dest"], index, functions, capture_count)
    if "status" in route:
        checked["status"] = _read_status(route["status"], index)
    if "headers" in route:
        checked["headers"] = _read_headers(route["headers"], index)
    return checked


def _read_pattern(source: Any, index: int) -> tuple[str, int]:
    """The regular expression, in the dialect of the engine that routes, and its group count."""
    if not isinstance(source, str) or not source:
        _refuse_route(index, '"src" must be a regular expression, as text.')
    if len(source) > PATTERN_CHARACTERS_MAX:
        _refuse_route(index, f'"src" is longer than {PATTERN_CHARACTERS_MAX:,} characters.')
    _check_text(source, '"src"', index)
    try:
        return source, regex.compile(source).groups
    except (regex.error, RecursionError, OverflowError) as error:
        _refuse_route(index, f'"src" is not a valid regular expression: {error}.')


def _read_destination(
    destination: Any, index: int, functions: dict[str, Any], capture_count: int
) -> str:
    if not isinstance(destination, str):
        _refuse_route(index, '"dest" must be text.')
    _check_text(destination, '"dest"', index)
    for number in re.findall(r"\$(\d+)", destination):
        if int(number) > capture_count:
            _refuse_route(index, f'"dest" uses ${number}, but "src" has {capture_count} group(s).')
    if destination.startswith("/functions/"):
        name = destination.removeprefix("/functions/")
        if "$" not in name and name not in functions:
            known = ", ".join(functions) or "none"
            _refuse_route(index, f"there is no function {name!r}; the bundle has: {known}.")
    elif not destination.startswith("/static/"):
        _refuse_route(index, '"dest" must start with "/functions/" or "/static/".')
    elif ".." in destination.split("/"):
        _refuse_route(index, '"dest" must not contain "..".')
    return destination


def _read_status(status: Any, index: int) -> int:
    if type(status) is not int or not 200 <= status <= 599:
        _refuse_route(index, '"status" must be a number from 200 to 599.')
    return int(status)


def _read_headers(headers: Any, index: int) -> dict[str, str]:
    if not isinstance(headers, dict) or not headers:
        _refuse_route(index, '"headers" must be an object with at least one name.')
    if len(headers) > HEADERS_MAX:
        _refuse_route(index, f'"headers" has more than {HEADERS_MAX} names.')
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            _refuse_route(index, f"{name!r} is not a header name.")
        if name.lower() in SERVER_HEADERS:
            _refuse_route(index, f"the header {name} is set by the server.")
        if not isinstance(value, str) or len(value) > HEADER_VALUE_CHARACTERS_MAX:
            _refuse_route(
                index,
                f"the header {name} must be text of at most {HEADER_VALUE_CHARACTERS_MAX:,} "
                "characters.",
            )
        if not all(character == "\t" or "\x20" <= character <= "\xff" for character in value) or (
            "\x7f" in value
        ):
            _refuse_route(index, f"the header {name} contains a character no header can hold.")
    return dict(headers)


def _check_text(text: str, shown_name: str, index: int) -> None:
    if any(character < " " or "\ud800" <= character <= "\udfff" for character in text):
        _refuse_route(index, f"{shown_name} contains a control character or half a character.")


# --- The other files -------------------------------------------------------------------------


def _read_environment(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    text = _read_text(path, ENVIRONMENT_FILE, ENVIRONMENT_FILE_BYTES_MAX)
    try:
        return variables.read_environment_file(text)
    except variables.UnableToReadEnvironmentFile as error:
        raise UnableToReadLayout(str(error)) from None


def _read_redirects(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """static/_redirects as routes: those that win over files (`200!`), and the others.

    The format is Netlify's, without its conditions and its proxying to other hosts:
    https://docs.netlify.com/manage/routing/redirects/redirect-options/
    """
    if not path.is_file():
        return [], []
    forced: list[dict[str, Any]] = []
    ordinary: list[dict[str, Any]] = []
    text = _read_text(path, "static/_redirects", REDIRECTS_BYTES_MAX)
    for number, raw in enumerate(text.split("\n"), start=1):
        words = re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].split()
        if words:
            rule = _read_redirect(words, f"static/_redirects line {number}")
            (forced if words[2:] and words[2].endswith("!") else ordinary).append(rule)
    if len(forced) + len(ordinary) > ROUTES_MAX:
        raise UnableToReadLayout(f"static/_redirects has more than {ROUTES_MAX:,} rules.")
    return forced, ordinary


def _read_redirect(words: list[str], place: str) -> dict[str, Any]:
    """One rule: a rewrite (200, 404) to a static file, or a redirect, which is the default."""
    if any("=" in word and not word.startswith(("/", "http")) for word in words):
        raise UnableToReadLayout(
            f"{place}: conditions (query parameters, Country, Language, Role) are not supported."
        )
    if len(words) not in {2, 3} or not words[0].startswith("/"):
        raise UnableToReadLayout(f"{place}: expected '/from  /to  200'.")
    source, target = words[:2]
    status = words[2].removesuffix("!") if len(words) == 3 else REDIRECT_STATUS
    _check_redirect(place, source, target, status)
    steps = map(PLACEHOLDER.fullmatch, source.split("/"))
    names = [found[1] for found in steps if found]
    uses_splat = ":splat" in target
    target = _fill(target, names + ["splat"] * source.endswith("*"), place)
    pattern = _redirect_pattern(source, target, uses_splat=uses_splat)
    if int(status) in REWRITE_STATUSES:
        return {"src": pattern, "dest": f"/static{target}", "status": int(status)}
    return {"src": pattern, "headers": {"location": target}, "status": int(status)}


def _fill(target: str, names: list[str], place: str) -> str:
    """`target` with `:name` as the number of what the first path captures under that name."""
    if len(names) > CAPTURES_MAX or len(set(names)) < len(names):
        raise UnableToReadLayout(
            f"{place}: the first path may have {CAPTURES_MAX} placeholders, each name once."
        )

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            raise UnableToReadLayout(f"{place}: the first path has no ':{found[1]}'.")
        return f"${names.index(found[1]) + 1}"

    return PLACEHOLDER.sub(number, target)


def _redirect_pattern(source: str, target: str, *, uses_splat: bool) -> str:
    """The expression for a rule's first path. A slash at its end makes no difference.

    `/news/*` matches `/news`, too.
    """
    stem = "/".join(
        "([^/]+)" if PLACEHOLDER.fullmatch(step) else re.escape(step)
        for step in source.removesuffix("*").split("/")
    )
    rest = "(.*)" if uses_splat else ".*"
    if not source.endswith("*"):
        # A rule that does nothing but add or remove the slash would lead to itself.
        slash = "" if source.rstrip("/") in {"", target.rstrip("/")} else "/?"
        return f"^{stem.rstrip('/') + slash if slash else stem}$"
    if source.endswith("/*") and source != "/*":
        return f"^{stem.removesuffix('/')}(?:/{rest})?$"
    return f"^{stem}{rest}$"


def _check_redirect(place: str, source: str, target: str, status: str) -> None:
    statuses = REWRITE_STATUSES | REDIRECT_STATUSES
    if not status.isdecimal() or int(status) not in statuses:
        known = ", ".join(str(known) for known in sorted(statuses))
        raise UnableToReadLayout(f"{place}: the status must be one of {known}; not {status!r}.")
    is_redirect = int(status) in REDIRECT_STATUSES
    if target.startswith("//") or not (
        target.startswith("/") or (is_redirect and re.match(r"https?://", target))
    ):
        raise UnableToReadLayout(f"{place}: the second path must start with '/'.")
    if "*" in source[:-1] or "$" in target or ".." in target.split("/"):
        raise UnableToReadLayout(
            f"{place}: '*' may only end the first path, and the second may hold neither '$' nor "
            "'..'."
        )
    # The target may become a header, which holds Latin-1 only.
    if not (source + target).isprintable() or not target.isascii():
        raise UnableToReadLayout(f"{place}: write characters beyond ASCII percent-encoded.")
