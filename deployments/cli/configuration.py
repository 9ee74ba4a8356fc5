"""Where the client finds its server and token.

Owns the order of the places; must know nothing of HTTP. A URL and a token are taken from one place
together, so that the token of one server is never sent to another by accident; only a flag, which
somebody typed, replaces one half of a pair.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HOW_TO_SET = (
    "Set REBYTE_API_URL and REBYTE_API_TOKEN (or API_URL and AUTH_TOKEN, which `make run` prints), "
    "or pass --api-url and --api-token."
)


class UnableToFindServer(Exception):
    """No complete pair of server address and token; the message says how to set one."""


@dataclass(frozen=True)
class Server:
    """A server's origin without a trailing slash, its workspace token, and where they came from."""

    url: str
    token: str
    origin: str

    def __repr__(self) -> str:
        """Without the token, which must not reach a traceback."""
        return f"Server(url={self.url!r}, origin={self.origin!r})"


@dataclass(frozen=True)
class _Pair:
    url: str
    token: str
    origin: str


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _read_auth_file(path: Path) -> _Pair | None:
    """The pair in auth.json; None when there is no file or it has no `sandbox` section."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnableToFindServer(
            f"{path} cannot be read as JSON ({error}). Correct or remove it, or pass both "
            "--api-url and --api-token."
        ) from None
    sandbox = content.get("sandbox") if isinstance(content, dict) else None
    if not isinstance(sandbox, dict):
        return None
    return _Pair(_text(sandbox.get("relay_url")), _text(sandbox.get("token")), str(path))


def _pairs(environ: Mapping[str, str], home: Path) -> Iterator[_Pair]:
    """The places in order of preference, read only as far as needed."""
    from_file = _read_auth_file(home / ".rebyte.ai" / "auth.json")
    if from_file is not None:
        yield from_file
    for url_name, token_name in (("REBYTE_API_URL", "REBYTE_API_TOKEN"), ("API_URL", "AUTH_TOKEN")):
        yield _Pair(
            _text(environ.get(url_name)),
            _text(environ.get(token_name)),
            f"{url_name} and {token_name}",
        )


def find_server(
    *,
    api_url: str | None,
    api_token: str | None,
    environ: Mapping[str, str],
    home: Path,
) -> Server:
    """The server to talk to.

    Order: flags (`api_url`, `api_token`), `~/.rebyte.ai/auth.json`, REBYTE_API_URL and
    REBYTE_API_TOKEN, API_URL and AUTH_TOKEN. Raises UnableToFindServer when no place gives both.
    """
    flag_url, flag_token = _text(api_url), _text(api_token)
    if flag_url and flag_token:
        return _checked(_Pair(flag_url, flag_token, "--api-url and --api-token"))
    seen: list[_Pair] = []
    for pair in _pairs(environ, home):
        completed = _Pair(flag_url or pair.url, flag_token or pair.token, pair.origin)
        if completed.url and completed.token:
            return _checked(completed)
        seen.append(completed)
    raise UnableToFindServer(_missing(seen))


def _missing(pairs: list[_Pair]) -> str:
    """What is missing, told by the place that came closest."""
    for pair in pairs:
        if pair.url:
            return f"There is a server address ({pair.url}) but no token for it. {HOW_TO_SET}"
        if pair.token:
            return f"There is a token but no server address. {HOW_TO_SET}"
    return f"No server is configured. {HOW_TO_SET}"


def _checked(pair: _Pair) -> Server:
    url = pair.url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UnableToFindServer(
            f"The server address must start with http:// or https://, not {url!r} "
            f"(from {pair.origin})."
        )
    if not pair.token.isascii() or any(character.isspace() for character in pair.token):
        raise UnableToFindServer(
            f"The token from {pair.origin} contains spaces or other characters a token never has. "
            "Copy it again."
        )
    return Server(url, pair.token, pair.origin)
