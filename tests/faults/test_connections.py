"""Clients that only hold connections, ask byte by byte, ask twice at once, or leave at the end."""

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.platform import Platform, wait_for
from tests.faults.test_slow_client import memory_bytes, request

pytestmark = pytest.mark.faults

IDLE = 10_000
# What an idle connection may take of the server's memory.
IDLE_BYTES_MAX = 16 * 1024
# Files of the server, and of this process, besides.
FILES = IDLE + 1_000
TOKENS = 40


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process, and those it starts, may open so many files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < FILES:
        pytest.skip(f"No more than {before[1]} files may be open here.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(FILES, before[0]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def idle(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    made = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
    yield made
    for each in made:
        each.close()


def answer_to(port: int, asked: bytes) -> bytes:
    """Everything the server says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(asked)
        return b"".join(iter(lambda: client.recv(65536), b""))


def last(asked: bytes) -> bytes:
    """The request as the last one of its connection."""
    return asked.replace(b"\r\ncontent-length", b"\r\nconnection: close\r\ncontent-length", 1)


def test_ten_thousand_who_say_nothing_take_little_and_are_let_go(many_files, platform, upstream):
    process, port = platform.start_web(HEAD_SECONDS="20")
    answer_to(port, last(request(platform.key, "warm", TOKENS)))
    before = memory_bytes(process.pid)
    with idle(port, IDLE) as silent:
        answer = answer_to(port, last(request(platform.key, "among-them", TOKENS)))
        grown = memory_bytes(process.pid) - before
        assert b"data: [DONE]" in answer
        for each in silent:
            assert each.recv(1) == b""
    assert grown < IDLE * IDLE_BYTES_MAX
    books = platform.settle()
    assert [record["output"] for record in books.records] == [TOKENS, TOKENS]
    assert (books.differences, books.held) == ([], 0)


def test_a_head_that_comes_byte_by_byte_or_without_end_is_refused(platform):
    _, port = platform.start_web(HEAD_SECONDS="1")
    slow = answer_to(port, b"POST /api/ai/v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx: ")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert slow.endswith(b"The request's head took more than 1 seconds.")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 70_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")
    # A next request on the same connection has its own time.
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        heard = b""
        while not heard.endswith(b"0\r\n\r\n"):
            heard += client.recv(65536)
        assert heard.startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /health HT")
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_half_a_head_behind_a_long_stream_does_not_disturb_it(platform, upstream):
    _, port = platform.start_web(HEAD_SECONDS="1")
    streaming = request(platform.key, "long", 100, pause_ms=30)
    answer = answer_to(port, streaming + b"GET /health HT")
    stream, _, refusal = answer.partition(b"data: [DONE]")
    assert stream.count(b'"content":') == 100
    assert b"HTTP/1.1 408 " not in stream
    assert b"HTTP/1.1 408 " in refusal
    books = platform.settle()
    assert [record["output"] for record in books.records] == [100]


def test_two_requests_in_one_breath_are_two_calls_answered_in_turn(platform, upstream):
    _, port = platform.start_web()
    first = request(platform.key, "first", 3)
    answer = answer_to(port, first + last(request(platform.key, "second", 5)))
    assert [part.count(b'"content":') for part in answer.split(b"[DONE]")[:2]] == [3, 5]
    books = platform.settle()
    assert sorted(record["output"] for record in books.records) == [3, 5]
    assert (books.differences, books.held) == ([], 0)


def test_a_client_that_leaves_at_the_last_frame_pays_for_what_was_made(platform, upstream):
    _, port = platform.start_web()
    for number in range(10):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(request(platform.key, f"leaving-{number}", TOKENS))
            heard = b""
            while (
                b'"finish_reason": "stop"' not in heard and b'"finish_reason":"stop"' not in heard
            ):
                heard += client.recv(65536)
            # Gone at once, by a reset, whether the end is under way or not.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: len(recorded(platform)) == 10, what="ten records")
    books = platform.settle()
    assert {record["output"] for record in books.records} == {TOKENS}
    assert {record["status"] for record in books.records} <= {"FINISHED", "CLIENT_GONE"}
    assert (books.differences, books.held, len(books.by_request)) == ([], 0, 10)


def recorded(platform: Platform) -> list[str]:
    """What is booked by now."""
    code = """
import json
from billing.models import UsageRecord
print(json.dumps(list(UsageRecord.objects.values_list("request_id", flat=True))))
"""
    return json.loads(platform.python(code))
