"""A provider that answers at once: a bare HTTP/1.1 server on loopback, cheap enough not to count.

Prints its port, then serves until killed: chat completions, whole or as a stream of 100 chunks, and
Anthropic Messages as such a stream. Chunks follow each other at once, so that several arrive
together, or, for requests that hold ONE_BY_ONE, with a pause that a model would need to write them.
"""

import asyncio
import json

import uvloop

CHUNKS = 100
# The `user` of requests whose chunks are to arrive one by one.
ONE_BY_ONE = "one-by-one"
PAUSE_SECONDS = 0.005
USAGE = {"prompt_tokens": 20, "completion_tokens": CHUNKS, "total_tokens": CHUNKS + 20}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "word " * CHUNKS, "refusal": None}
    body = json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _chunk(choices: list[dict[str, object]], usage: object = None) -> bytes:
    body = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": choices,
        "usage": usage,
    }
    data = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


WHOLE = _whole()
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
WORD = _chunk([{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
STREAM_END = (
    _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _chunk([], USAGE)
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


def _framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _message(kind: str, **members: object) -> bytes:
    body = json.dumps({"type": kind, **members}, separators=(",", ":"))
    return _framed(f"event: {kind}\ndata: {body}\n\n".encode())


MESSAGES_START = _message(
    "message_start",
    message={
        "id": "msg_bench",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 20, "output_tokens": 1},
    },
) + _message("content_block_start", index=0, content_block={"type": "text", "text": ""})
MESSAGES_WORD = _message(
    "content_block_delta", index=0, delta={"type": "text_delta", "text": "word "}
)
MESSAGES_END = (
    _message("content_block_stop", index=0)
    + _message(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": CHUNKS},
    )
    + _message("message_stop")
    + b"0\r\n\r\n"
)


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests of one kept-alive connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if b'"stream":true' in body:
                is_messages = b"/messages " in head
                pause = PAUSE_SECONDS if ONE_BY_ONE.encode() in body else 0
                writer.write(STREAM_HEAD + (MESSAGES_START if is_messages else b""))
                for _ in range(CHUNKS):
                    writer.write(MESSAGES_WORD if is_messages else WORD)
                    await asyncio.sleep(pause)
                writer.write(MESSAGES_END if is_messages else STREAM_END)
            else:
                writer.write(WHOLE)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve_connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
