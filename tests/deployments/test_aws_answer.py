"""Answers of AWS Lambda, shaped as captures of the service are (nodejs22.x, us-east-1)."""

import base64
import json
from typing import Any

import pytest

from deployments.runtime import aws_answer, events
from deployments.runtime.aws_answer import Answer, read_log
from deployments.runtime.driver import Chunk, Failed, Failure, Head

ID = "4a4f1809-fd30-43cf-ab5c-a417c4c621c4"
AT = "2026-09-15T10:17:17.089Z"
START = f"START RequestId: {ID} Version: 1"
END = f"END RequestId: {ID}"
REPORT = (
    f"REPORT RequestId: {ID}\tDuration: 153.58 ms\tBilled Duration: 154 ms\tMemory Size: 128 MB\t"
    "Max Memory Used: 77 MB\t"
)
ERROR = {
    "errorType": "Error",
    "errorMessage": "probe",
    "stack": ["Error: probe", "    at Runtime.handler (/var/task/entry.js:20:49)"],
}
INVOKE_ERROR = f"{AT}\t{ID}\tERROR\tInvoke Error \t{json.dumps(ERROR)}"


def end(*log: str, **more: Any) -> dict[str, Any]:
    """InvokeComplete with this log."""
    return {"LogResult": base64.b64encode("\n".join([*log, ""]).encode()).decode(), **more}


def read(content_type: str, payloads: list[bytes], complete: dict[str, Any]) -> list[Any]:
    answer = Answer(content_type)
    items: list[Any] = [item for payload in payloads for item in answer.feed(payload)]
    return [*items, *answer.complete(complete)]


def test_a_handler_that_does_not_stream_answers_with_json() -> None:
    payload = json.dumps({"statusCode": 201, "body": "hi"}).encode()
    items = read("application/json", [payload[:9], payload[9:]], end(START, END, REPORT))
    assert items == [Head(201, (), 2), Chunk(b"hi")]


def test_a_stream_without_metadata_has_its_own_content_type() -> None:
    items = read("text/plain", [b"A\x00\xff", b"", b"\n"], end(START, END, REPORT))
    assert items == [
        Head(200, (("content-type", "text/plain"),)),
        Chunk(b"A\x00\xff"),
        Chunk(b"\n"),
    ]


def test_a_stream_with_metadata_reads_the_same_cut_at_every_byte() -> None:
    raw = b'{"statusCode": 203, "cookies": ["a=1"]}' + bytes(8) + b"data" + bytes(8)
    wanted = Head(203, (("set-cookie", "a=1"),))
    for cut in range(len(raw) + 1):
        items = read(events.INTEGRATION_RESPONSE, [raw[:cut], raw[cut:]], end(START, END, REPORT))
        assert items[0] == wanted
        assert b"".join(item.data for item in items[1:]) == b"data" + bytes(8)


def test_an_empty_stream_has_a_head_all_the_same() -> None:
    items = read("text/plain", [], end(START, END, REPORT))
    assert items == [Head(200, (("content-type", "text/plain"),))]


def test_metadata_that_never_ends_is_refused() -> None:
    with pytest.raises(events.UnableToAnswer, match="incomplete or over 64 KB"):
        read(events.INTEGRATION_RESPONSE, [b"{"], end(START, END, REPORT))
    with pytest.raises(events.UnableToAnswer, match="incomplete or over 64 KB"):
        read(events.INTEGRATION_RESPONSE, [b"x" * 70_000], end(START, END, REPORT))


@pytest.mark.parametrize("payloads", [[], [b"A\x00\xff\n"]], ids=["before", "after"])
def test_a_stream_that_throws_fails_by_its_log_alone(payloads: list[bytes]) -> None:
    items = read("application/x-stream", payloads, end(START, INVOKE_ERROR, END, REPORT))
    assert items[-1] == Failed(Failure.HANDLER, "\n".join(ERROR["stack"]))
    assert len(items) == (3 if payloads else 1)


def test_a_stream_over_its_time_fails_by_its_report_alone() -> None:
    items = read("text/plain", [b"prefix"], end(START, END, f"{REPORT}Status: timeout"))
    assert items[-1].kind == Failure.TIMEOUT


