"""A TCP proxy in front of PostgreSQL that can lose the answer of every COMMIT.

Whoever commits through it then does not know whether it happened (it did): the connection is cut
after the server has answered and before the answer is passed on.
"""

import asyncio
import threading

COMMIT = b"COMMIT\0"
CHUNK = 65536


class PostgresProxy:
    """Listens on a free port of loopback, in a thread; `port` is known after `start`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.loses_answers = False
        self.lost = 0

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def close(self) -> None:
        """Cut every connection and end."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        commits = asyncio.Event()
        try:
            _, pending = await asyncio.wait(
                [
                    asyncio.ensure_future(self._ask(client, to_server, commits)),
                    asyncio.ensure_future(self._answer(server, to_client, commits)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
        finally:
            to_client.close()
            to_server.close()

    async def _ask(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, commits: asyncio.Event
    ) -> None:
        while data := await client.read(CHUNK):
            if self.loses_answers and COMMIT in data:
                commits.set()
            to_server.write(data)

    async def _answer(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, commits: asyncio.Event
    ) -> None:
        while data := await server.read(CHUNK):
            if commits.is_set():
                self.lost += 1
                return
            to_client.write(data)
