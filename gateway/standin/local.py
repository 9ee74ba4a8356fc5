"""The local model, asked over its OpenAI-compatible endpoint: a conversation in, events out.

Texts in, vectors out, too.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from gateway import sse
from gateway.dialects import UPSTREAM_DIALECTS
from gateway.dialects.base import TruncatedStream, UnreadableAnswer
from gateway.events import Event
from gateway.generation import GenerationRequest, Text, ToolCall, ToolResult, Turn

OUTPUT_TOKENS_MAX = 1_024
# About 4,500 tokens: the model's context is 8,192, shared by calls in parallel.
CONVERSATION_CHARACTERS_MAX = 18_000
# No reliance on a total: a slow machine may take minutes, and a client that left ends it.
TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=5, sock_read=120)
READ_BYTES = 65_536
EMBEDDINGS_MAX = 64  # texts per request


class UnableToAskModel(Exception):
    """The local model did not answer."""


class LocalModel:
    """A client of the local model. `url` ends in /v1 and has no trailing slash."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False)
        return self._session

    async def embed(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """The vector of each text and how many tokens they were. Raises UnableToAskModel."""
        vectors: list[list[float]] = []
        tokens = 0
        try:
            for start in range(0, len(texts), EMBEDDINGS_MAX):
                batch = {"input": texts[start : start + EMBEDDINGS_MAX]}
                async with self._open().post(f"{self._url}/embeddings", json=batch) as answer:
                    if answer.status != 200:
                        raise UnableToAskModel(f"The local model said {answer.status}.")
                    body = await answer.json()
                vectors.extend(row["embedding"] for row in body["data"])
                tokens += body["usage"]["prompt_tokens"]
        except (aiohttp.ClientError, TimeoutError, LookupError, TypeError, ValueError) as error:
            raise UnableToAskModel(f"The local model did not answer: {error!r}") from error
        return vectors, tokens

    async def ask(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """The answer's events, as they come. Raises UnableToAskModel."""
        decoder = UPSTREAM_DIALECTS["openai_chat"].stream_decoder()
        try:
            async with self._open().post(
                f"{self._url}/chat/completions", json=write_body(request)
            ) as answer:
                if answer.status != 200:
                    detail = (await answer.content.read(1_000)).decode(errors="replace")
                    raise UnableToAskModel(f"The local model said {answer.status}: {detail}")
                async for piece in answer.content.iter_chunked(READ_BYTES):
                    for event in decoder.feed(piece):
                        yield event
                for event in decoder.close():
                    yield event
        except (
            aiohttp.ClientError,
            TimeoutError,
            TruncatedStream,
            UnreadableAnswer,
            sse.MessageTooLong,
        ) as error:
            raise UnableToAskModel(f"The local model did not answer: {error!r}") from error


def write_body(request: GenerationRequest) -> dict[str, Any]:
    """What a small model can make something of: texts, their roles and how to sample."""
    parameters = request.parameters
    limit = min(parameters.output_tokens_max or OUTPUT_TOKENS_MAX, OUTPUT_TOKENS_MAX)
    body: dict[str, Any] = {
        "messages": _write_messages(request.turns),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": limit,
    }
    optional = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "seed": parameters.seed,
        "stop": list(parameters.stop) or None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _write_messages(turns: tuple[Turn, ...]) -> list[dict[str, str]]:
    """System texts first, then the latest turns that fit, oldest first."""
    messages = [(turn.role, text) for turn in turns if (text := _read_turn(turn))]
    left = CONVERSATION_CHARACTERS_MAX
    kept: list[dict[str, str]] = []
    for role, text in reversed(messages):
        if role == "system" or left <= 0:
            continue
        kept.append(
            {"role": "assistant" if role == "assistant" else "user", "content": text[:left]}
        )
        left -= len(text)
    system = "\n\n".join(text for role, text in messages if role == "system")
    if system:
        kept.append({"role": "system", "content": system[:CONVERSATION_CHARACTERS_MAX]})
    return kept[::-1] or [{"role": "user", "content": "Hello."}]


def _read_turn(turn: Turn) -> str:
    texts = []
    for part in turn.parts:
        match part:
            case Text(text=text):
                texts.append(text)
            case ToolCall(name=name, arguments=arguments):
                texts.append(f"I call {name} with {arguments}.")
            case ToolResult(parts=parts):
                answer = "\n".join(one.text for one in parts if isinstance(one, Text))
                texts.append(f"The tool answered: {answer or json.dumps(None)}")
            case _:
                pass
    return "\n".join(text for text in texts if text)
