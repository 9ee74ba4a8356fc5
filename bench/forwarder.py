"""What forwarding costs at least: bytes from one connection to another, nothing read of them.

    python -m bench.forwarder PORT

Prints its own port, then forwards every connection to PORT on loopback until killed. Measured
beside the gateway, it says how much of a figure is the machine's sockets.
"""

import asyncio
import sys

import uvloop


class Client(asyncio.Protocol):
    """A client's connection, which opens one to the provider."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._early: list[bytes] = []
        self._provider: asyncio.WriteTransport | None = None
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the provider."""
        self.transport = transport
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        made, _ = await loop.create_connection(lambda: Provider(self), "127.0.0.1", self._port)
        self._provider = made
        for data in self._early:
            made.write(data)

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if self._provider is None:
            self._early.append(data)
        else:
            self._provider.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: let the provider go."""
        if self._provider is not None:
            self._provider.close()


class Provider(asyncio.Protocol):
    """The provider's side of it."""

    def __init__(self, client: Client) -> None:
        self._write = client.transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """More of an answer."""
        self._write(data)


async def main(port: int) -> None:
    """Forward until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
