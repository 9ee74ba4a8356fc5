"""HTTP request -> Lambda event, and Lambda result -> status, headers and body.

Pure. The event carries both versions of API Gateway's event, because functions in the wild read
either. Formats: "Working with AWS Lambda proxy integrations for HTTP APIs" (payload 2.0, and the
rules by which a result without `statusCode` becomes a 200). Whose cookies pass is not decided here.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from deployments.runtime.driver import MEBIBYTE, RESPONSE_BYTES_MAX, STREAMED_BYTES_MAX, Head

INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = b"\0" * 8
PRELUDE_BYTES_MAX = 64 * 1024
PRELUDE_INCOMPLETE = (
    "The stream's head is not valid: the metadata before the stream is incomplete or over 64 KB."
)
RESPONSE_TOO_LARGE = (
    f"The response is larger than {RESPONSE_BYTES_MAX // MEBIBYTE} MB: stream it, "
    "or hand out a link."
)
STREAM_TOO_LARGE = f"The streamed response is larger than {STREAMED_BYTES_MAX // MEBIBYTE} MB."
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
FORWARDED = frozenset(
    {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded"}
)


class UnableToAnswer(Exception):
    """The function's result is not a valid response."""


@dataclass(frozen=True)
class Request:
    """The parts of an HTTP request a function gets to see."""

    method: str
    raw_path: str  # percent-encoded
    query: str
    headers: Sequence[tuple[str, str]]  # lower-case names, in the order received
    body: bytes
    scheme: str
    host: str
    client: str
    protocol: str  # "HTTP/1.1"


def _headers(request: Request) -> tuple[dict[str, str], list[str]]:
    """End-to-end headers joined by name, and the cookies."""
    named = {
        name.strip().lower()
        for header, value in request.headers
        if header == "connection"
        for name in value.split(",")
    }
    dropped = HOP_BY_HOP | FORWARDED | named | {"cookie"}
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += [each.strip() for each in value.split(";") if each.strip()]
        elif name not in dropped:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    headers["x-forwarded-for"] = request.client
    headers["x-forwarded-proto"] = request.scheme
    headers["x-forwarded-host"] = request.host
    return headers, cookies


def _values_of(request: Request, headers: dict[str, str]) -> dict[str, list[str]]:
    """`headers`, each with all its values as they were received, as version 1.0 has them."""
    values: dict[str, list[str]] = {}
    for name, value in request.headers:
        if name in headers and name not in FORWARDED and name != "cookie":
            values.setdefault(name, []).append(value)
    return {name: values.get(name, [value]) for name, value in headers.items()}


def _body(body: bytes) -> tuple[str | None, bool]:
    """The body as text, or base64 (True) when it is not UTF-8; None when there is none."""
    if not body:
        return None, False
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


def event_of(request: Request, *, request_id: str, at: datetime) -> bytes:
    """The JSON event of a request received at `at`."""
    headers, cookies = _headers(request)
    body, is_base64 = _body(request.body)
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        values.setdefault(name, []).append(value)
    received = at.strftime("%d/%b/%Y:%H:%M:%S +0000")
    user_agent = headers.get("user-agent", "")
    proxy = request.raw_path.lstrip("/")
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "httpMethod": request.method,
        "path": request.raw_path,
        "rawPath": request.raw_path,
        "rawQueryString": request.query,
        "headers": headers,
        "cookies": cookies,
        "multiValueHeaders": _values_of(request, headers),
        "queryStringParameters": {name: ",".join(each) for name, each in values.items()} or None,
        "multiValueQueryStringParameters": values or None,
        "resource": "/{proxy+}",
        "pathParameters": {"proxy": proxy} if proxy else None,
        "stageVariables": None,
        "body": body,
        "isBase64Encoded": is_base64,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "requestId": request_id,
            "stage": "$default",
            "time": received,
            "timeEpoch": int(at.timestamp() * 1000),
            "requestTime": received,
            "requestTimeEpoch": int(at.timestamp() * 1000),
            "domainName": request.host,
            "domainPrefix": request.host.partition(".")[0],
            "httpMethod": request.method,
            "path": request.raw_path,
            "resourcePath": "/{proxy+}",
            "protocol": request.protocol,
            "identity": {"sourceIp": request.client, "userAgent": user_agent},
            "http": {
                "method": request.method,
                "path": request.raw_path,
                "protocol": request.protocol,
                "sourceIp": request.client,
                "userAgent": user_agent,
            },
        },
    }
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


class Prelude:
    """The metadata before a stream: JSON, eight NULs, then the stream's data."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, piece: bytes) -> tuple[Head, bytes] | None:
        """The head and the data that came with it, once it is whole. Raises UnableToAnswer."""
        self._raw += piece
        metadata, found, rest = bytes(self._raw).partition(PRELUDE_END)
        if not found:
            if len(self._raw) > PRELUDE_BYTES_MAX:
                raise UnableToAnswer(PRELUDE_INCOMPLETE)
            return None
        try:
            return head_of(json.loads(metadata)), rest
        except ValueError:
            raise UnableToAnswer(
                "The stream's head is not valid: the metadata before the stream is not JSON."
            ) from None
        except UnableToAnswer as error:
            raise UnableToAnswer(f"The stream's head is not valid: {error}") from None


def response_of(result: bytes) -> tuple[Head, bytes]:
    """Head and body of what a handler returned, as JSON. Raises UnableToAnswer."""
    try:
        return _response_of(result)
    except UnableToAnswer as error:
        raise UnableToAnswer(f"The handler's answer is not valid: {error}") from None


def _response_of(result: bytes) -> tuple[Head, bytes]:
    try:
        value = json.loads(result)
    except ValueError:
        raise UnableToAnswer("The handler's result is not JSON.") from None
    if not isinstance(value, dict) or "statusCode" not in value:
        body = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return Head(200, (("content-type", "application/json"),)), body.encode("utf-8", "replace")
    return head_of(value), _response_body(value)


def _response_body(value: dict[str, Any]) -> bytes:
    body = value.get("body")
    if body is None:
        return b""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    if not value.get("isBase64Encoded"):
        return text.encode("utf-8", "replace")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnableToAnswer("isBase64Encoded is true, but body is not base64.") from None


def head_of(value: Any) -> Head:
    """Status and headers of a result, or of the prelude of a stream. Raises UnableToAnswer."""
    if not isinstance(value, dict):
        raise UnableToAnswer("The response's metadata is not an object.")
    try:
        status = int(value.get("statusCode", 200))
    except (TypeError, ValueError):
        status = 0
    if not 200 <= status <= 599:
        raise UnableToAnswer(
            f"statusCode must be a number from 200 to 599, not {value.get('statusCode')!r}."
        )
    merged = _pairs(value, "headers") | _pairs(value, "multiValueHeaders")
    headers = [
        (name, _text(each))
        for name, item in merged.items()
        for each in (item if isinstance(item, list) else [item])
        if each is not None
    ]
    cookies = value.get("cookies")
    if isinstance(cookies, list):
        headers += [("set-cookie", str(cookie)) for cookie in cookies]
    return Head(status, tuple(_end_to_end(headers)))


def _pairs(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The headers under `key`, names in lower case."""
    headers = value.get(key)
    if headers is None:
        return {}
    if not isinstance(headers, dict):
        raise UnableToAnswer(f"{key} must be an object.")
    return {str(name).lower(): item for name, item in headers.items()}


def _text(value: Any) -> str:
    """JavaScript's idea of a header value as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _end_to_end(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers a function may set: those of the connection are the server's."""
    return [
        (name, value)
        for name, value in headers
        if name not in HOP_BY_HOP and name != "content-length"
    ]
