"""Event streams by the rules of the WHATWG standard, however their bytes arrive."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import sse
from gateway.sse import Message, MessageTooLong, UnreadableMessage

CASES = [
    pytest.param(b"data: a\n\n", [Message("a")], id="one message"),
    pytest.param(b"data: a\r\n\r\n", [Message("a")], id="CRLF"),
    pytest.param(b"data: a\r\r", [Message("a")], id="CR"),
    pytest.param(b"data: a\n\rdata: b\r\n\n", [Message("a"), Message("b")], id="mixed line ends"),
    pytest.param(b"data: a\r\n\ndata: b\r\r\n", [Message("a"), Message("b")], id="more mixes"),
    pytest.param(b"data: a\n", [], id="no blank line, no message"),
    pytest.param(b"data: a", [], id="no line end"),
    pytest.param(b"", [], id="nothing"),
    pytest.param(b"\n\n\r\n\r\r\n", [], id="blank lines alone"),
    pytest.param(b"data: a\ndata: b\ndata:c\n\n", [Message("a\nb\nc")], id="lines of data join"),
    pytest.param(b"data\n\n", [Message("")], id="a field without a colon is empty"),
    pytest.param(b"data\ndata\n\n", [Message("\n")], id="two empty lines of data"),
    pytest.param(b"data:\n\n", [Message("")], id="empty data"),
    pytest.param(b"data:a\n\n", [Message("a")], id="no space"),
    pytest.param(b"data:  a\n\n", [Message(" a")], id="only one space goes"),
    pytest.param(b"data: a:b: c\n\n", [Message("a:b: c")], id="further colons are data"),
    pytest.param(b" data: a\n\n", [], id="a space makes it another field"),
    pytest.param(b"Data: a\n\n", [], id="fields are case-sensitive"),
    pytest.param(b": comment\n\n", [], id="a comment alone"),
    pytest.param(b":\n:data: x\ndata: a\n: y\n\n", [Message("a")], id="comments inside"),
    pytest.param(b"event: e\ndata: a\n\n", [Message("a", "e")], id="event name"),
    pytest.param(b"data: a\nevent:e\n\n", [Message("a", "e")], id="event name after the data"),
    pytest.param(b"event: e\nevent: f\ndata: a\n\n", [Message("a", "f")], id="the last name wins"),
    pytest.param(b"event: e\n\ndata: a\n\n", [Message("a")], id="a name without data is dropped"),
    pytest.param(
        b"event: e\ndata: a\n\ndata: b\n\n",
        [Message("a", "e"), Message("b")],
        id="names do not last",
    ),
    pytest.param(b"id: 1\nretry: 5\ndata: a\nid: 2\n\n", [Message("a")], id="other fields"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [Message("a")], id="byte order mark"),
    pytest.param(b"\xef\xbb\xbf\n\ndata: a\n\n", [Message("a")], id="byte order mark, blank line"),
    pytest.param(
        b"\n\xef\xbb\xbfdata: a\n\ndata: b\n\n", [Message("b")], id="no mark after the beginning"
    ),
    pytest.param(b"\xef\xbbdata: a\n\n", [], id="half a byte order mark"),
    pytest.param("data: é🙂\u2028x\n\n".encode(), [Message("é🙂\u2028x")], id="text beyond ASCII"),
    pytest.param(b"data: \x00\x0b\x0c\n\n", [Message("\x00\x0b\x0c")], id="control bytes"),
    pytest.param(
        b":\xff\n\xfe: a\ndata: a\n\n", [Message("a")], id="what is skipped may be no text"
    ),
]


def read(pieces: Iterable[bytes]) -> list[Message]:
    decoder = sse.Decoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


@pytest.mark.parametrize(("stream", "messages"), CASES)
def test_a_stream_reads_as_the_standard_says(stream: bytes, messages: list[Message]) -> None:
    assert read([stream]) == messages


@pytest.mark.parametrize(("stream", "messages"), CASES)
def test_a_stream_reads_the_same_cut_anywhere(stream: bytes, messages: list[Message]) -> None:
    assert read(stream[at : at + 1] for at in range(len(stream))) == messages
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            pieces = (stream[:first], b"", stream[first:second], stream[second:])
            assert read(pieces) == messages, (first, second)


@pytest.mark.parametrize("line", [b"data: a\xff\xc3", b"data: \x85", b"event: \xe2\x82"])
def test_what_is_no_text_is_an_error_however_it_arrives(line: bytes) -> None:
    stream = b"data: a\n\n" + line + b"\n\n"
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        with pytest.raises(UnreadableMessage):
            read(pieces)


def outcome(pieces: Iterable[bytes]) -> list[Message] | str:
    try:
        return read(pieces)
    except UnreadableMessage:
        return "unreadable"


LINES = st.sampled_from(
    [b"data: x", b"data", b"data:", b":c", b"event: e", b"id: 1", b"", b"\xef\xbb\xbf", b"\xe2\x82"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(
    lines=st.lists(st.tuples(LINES | st.binary(max_size=6), ENDS), max_size=12),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
def test_no_cut_changes_what_any_bytes_say(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(line + end for line, end in lines)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[edges[at] : edges[at + 1]] for at in range(len(edges) - 1)]
    assert outcome(pieces) == outcome([stream])


WRITABLE = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]))


@given(data=WRITABLE, event=st.sampled_from(["", "error", "response.created"]))
def test_what_is_written_reads_back(data: str, event: str) -> None:
    assert read([sse.encode(data.encode(), event=event)]) == [Message(data, event)]


def test_a_message_is_written_in_the_plainest_form() -> None:
    assert sse.encode(b"[DONE]") == b"data: [DONE]\n\n"
    assert sse.encode(b"{}", event="error") == b"event: error\ndata: {}\n\n"


# --- the limit -------------------------------------------------------------------------------


def fits(stream: bytes, limit: int, *, step: int) -> bool:
    decoder = sse.Decoder(message_bytes_max=limit)
    try:
        for at in range(0, len(stream), step):
            decoder.feed(stream[at : at + step])
    except MessageTooLong:
        return False
    return True


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"data: " + b"x" * 50, id="a line without an end"),
        pytest.param(b"data: " + b"x" * 50 + b"\n\n", id="a whole message"),
        pytest.param(b"data: 1234567890\n" * 6 + b"\n", id="many lines"),
        pytest.param(b":" + b"c" * 50 + b"\n", id="a comment"),
        pytest.param(b"event: " + b"e" * 50 + b"\n", id="an event name"),
        pytest.param(b"data: a\n\n" * 9 + b"data: " + b"x" * 50, id="after short messages"),
    ],
)
def test_a_message_that_grows_past_the_limit_is_refused_however_it_arrives(
    stream: bytes, step: int
) -> None:
    assert not fits(stream, 40, step=step)
    assert fits(stream, 200, step=step)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_the_limit_is_per_message_and_not_per_stream_or_piece(step: int) -> None:
    assert fits((b"data: " + b"x" * 30 + b"\r\n\r\n") * 20, 40, step=step)
    assert fits(b": keep-alive\n" * 100, 40, step=step)


@given(
    sizes=st.lists(st.integers(0, 30), max_size=6),
    limit=st.integers(10, 60),
    step=st.integers(1, 50),
)
@example(sizes=[12, 9], limit=34, step=1)
def test_no_cut_moves_the_limit(sizes: list[int], limit: int, step: int) -> None:
    stream = b"".join(b"data: " + b"x" * size + b"\n\n" * (size % 2) + b"\n" for size in sizes)
    assert fits(stream, limit, step=step) == fits(stream, limit, step=len(stream) + 1)


def test_the_default_limit_holds_a_large_message_and_ends() -> None:
    large = b"data: " + b"x" * (sse.MESSAGE_BYTES_MAX - 6) + b"\n\n"
    assert len(read([large])[0].data) == sse.MESSAGE_BYTES_MAX - 6
    with pytest.raises(MessageTooLong):
        read([large[:-2] + b"x"])


# --- what is forwarded unread ----------------------------------------------------------------

GOOD = [
    pytest.param(b'data: {"a":1}\n\n', id="data alone"),
    pytest.param(b'event: e\ndata: {"a":1}\n\n', id="after an event's name"),
    pytest.param(b'data: {"a":1}   \n\n', id="spaces after it"),
    pytest.param(b'data:{"a":1}\n\n', id="no space before it"),
    pytest.param(b'data: {"a":\ndata: 1}\n\n', id="two lines of data"),
    pytest.param(b'\xef\xbb\xbfdata: {"a":1}\n\n', id="byte order mark"),
    pytest.param(b'id: 1\ndata: {"a":1}\n\n', id="other fields"),
    pytest.param('data: {"a":"\u00e9\U0001f642"}\n\n'.encode(), id="text beyond ASCII"),
    pytest.param(b": comment\n\n", id="a comment"),
    pytest.param(b"data: [DONE]\n\n", id="the end"),
    pytest.param(b"\n\n", id="blank lines"),
]
BAD = [
    pytest.param(b'data: {"a":1\n\n', id="no end"),
    pytest.param(b'data: "a":1}\n\n', id="no beginning"),
    pytest.param(b"event: e\ndata: {\n\n", id="a brace alone"),
    pytest.param(b"data: <html>502</html>\n\n", id="an error page"),
    pytest.param(b"data: null\n\n", id="no object"),
    pytest.param(b'data: {"a":"\xff"}\n\n', id="no text"),
    pytest.param(b'event: e\ndata: {"a":"\xc3"}\n\n', id="half a character"),
    pytest.param(b": \xff\n\n", id="a comment that is no text"),
]


@pytest.mark.parametrize("message", GOOD)
def test_a_message_that_can_be_an_object_passes_alone_and_among_others(message: bytes) -> None:
    for other in (b'data: {"b":2}\n\n', b'event: e\ndata: {"b":2}\n\n'):
        sse.check_objects(message)
        sse.check_objects(message + other)
        sse.check_objects(other + message + other)
        sse.check_objects(other * 3 + message)


@pytest.mark.parametrize("message", BAD)
def test_garbage_is_found_alone_and_among_others(message: bytes) -> None:
    for other in (b'data: {"b":2}\n\n', b'event: e\ndata: {"b":2}\n\n'):
        for whole in (message, message + other, other + message + other, other * 3 + message):
            with pytest.raises(UnreadableMessage):
                sse.check_objects(whole)


# --- forwarding -------------------------------------------------------------------------------

STREAM = b'data: {"a": 1}\n\n: note\n\nevent: x\ndata: {"b": 2}\n\ndata: {"c": 3}\n\n'


@pytest.mark.parametrize("keeps_line_ends", [False, True])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_stream_cut_anywhere_splits_into_the_same_messages(
    line_end: bytes, keeps_line_ends: bool
) -> None:
    stream = STREAM.replace(b"\n", line_end)
    expected = stream if keeps_line_ends else STREAM
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            splitter = sse.Splitter(keeps_line_ends=keeps_line_ends)
            pieces = (stream[:first], stream[first:second], stream[second:])
            runs = [splitter.feed(piece) for piece in pieces]
            assert b"".join(runs) == expected
            assert all(not run or run.endswith((b"\n\n", b"\n\r\n")) for run in runs)
            assert splitter == sse.Splitter(keeps_line_ends=keeps_line_ends)


def test_byte_by_byte_each_message_comes_as_soon_as_it_is_whole() -> None:
    splitter = sse.Splitter()
    runs = [splitter.feed(bytes([byte])) for byte in STREAM]
    assert [run for run in runs if run] == [part + b"\n\n" for part in STREAM.split(b"\n\n")[:-1]]


def test_what_is_no_whole_message_is_never_forwarded() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == b"data: 1\n\n"
    assert splitter.feed(b"data: 3") == b""
    assert splitter.feed(b"\n") == b""
    assert splitter.feed(b"\n") == b"data: 2\ndata: 3\n\n"


@pytest.mark.parametrize("piece_bytes", [1, 7, 101])
def test_a_forwarded_message_has_a_limit(piece_bytes: int) -> None:
    splitter = sse.Splitter(message_bytes_max=100)
    whole = b"data: " + b"x" * 92 + b"\n\n"
    for start in range(0, len(whole), piece_bytes):
        splitter.feed(whole[start : start + piece_bytes])
    for _ in range(100):
        splitter.feed(b"x")
    with pytest.raises(sse.MessageTooLong):
        splitter.feed(b"x")


def test_sifting_takes_out_what_must_be_read_and_leaves_the_rest_together() -> None:
    calm, loud = b"data: calm\n\n", b"data: loud\n\n"

    def find(messages: bytes) -> int:
        return messages.find(b"loud")

    for wanted in (
        [(calm * 3, False)],
        [(loud, True)],
        [(loud, True), (calm, False)],
        [(calm * 2, False), (loud, True), (loud, True), (calm, False), (loud, True)],
    ):
        assert list(sse.sift(b"".join(part for part, _ in wanted), find)) == wanted
    assert list(sse.sift(b"", find)) == []
