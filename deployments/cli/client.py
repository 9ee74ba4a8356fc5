"""The wire: JSON calls with the workspace token, and the upload without it.

Owns timeouts, what may be repeated, and how a refusal reads. Must know nothing of terminals and
flags. Paths are those of the deploy protocol (`/api/data/aws/*`), which every server has; the
gateway's own calls stand beside them.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

from deployments.cli.configuration import Server

CONNECT_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 60.0
DEPLOY_SECONDS_MAX = 300.0  # the server checks and unpacks the bundle before it answers
ANSWER_BYTES_MAX = 32 * 1024 * 1024
MESSAGE_CHARACTERS_MAX = 600
UPLOAD_CHUNK_BYTES = 64 * 1024
# Waits before the second and third try.
RETRY_PAUSES_SECONDS = (0.3, 1.0)
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
# A proxy from the environment cannot reach this machine's own ports.
NEVER_PROXIED = ("all://localhost", "all://*.localhost", "all://127.0.0.1", "all://[::1]")

HINTS = {
    401: "The token was not accepted. Make a new one in the console and set it again.",
    404: "Check the site's prefix (--id), and that the address is that of the platform itself.",
    413: "The bundle is larger than the server accepts. Leave out what is not needed to run.",
}


class UnableToReachServer(Exception):
    """No answer: refused, timed out, cut off, or not JSON where JSON was due."""


class RefusedByServer(Exception):
    """A non-2xx answer. Reads `<status> <message>`; `hint` says what usually helps."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message

    @property
    def hint(self) -> str:
        """What usually helps with this status, or nothing."""
        return HINTS.get(self.status, "")


def message_of(body: bytes, *, status: int) -> str:
    """What a refusal's body says: `error.message`, else its text, shortened.

    Accepts `{"error": {"message"}}`, `{"error": "text"}`, `{"message"}`, `{"detail"}` and plain
    text; of an HTML page (a proxy's) only the fact is told.
    """
    text = body.decode("utf-8", "replace").strip()
    try:
        found = _message_in(json.loads(text))
    except ValueError:
        found = ""
    if not found and text[:200].lower().startswith(("<!doctype", "<html")):
        found = "(the answer is an HTML page, not one of the platform's own messages)"
    message = found or text or httpx.codes.get_reason_phrase(status) or "(empty answer)"
    if len(message) > MESSAGE_CHARACTERS_MAX:
        message = message[:MESSAGE_CHARACTERS_MAX] + " ..."
    return message


def _message_in(answer: Any) -> str:
    """The message in a JSON refusal, or nothing."""
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error")
    candidates = [
        error.get("message") if isinstance(error, dict) else error,
        answer.get("message"),
        answer.get("detail"),
    ]
    return next((found for found in candidates if isinstance(found, str) and found), "")


