"""What AWS Lambda sends back of one invocation, read into the driver's events and log lines.

Pure: owns the meaning of a response stream's payload, of its end and of the log that comes with it.
Must not know how it was fetched.

The API's page (https://docs.aws.amazon.com/lambda/latest/api/API_InvokeWithResponseStream.html)
leaves open what functions that fail look like. Public captures of it (nodejs22.x, September
2026) show: a handler that does not stream answers with its JSON under the content type
application/json; an error is such JSON, or nothing at all; a stream that fails or times out just
ends. InvokeComplete seldom has an ErrorCode: the log that `LogType: Tail` adds to it says more.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.runtime import events
from deployments.runtime.driver import (
    RESPONSE_BYTES_MAX,
    STREAMED_BYTES_MAX,
    Chunk,
    Failed,
    Failure,
    Head,
)

LOG_BYTES_MAX = 4096  # of the log's end, by the API's page
LOG_CUT = "Earlier output of this run is missing: AWS Lambda hands over the last 4 KB of it."

# The text format: https://docs.aws.amazon.com/lambda/latest/dg/nodejs-logging.html
CONSOLE_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z\t(?P<request>\S+)\t(?P<level>[A-Z]+)\t(?P<message>.*)"
)
REPORT_LINE = re.compile(r"REPORT RequestId: |INIT_REPORT ")
STATUS = re.compile(r"\tStatus: (?P<status>\w+)(?:\tError Type: (?P<type>\S+))?")
PLATFORM_LINE = re.compile(
    r"(?:START|END|REPORT) RequestId: |INIT_START |INIT_REPORT |XRAY TraceId: |EXTENSION\t"
    r"|RequestId: \S+ Error: |\d{4}-\S+Z \S+ Task timed out |Runtime\.\w+$"
)
TIMED_OUT = re.compile(r"Task timed out after [\d.]+ seconds")
# What the runtime prints of an error, besides the JSON it answers with.
REPORTED_ERRORS = ("Invoke Error ", "Uncaught Exception ", "Unhandled Promise Rejection ")
LEVELS_SHOWN = {"WARN": "WARN ", "ERROR": "ERROR ", "FATAL": "ERROR "}

INIT_ERRORS = frozenset(
    {
        "Runtime.ImportModuleError",
        "Runtime.HandlerNotFound",
        "Runtime.MalformedHandlerName",
        "Runtime.UserCodeSyntaxError",
        "Runtime.InitError",
    }
)
CRASHES = frozenset({"Runtime.ExitError", "Runtime.OutOfMemory"})


@dataclass
class Log:
    """The end of the function's log that came with an answer, taken apart."""

    lines: list[str] = field(default_factory=list)  # what the function printed
    error: Mapping[str, Any] | None = None  # as the runtime reported it
    status: str = ""  # of the run: "", "timeout" or "error"
    error_type: str = ""
    init_failed: bool = False
    cold: bool = False
    timed_out: str = ""  # the sentence with the limit


def read_log(text: str) -> Log:
    """The log of one run. Lines that carry no mark of the runtime belong to the one before."""
    log = Log()
    lines = text.splitlines()
    if len(text.encode()) >= LOG_BYTES_MAX:
        log.lines.append(LOG_CUT)
        lines = lines[1:]
    continues = False
    for line in lines:
        if PLATFORM_LINE.match(line):
            _read_platform_line(log, line)
            continues = False
        elif match := CONSOLE_LINE.fullmatch(line):
            continues = _read_console_line(log, match["level"], match["message"])
        elif continues:
            log.lines[-1] += f"\n{line}"
        elif line.strip():
            log.lines.append(line)
    return log


def _read_platform_line(log: Log, line: str) -> None:
    if match := TIMED_OUT.search(line):
        log.timed_out = match[0]
    if line.startswith("INIT_START ") or "\tInit Duration: " in line:
        log.cold = True
    if REPORT_LINE.match(line) and (status := STATUS.search(line)):
        if line.startswith("INIT_REPORT "):
            log.init_failed = True
        else:
            log.status = status["status"]
            log.error_type = status["type"] or ""


def _read_console_line(log: Log, level: str, message: str) -> bool:
    """Whether lines without a mark of their own go on with this one."""
    kind, tab, rest = message.partition("\t")
    if tab and kind in REPORTED_ERRORS:
        try:
            error = json.loads(rest)
        except ValueError:
            error = None  # printed by the function itself
        if isinstance(error, dict):
            log.error = error
            return False
    log.lines.append(LEVELS_SHOWN.get(level, "") + message)
    return True


