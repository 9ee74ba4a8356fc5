"""Server-sent events: bytes in, messages out, and back.

Follows the WHATWG rules (html.spec.whatwg.org, "Parsing an event stream"): lines end in LF, CRLF
or CR, also when the two bytes of CRLF arrive apart; a blank line ends a message; lines beginning
with ":" are comments; several `data:` lines join with LF. Pure; bounded by `message_bytes_max`.
"""

from dataclasses import dataclass

MESSAGE_BYTES_MAX = 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class MessageTooLong(Exception):
    """One message grew past its limit without ending."""


@dataclass(frozen=True, slots=True)
class Message:
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
        self._data_size = 0
        self._event = ""

    def feed(self, piece: bytes) -> list[Message]:
        """Messages completed by `piece`. Raises MessageTooLong."""
        if self._skip_line_feed and piece:
            piece = piece.removeprefix(b"\n")
            self._skip_line_feed = False
        buffer = self._rest + piece
        if self._is_start and len(buffer) >= len(BYTE_ORDER_MARK):
            buffer = buffer.removeprefix(BYTE_ORDER_MARK)
            self._is_start = False
        if buffer.endswith(b"\r"):
            # Complete as it is; should a LF follow in the next piece, it belongs to this end.
            self._skip_line_feed = True
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = buffer.split(b"\n")
        if len(self._rest) + self._data_size > self._limit:
            raise MessageTooLong
        messages = []
        for line in lines:
            message = self._read_line(line)
            if message is not None:
                messages.append(message)
        return messages

    def close(self) -> list[Message]:
        """What an unfinished last message held: the standard drops it, so this is empty.

        Providers end streams with a blank line; a missing one means the stream was cut.
        """
        self._rest = b""
        self._data = []
        return []

    def _read_line(self, line: bytes) -> Message | None:
        if not line:
            return self._finish_message()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_size += len(value) + 1
            if self._data_size > self._limit:
                raise MessageTooLong
            self._data.append(value.decode("utf-8", errors="replace"))
        elif name == b"event":
            self._event = value.decode("utf-8", errors="replace")
        return None

    def _finish_message(self) -> Message | None:
        message = Message("\n".join(self._data), self._event) if self._data else None
        self._data, self._data_size, self._event = [], 0, ""
        return message


def encode(data: bytes, *, event: str = "") -> bytes:
    """One message with its blank line, in one piece: some clients lose one split over two reads."""
    head = b"event: " + event.encode() + b"\n" if event else b""
    return head + b"data: " + data + b"\n\n"