class Client:
    """One server, one workspace. Use as a context manager; not for several threads."""

    def __init__(self, server: Server, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.server = server
        self._pause = pause
        self._http = httpx.Client(
            timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            headers={"User-Agent": "deployments-cli"},
            mounts=dict.fromkeys(NEVER_PROXIED),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def upload_url(self, site: str | None) -> tuple[str, str]:
        """(deployId, presigned URL) for the site with this prefix, or the default one."""
        answer = self._read("aws/get-upload-url", _site(site))
        return _required(answer, "deployId"), _required(answer, "uploadUrl")

    def upload(self, url: str, bundle: Path, *, on_progress: Callable[[int], None]) -> None:
        """PUT a zip to a presigned URL, `on_progress(bytes sent now)` as it goes.

        The URL carries its own authority, so the token is not sent: it may be another host's.
        """
        size = bundle.stat().st_size
        headers = {"Content-Type": "application/zip", "Content-Length": str(size)}

        def put() -> tuple[int, bytes]:
            with bundle.open("rb") as file:
                return self._send("PUT", url, headers=headers, content=_chunks(file, on_progress))

        status, body = self._attempt(put, repeatable=False)
        _refuse(status, body)

    def deploy(self, deploy_id: str) -> dict[str, Any]:
        """Release what was uploaded: `{"deployId", "url", "status"}`."""
        return self._write("aws/deploy", {"deployId": deploy_id}, seconds=DEPLOY_SECONDS_MAX)

    def site(self, site: str | None) -> dict[str, Any]:
        """`{"exists": false}` or `{"exists": true, "url", "deployId", "status", ...}`."""
        return self._read("aws/get-deployment", _site(site))

    def delete(self, site: str | None) -> dict[str, Any]:
        """Delete the site: `{"message"}`."""
        return self._write("aws/delete-site", _site(site))

    def logs(
        self, site: str | None, *, minutes: int, request_id: str = "", function_name: str = ""
    ) -> dict[str, Any]:
        """`{"message"}`, or `{"entries": [{"timestamp", "message"}], "hasMore", ...}`.

        A server that knows only the protocol ignores the filters.
        """
        wanted = {"requestId": request_id, "functionName": function_name}
        only = {name: value for name, value in wanted.items() if value}
        return self._read("aws/get-logs", {"minutes": minutes, **only, **_site(site)})

    def provision(self, deploy_id: str) -> dict[str, Any]:
        """Create or fetch the site's gateway key. The answer holds the secret.

        Sent once although repeating it does no harm: after a lost answer the second one would say
        that the key is not new, and nobody would redeploy the app that lacks it.
        """
        return self._write("aigateway/provision", {"deployId": deploy_id})

    def gateway(self, deploy_id: str) -> dict[str, Any]:
        """Facts of the site's gateway key, without its secret: `{"exists", "keyPrefix", ...}`."""
        return self._read("aigateway/info", {"deployId": deploy_id})

    def redeploy(self, deploy_id: str) -> str:
        """Ask for the current bundle to be released again with today's environment: a releaseId."""
        answer = self._write("deployments/redeploy", {"deployId": deploy_id})
        return _required(answer, "releaseId")

    def releases(self, deploy_id: str) -> list[dict[str, Any]]:
        """The site's releases, latest first."""
        answer = self._read("deployments/releases", {"deployId": deploy_id})
        releases = answer.get("releases")
        return (
            [row for row in releases if isinstance(row, dict)] if isinstance(releases, list) else []
        )

    def roll_back(self, deploy_id: str, release_id: str) -> dict[str, Any]:
        """Make this release live again. Twice does no harm: it is named."""
        body = {"deployId": deploy_id, "releaseId": release_id}
        return self._call("deployments/rollback", body, repeatable=True, seconds=DEPLOY_SECONDS_MAX)

    def environment(self, site: str | None) -> dict[str, Any]:
        """`{"deployId", "environment": {name: masked}, "sources", "bundle": [names]}`."""
        return self._read("deployments/get-env", _site(site))

    def update_environment(
        self, site: str | None, changes: dict[str, str | None], *, redeploy: bool
    ) -> dict[str, Any]:
        """Set values, or remove with None: `{"deployId", "environment": [names], "releaseId"?}`."""
        body = {"environment": changes, "redeploy": redeploy, **_site(site)}
        # Setting twice is setting once; redeploying twice is not.
        return self._call(
            "deployments/update-env", body, repeatable=not redeploy, seconds=ANSWER_SECONDS_MAX
        )

    def rotate(self, deploy_id: str, *, grace_seconds: int) -> dict[str, Any]:
        """A new key; the old one works for `grace_seconds` more. The answer holds the secret."""
        body = {"deployId": deploy_id, "graceSeconds": grace_seconds}
        return self._write("aigateway/rotate", body)

    def revoke(self, deploy_id: str) -> dict[str, Any]:
        """Refuse the site's key from now on; twice does no harm."""
        return self._read("aigateway/revoke", {"deployId": deploy_id})

    def _read(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A call that changes nothing when it is made twice."""
        return self._call(path, body, repeatable=True, seconds=ANSWER_SECONDS_MAX)

    def _write(
        self, path: str, body: dict[str, Any], *, seconds: float = ANSWER_SECONDS_MAX
    ) -> dict[str, Any]:
        """A call that is made once; it is repeated only if it never left."""
        return self._call(path, body, repeatable=False, seconds=seconds)

    def _call(
        self, path: str, body: dict[str, Any], *, repeatable: bool, seconds: float
    ) -> dict[str, Any]:
        url = f"{self.server.url}/api/data/{path}"
        headers = {
            "Authorization": f"Bearer {self.server.token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        content = json.dumps(body).encode()

        def post() -> tuple[int, bytes]:
            return self._send("POST", url, headers=headers, content=content, seconds=seconds)

        status, answer = self._attempt(post, repeatable=repeatable)
        _refuse(status, answer)
        return _parsed(answer, url)

    def _attempt(
        self, send: Callable[[], tuple[int, bytes]], *, repeatable: bool
    ) -> tuple[int, bytes]:
        """Send; again after a pause if that is safe. Raises UnableToReachServer."""
        for pause in (*RETRY_PAUSES_SECONDS, None):
            try:
                status, body = send()
            except httpx.InvalidURL as error:
                raise UnableToReachServer(f"Not a usable address: {error}") from None
            except httpx.HTTPError as error:
                never_sent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                if pause is None or not (repeatable or never_sent):
                    raise UnableToReachServer(self._unreachable(error)) from None
            else:
                if pause is None or not (repeatable and status in RETRIED_STATUSES):
                    return status, body
            self._pause(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        content: bytes | Iterator[bytes],
        seconds: float = ANSWER_SECONDS_MAX,
    ) -> tuple[int, bytes]:
        """One exchange: (status, body). No redirect is followed, so no token is sent elsewhere."""
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS_MAX)
        with self._http.stream(
            method, url, headers=headers, content=content, timeout=timeout
        ) as response:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    raise UnableToReachServer(
                        f"The server's answer is larger than {ANSWER_BYTES_MAX} bytes."
                    )
            return response.status_code, bytes(body)

    def _unreachable(self, error: httpx.HTTPError) -> str:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.UnsupportedProtocol):
            return f"The server gave an upload address that is not http or https. {reason}"
        if isinstance(error, httpx.TimeoutException):
            reason = "no answer in time"
        return f"Cannot reach {self.server.url} ({reason}). Is the platform running there?"


def _site(site: str | None) -> dict[str, Any]:
    """The body that names a site; empty for the default one."""
    return {} if site is None else {"id": site}


def _chunks(file: BinaryIO, on_progress: Callable[[int], None]) -> Iterator[bytes]:
    while chunk := file.read(UPLOAD_CHUNK_BYTES):
        yield chunk
        on_progress(len(chunk))


def _refuse(status: int, body: bytes) -> None:
    if not 200 <= status < 300:
        raise RefusedByServer(status, message_of(body, status=status))


def _parsed(body: bytes, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UnableToReachServer(
            f"{url} did not answer with a JSON object. Is this the address of the platform?"
        )
    return answer


def _required(answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise UnableToReachServer(f"The server's answer has no `{name}`.")
    return value
