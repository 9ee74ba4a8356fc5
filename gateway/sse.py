"""Server-sent events: bytes in, messages out, and back.

Follows the WHATWG rules (html.spec.whatwg.org, "Parsing an event stream"): lines end in LF, CRLF
or CR, also when the two bytes of CRLF arrive apart; a blank line ends a message; lines beginning
with ":" are comments; several `data:` lines join with LF. A message without its blank line is never
delivered: the stream was cut inside it. Stricter than those rules in one point: bytes that are no
UTF-8 are an error, not U+FFFD, because what they stood for is lost. Pure; bounded by
`message_bytes_max`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MESSAGE_BYTES_MAX = 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PING = b": ping\n\n"  # a comment: keeps a silent stream open and is no message


class MessageTooLong(Exception):
    """One message grew past its limit without ending."""


class UnreadableMessage(Exception):
    """A message that is no UTF-8, or whose data cannot be the JSON object it should be."""


class Message(NamedTuple):
    """One message; `event` is "" when the stream named none."""

    data: str
    event: str = ""


class Decoder:
    """Reads one stream. Feed it bytes in any pieces; it keeps what is not yet complete."""

    def __init__(self, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._limit = message_bytes_max
        self._rest = b""
        self._is_start = True
        self._skip_line_feed = False
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._is_between = False

    def feed(self, piece: bytes) -> list[Message]:
        """Messages completed by `piece`. Raises MessageTooLong, UnreadableMessage."""
        if self._is_between and piece.endswith(b"\n\n") and b"\r" not in piece:  # nearly always
            return [
                message
                for block in piece[:-2].split(b"\n\n")
                if (message := self._read_block(block)) is not None
            ]
        messages = self._read_piece(piece)
        self._is_between = not (
            self._is_start or self._rest or self._data or self._event or self._skip_line_feed
        )
        return messages

    def _read_block(self, block: bytes) -> Message | None:
        """A message without its blank line. Those in the usual forms cost half as much."""
        if len(block) <= self._limit:
            if block.startswith(b"data: "):
                if b"\n" not in block:
                    return Message(_text_of(block[6:]))
            elif block.startswith(b"event: "):
                event, has_data, data = block[7:].partition(b"\ndata: ")
                if has_data and b"\n" not in event and b"\n" not in data:
                    return Message(_text_of(data), _text_of(event))
        for line in block.split(b"\n"):
            # A block ends in an empty line when more than one followed it: nothing is behind.
            if (message := self._read_line(line)) is not None:
                return message
        return self._finish_message()

    def _read_piece(self, piece: bytes) -> list[Message]:
        if self._skip_line_feed and piece:
            piece = piece.removeprefix(b"\n")
            self._skip_line_feed = False
        buffer = self._rest + piece
        if self._is_start:
            if len(buffer) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(buffer):
                self._rest = buffer
                return []
            buffer = buffer.removeprefix(BYTE_ORDER_MARK)
            self._is_start = False
        if buffer.endswith(b"\r"):
            # Complete as it is; should a LF follow in the next piece, it belongs to this end.
            self._skip_line_feed = True
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = buffer.split(b"\n")
        messages = []
        for line in lines:
            message = self._read_line(line)
            if message is not None:
                messages.append(message)
        if self._rest:  # the blank line that ends a message adds nothing to it, here or later
            self._check_size(self._rest)
        return messages

    def _check_size(self, line: bytes) -> None:
        """Bounds the raw lines of a message, whole or not, so cuts do not move the limit."""
        if self._size + len(line) > self._limit:
            raise MessageTooLong

    def _read_line(self, line: bytes) -> Message | None:
        if not line:
            return self._finish_message()
        self._check_size(line)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(line) + 1
            self._data.append(_text_of(value))
        elif name == b"event":
            self._event = _text_of(value)
        return None

    def _finish_message(self) -> Message | None:
        message = Message("\n".join(self._data), self._event) if self._data else None
        self._data, self._size, self._event = [], 0, ""
        return message


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UnreadableMessage("A message is no UTF-8.") from error


# --- forwarding ------------------------------------------------------------------------------

DATA_LINE = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)


@dataclass(slots=True)
class Splitter:
    """Cuts a stream that is forwarded into runs of whole messages; keeps the unfinished one.

    Lines end in LF afterwards, unless `keeps_line_ends`: then in LF or CRLF, as they came.
    """

    message_bytes_max: int = MESSAGE_BYTES_MAX
    keeps_line_ends: bool = False
    # In parts: joining them at every piece would copy a long message over and over.
    _parts: list[bytes] = field(default_factory=list, init=False)
    _size: int = field(default=0, init=False)

    def feed(self, piece: bytes) -> bytes:
        """The messages that are whole now, b"" if none is. Raises MessageTooLong."""
        if not self._parts and piece.endswith(b"\n\n") and b"\r" not in piece:
            return piece  # nearly always
        if b"\n" not in piece:  # which every boundary ends with
            return self._keep(piece)
        buffer = b"".join((*self._parts, piece)) if self._parts else piece
        self._parts, self._size = [], 0
        if not self.keeps_line_ends and b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        cut = self._end_of_last(buffer)
        if cut == len(buffer):
            return buffer
        self._keep(buffer[cut:])
        return buffer[:cut]

    def _end_of_last(self, buffer: bytes) -> int:
        """Where the last whole message ends; 0 if none does."""
        at = buffer.rfind(b"\n\n")
        end = at + 2 if at >= 0 else 0
        if self.keeps_line_ends and (at := buffer.rfind(b"\n\r\n")) >= 0:
            return max(end, at + 3)
        return end

    def _keep(self, rest: bytes) -> bytes:
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        if self._size > self.message_bytes_max:
            raise MessageTooLong
        return b""


def sift(whole: bytes, find: Callable[[bytes], int]) -> Iterator[tuple[bytes, bool]]:
    """Messages in order, in as few pieces as can be: (bytes, whether it must be read).

    `whole` is what a Splitter gave, its lines ended by LF. `find` says where the first bytes are
    that make their message worth reading, -1 for nowhere: such a message comes by itself, those
    around it in runs.
    """
    while whole:
        at = find(whole)
        if at < 0:
            yield whole, False
            return
        boundary = whole.rfind(b"\n\n", 0, at)
        begin = boundary + 2 if boundary >= 0 else 0
        if begin:
            yield whole[:begin], False
        end = whole.find(b"\n\n", at) + 2
        yield whole[begin:end], True
        whole = whole[end:]


def data_of(message: bytes) -> bytes:
    """The joined `data:` lines of one message; nearly always there is one and nothing else."""
    if message.startswith(b"data:") and message.count(b"\n") == 2:
        return message[5:].strip()
    return b"\n".join(DATA_LINE.findall(message.removeprefix(BYTE_ORDER_MARK))).strip()


def count_messages(whole: bytes) -> int:
    """How many messages carry data; comments do not, and a line feed cannot occur inside JSON."""
    return whole.count(b"\ndata:") + whole.startswith(b"data:")


def check_objects(whole: bytes) -> None:
    """Raises UnreadableMessage unless every message can be a JSON object or `[DONE]`.

    `whole` is one message or several, their lines ended by LF and each by its blank line. Looks at
    the ends of the data only, for streams that are forwarded without being read: half a message, a
    proxy's error page and bytes that are no text are found, a slip between two braces is not.
    Messages in either of the usual forms (`data:` alone, or after `event:`) are counted by
    substring searches, which cost a tenth of what looking at each does.
    """
    if not whole.isascii():
        _text_of(whole)
    if whole.endswith(b"}\n\n"):
        boundaries = whole.count(b"\n\n") - 1
        if whole.startswith(b"data: {"):
            if not boundaries or whole.count(b"}\n\ndata: {") == boundaries:
                return
        elif (
            whole.startswith(b"event: ")
            and whole.count(b"}\n\nevent: ") == boundaries
            and whole.count(b"\ndata: {") == boundaries + 1
        ):
            return
    for block in whole.removeprefix(BYTE_ORDER_MARK).split(b"\n\n"):
        data = b"".join(DATA_LINE.findall(block)).strip()
        is_object = data.startswith(b"{") and data.endswith(b"}")
        if data and not is_object and data != b"[DONE]":
            raise UnreadableMessage("A message is no JSON object.")


# --- writing ---------------------------------------------------------------------------------


def encode(data: bytes, *, event: str = "") -> bytes:
    """One message with its blank line, in one piece: some clients lose one split over two reads.

    `data` may hold LF, which take a `data:` line each; CR cannot be carried and must not occur.
    """
    head = b"event: " + event.encode() + b"\n" if event else b""
    return head + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