class Answer:
    """One answer, from its content type over pieces of payload to its end."""

    def __init__(self, content_type: str) -> None:
        """`content_type` is the function's own: the header X-Amzn-Remapped-Content-Type."""
        self._content_type = content_type or "application/octet-stream"
        # A handler that does not stream answers with JSON; so does one that fails.
        self._is_whole = self._content_type.startswith("application/json")
        self._prelude = (
            events.Prelude() if self._content_type.startswith(events.INTEGRATION_RESPONSE) else None
        )
        self._has_head = False
        self._body = bytearray()
        self._received = 0
        self.log = Log()

    def feed(self, payload: bytes) -> Iterator[Head | Chunk]:
        """What a piece of payload lets go on. Raises events.UnableToAnswer, also when too large."""
        self._received += len(payload)
        if self._is_whole:
            if self._received > RESPONSE_BYTES_MAX:
                raise events.UnableToAnswer(events.RESPONSE_TOO_LARGE)
            self._body += payload
            return
        if self._received > STREAMED_BYTES_MAX:
            raise events.UnableToAnswer(events.STREAM_TOO_LARGE)
        if self._prelude is not None and not self._has_head:
            found = self._prelude.feed(payload)
            if found is None:
                return
            head, payload = found
            self._has_head = True
            yield head
        if payload:
            yield from self._raw_head()
            yield Chunk(payload)

    def _raw_head(self) -> Iterator[Head]:
        """The head of a stream without metadata, once."""
        if not self._has_head:
            self._has_head = True
            yield Head(200, (("content-type", self._content_type),))

    def complete(self, end: Mapping[str, Any]) -> Iterator[Head | Chunk | Failed]:
        """What is left to say at the end, Failed last if the function failed.

        `end` is InvokeComplete. Raises events.UnableToAnswer.
        """
        tail = base64.b64decode(end.get("LogResult") or "")
        self.log = read_log(tail.decode("utf-8", "replace"))
        failed = self._failure(end)
        if failed is not None:
            yield failed
        elif self._is_whole:
            head, body = events.response_of(bytes(self._body))
            yield Head(head.status, head.headers, len(body))
            if body:
                yield Chunk(body)
        elif self._prelude is not None and not self._has_head:
            raise events.UnableToAnswer(events.PRELUDE_INCOMPLETE)
        else:
            yield from self._raw_head()

    def _failure(self, end: Mapping[str, Any]) -> Failed | None:
        reported = self._reported_error(end)
        if reported is None and not self.log.status and not self.log.init_failed:
            return None
        error = reported or {}
        text = error_text(error)
        kind = self._kind(str(error.get("errorType", "")), text)
        if kind is Failure.TIMEOUT:
            text = self.log.timed_out or (match[0] if (match := TIMED_OUT.search(text)) else text)
        return Failed(kind, text or "The function failed without a reason.")

    def _reported_error(self, end: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The error as the log, the payload or the end tells it, best told first."""
        if self.log.error is not None:
            return self.log.error
        if self._is_whole and (error := _as_error(self._body)):
            return error
        if not end.get("ErrorCode"):
            return None
        details = str(end.get("ErrorDetails") or "")
        return _as_error(details) or {"errorType": end["ErrorCode"], "errorMessage": details}

    def _kind(self, error_type: str, text: str) -> Failure:
        types = {error_type, self.log.error_type}
        if self.log.init_failed or types & INIT_ERRORS:
            return Failure.INIT
        if self.log.status == "timeout" or TIMED_OUT.search(text):
            return Failure.TIMEOUT
        if types & CRASHES:
            return Failure.CRASH
        if "Function.ResponseSizeTooLarge" in types:
            return Failure.RESPONSE
        return Failure.HANDLER


def _as_error(raw: bytes | bytearray | str) -> Mapping[str, Any] | None:
    """The error object Lambda makes of an error; None for anything else."""
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    is_error = isinstance(value, dict) and "errorType" in value and "errorMessage" in value
    return value if is_error and "statusCode" not in value else None


def error_text(error: Mapping[str, Any]) -> str:
    """An error for the log: its stack, or its type and message."""
    stack = error.get("stackTrace") or error.get("stack") or error.get("trace")
    lines = [str(line) for line in stack] if isinstance(stack, list) else []
    error_type, message = error.get("errorType", ""), str(error.get("errorMessage", ""))
    first = f"{error_type}: {message}" if error_type else message
    if lines and lines[0].startswith(first.split("\n")[0]):
        return "\n".join(lines)
    return "\n".join([first, *lines]) if first else ""
