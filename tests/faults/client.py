"""A client that keeps its own count: what arrived of each call, and whether it saw the end."""

import asyncio
import json
import random
from dataclasses import dataclass, field

import aiohttp


@dataclass
class Seen:
    """What the client saw of one call."""

    name: str
    tokens: int
    request_id: str = ""
    status: int = 0
    delivered: int = 0
    saw_end: bool = False
    error: str = ""


@dataclass
class Clients:
    """Calls made to any of `ports`, and what became of them."""

    key: str
    ports: list[int]
    seen: list[Seen] = field(default_factory=list)

    async def call(
        self,
        name: str,
        *,
        tokens: int = 12,
        tokens_max: int = 64,
        pause_ms: int = 2,
        is_stream: bool = True,
        hang_up_after: int | None = None,
    ) -> Seen:
        """Make one call; never raises."""
        seen = Seen(name, tokens)
        self.seen.append(seen)
        body = {
            "model": "gpt-4o",
            "stream": is_stream,
            "max_completion_tokens": max(tokens, tokens_max),
            "messages": [{"role": "user", "content": json.dumps([name, tokens, pause_ms])}],
        }
        port = random.choice(self.ports)
        url = f"http://127.0.0.1:{port}/api/ai/v1/chat/completions"
        headers = {"authorization": f"Bearer {self.key}"}
        timeout = aiohttp.ClientTimeout(total=60, sock_connect=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, json=body, headers=headers) as response,
            ):
                seen.status = response.status
                seen.request_id = response.headers.get("x-request-id", "")
                if response.status != 200:
                    seen.error = await response.text()
                elif is_stream:
                    await self._read(response, seen, hang_up_after)
                else:
                    answer = await response.json()
                    seen.delivered = answer["usage"]["completion_tokens"]
                    seen.saw_end = True
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            seen.error = repr(error)
        return seen

    async def _read(
        self, response: aiohttp.ClientResponse, seen: Seen, hang_up_after: int | None
    ) -> None:
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                seen.saw_end = True
                return
            if not line.startswith(b"data: "):
                continue
            message = json.loads(line[6:])
            if "error" in message:
                seen.error = message["error"]["code"] or "error"
                return
            seen.delivered += sum(
                bool(choice["delta"].get("content")) for choice in message["choices"]
            )
            if hang_up_after is not None and seen.delivered >= hang_up_after:
                return


async def until(condition, seconds: float = 20) -> None:
    """Wait for what another process is about to do."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.02)
