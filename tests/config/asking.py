"""One request to the platform's ASGI application, without a server between."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from config.asgi import Platform

Message = dict[str, Any]


@dataclass
class Seen:
    """What a client got."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


async def request(
    platform: Platform,
    path: str = "/",
    *,
    method: str = "GET",
    host: str | None = "localhost",
    body: tuple[bytes, ...] = (b"",),
    **headers: str,
) -> Seen:
    """One request; `body` is sent in as many pieces as it has."""
    seen = Seen()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if host is not None:
        sent["host"] = host
    incoming: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(body) - 1}
        for number, piece in enumerate(body)
    ]

    async def receive() -> Message:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.status = message["status"]
            seen.headers = {k.lower(): v for k, v in message["headers"]}
        else:
            seen.body += message.get("body", b"")

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    await platform(scope, receive, send)
    return seen
