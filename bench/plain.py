"""What forwarding costs with the libraries alone: an ASGI app that copies an answer with aiohttp.

    python -m bench.plain PORT

Prints its own port, then forwards every request to PORT on loopback until killed: the same server,
event loop and client library as the gateway's, and nothing of the gateway. Measured beside it, it
says what part of a figure is ours.
"""

import socket
import sys
from typing import Any

import aiohttp
import uvicorn


class Copy:
    """An ASGI app that asks the provider what it is asked, and copies the answer piece by piece."""

    def __init__(self, port: int) -> None:
        self._base_url = f"http://127.0.0.1:{port}"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        headers = {"content-type": "application/json"}
        url = self._base_url + scope["path"]
        async with self._session.post(url, data=body, headers=headers) as response:
            names = ("content-type", "content-length")
            kept = [
                (n.encode(), response.headers[n].encode()) for n in names if n in response.headers
            ]
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            while piece := await response.content.readany():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


class Server(uvicorn.Server):
    """uvicorn, which prints the port it was given."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    Server(
        uvicorn.Config(
            Copy(int(sys.argv[1])), port=0, lifespan="off", access_log=False, log_level="warning"
        )
    ).run()