ORDINARY_ERROR = {
    "errorType": "TypeError",
    "errorMessage": "no luck",
    "trace": ["TypeError: no luck"],
}
TIMEOUT_ERROR = {
    "errorType": "Sandbox.Timedout",
    "errorMessage": f"RequestId: {ID} Error: Task timed out after 3.00 seconds",
}
OLD_TIMEOUT = {"errorMessage": f"2023-06-04T12:04:07Z {ID} Task timed out after 3.00 seconds"}
EXIT_ERROR = {
    "errorType": "Runtime.ExitError",
    "errorMessage": f"RequestId: {ID} Error: Runtime exited with error: signal: killed",
}
TOO_LARGE = {
    "errorType": "Function.ResponseSizeTooLarge",
    "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
}
INIT_REPORT = (
    "INIT_REPORT Init Duration: 9.87 ms\tPhase: init\tStatus: error\tError Type: Runtime.X"
)


@pytest.mark.parametrize(
    ("error", "log", "kind", "message"),
    [
        (ORDINARY_ERROR, (), Failure.HANDLER, "TypeError: no luck"),
        (TIMEOUT_ERROR, (), Failure.TIMEOUT, "Task timed out after 3.00 seconds"),
        (EXIT_ERROR, (), Failure.CRASH, "signal: killed"),
        (EXIT_ERROR, (INIT_REPORT,), Failure.INIT, "signal: killed"),
        (TOO_LARGE, (), Failure.RESPONSE, "6291556"),
        (
            {"errorType": "Runtime.ImportModuleError", "errorMessage": "Cannot find module 'x'"},
            (),
            Failure.INIT,
            "Cannot find module 'x'",
        ),
    ],
)
@pytest.mark.parametrize("where", ["payload", "end"])
def test_an_error_is_known_wherever_it_is_told(
    where: str, error: dict[str, Any], log: tuple[str, ...], kind: Failure, message: str
) -> None:
    raw = json.dumps(error)
    if where == "payload":
        items = read("application/json", [raw.encode()], end(START, *log, END, REPORT))
    else:
        told = {"ErrorCode": "Unhandled", "ErrorDetails": raw}
        items = read("text/plain", [], end(START, *log, END, REPORT, **told))
    (failed,) = items
    assert failed.kind == kind
    assert message in failed.message


def test_an_error_told_in_plain_text_is_a_failure_too() -> None:
    told = {"ErrorCode": "Unhandled", "ErrorDetails": OLD_TIMEOUT["errorMessage"]}
    (failed,) = read("text/plain", [], end(START, END, REPORT, **told))
    assert failed == Failed(Failure.TIMEOUT, "Task timed out after 3.00 seconds")


def test_an_answer_that_speaks_of_an_error_is_no_failure() -> None:
    value = {"statusCode": 422, "errorType": "x", "errorMessage": "y", "body": "invalid"}
    items = read("application/json", [json.dumps(value).encode()], end(START, END, REPORT))
    assert items == [Head(422, (), 7), Chunk(b"invalid")]


def test_output_is_told_from_what_the_platform_says() -> None:
    log = read_log(
        "\n".join(
            [
                "INIT_START Runtime Version: nodejs:22.v1\tRuntime Version ARN: arn",
                f"{AT}\tundefined\tINFO\tloading",
                f"{AT}\t{ID}\tINFO\tbefore the start line",  # captured: it may come first
                START,
                f"{AT}\t{ID}\tWARN\tcareful",
                f"{AT}\t{ID}\tERROR\tError: two",
                "    at lines (/var/task/index.js:1:1)",
                f"{AT}\t{ID}\tERROR\tInvoke Error \tnot of the runtime",
                END,
                f"{REPORT}Init Duration: 140.00 ms\t",
            ]
        )
    )
    assert log.lines == [
        "loading",
        "before the start line",
        "WARN careful",
        "ERROR Error: two\n    at lines (/var/task/index.js:1:1)",
        "ERROR Invoke Error \tnot of the runtime",
    ]
    assert log.cold
    assert log.error is None


def test_output_that_was_cut_says_so() -> None:
    log = read_log(f"cut of a line\n{AT}\t{ID}\tINFO\t{'x' * 4080}\n{END}\n{REPORT}\n"[-4096:])
    assert log.lines[0] == aws_answer.LOG_CUT
    assert len(log.lines) <= 2
