"""Clients that do not read their stream, close a half of it, or leave in the middle of asking."""

import json
import socket

import pytest

from tests.faults.platform import Platform, wait_for

pytestmark = pytest.mark.faults

# Some 80 MB: more than the buffers of two connections can take.
TOKENS = 400_000
# In the status line, the head, the first message, one of the next.
BYTES_READ = (1, 8, 40, 250, 500, 700, 1_000, 1_500, 4_000)
RECORDS = """
import json
from billing.models import UsageRecord
print(json.dumps(list(UsageRecord.objects.values_list("status", "output_tokens"))))
"""


@pytest.fixture
def platform(upstream):
    upstream.generated.clear()
    platform = Platform(upstream.port, {"CLIENT_STALL_SECONDS": "2", "STREAM_PING_SECONDS": "1"})
    platform.prepare()
    yield platform
    platform.close()


def request(key: str, name: str, tokens: int, *, pause_ms: int = 0) -> bytes:
    """The bytes of a request for a stream of so many tokens."""
    message = {"role": "user", "content": json.dumps([name, tokens, pause_ms])}
    body = json.dumps({"model": "gpt-4o", "stream": True, "messages": [message]}).encode()
    head = (
        "POST /api/ai/v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def memory_bytes(pid: int) -> int:
    """What the process has resident."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_client_that_does_not_read_is_cut_and_billed_and_fills_no_memory(platform, upstream):
    process, port = platform.start_web()
    before = memory_bytes(process.pid)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request(platform.key, "unread", TOKENS))
        wait_for(lambda: upstream.generated.get("unread", 0) > 0)
        wait_for(lambda: len(json.loads(platform.python(RECORDS))) == 1, what="the record")
        grown = memory_bytes(process.pid) - before
    [[status, billed]] = json.loads(platform.python(RECORDS))
    books = platform.settle()
    assert status == "CLIENT_GONE"
    # The provider was held back, too: it did not write what nobody read.
    assert 0 < billed <= upstream.generated["unread"] < TOKENS
    assert grown < 32 * 1024 * 1024
    assert (books.differences, books.held, books.owed) == ([], 0, 0)


def test_a_client_that_closes_its_half_in_the_middle_is_gone_and_billed(platform, upstream):
    _, port = platform.start_web()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(60)
        client.sendall(request(platform.key, "half", 5_000, pause_ms=5))
        while client.recv(65536).count(b"content") == 0:
            pass
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    books = platform.settle()
    [record] = books.records
    assert record["status"] == "CLIENT_GONE"
    assert 0 < record["output"] <= upstream.generated["half"] < 5_000
    assert (books.differences, books.held) == ([], 0)


def test_a_client_that_leaves_after_any_number_of_bytes_is_billed_once(platform, upstream):
    _, port = platform.start_web()
    for number, count in enumerate(BYTES_READ):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(request(platform.key, f"leaving-{number}", 5_000, pause_ms=5))
            left = count
            while left:
                left -= len(client.recv(left))
            # Gone at once, by a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: len(json.loads(platform.python(RECORDS))) == len(BYTES_READ), what="records")
    books = platform.settle()
    assert {record["status"] for record in books.records} == {"CLIENT_GONE"}
    billed = sorted(record["output"] for record in books.records)
    made = sorted(upstream.generated.values())
    assert all(ours <= theirs < 5_000 for ours, theirs in zip(billed, made, strict=True))
    assert sum(billed) > 0
    assert (books.differences, books.held, len(books.by_request)) == ([], 0, len(BYTES_READ))


def test_a_client_that_leaves_before_the_end_of_its_request_has_asked_nothing(platform, upstream):
    _, port = platform.start_web()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request(platform.key, "unasked", 50)[:-10])
    books = platform.settle()
    assert books.records == []
    assert upstream.generated == {}
    assert (books.differences, books.held) == ([], 0)
