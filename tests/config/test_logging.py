"""What the log shows of what it is given: secrets cut, nobody else's lines."""

import io
import json
import logging
from typing import Any

import pytest
import structlog

from config import logging as our_logging
from config.logging import redact

KEY = "aig_app-0123456789_" + "A1" * 24 + "b"
SECRETS = {
    KEY: "aig_app-0123456789_[redacted]",
    "wst_" + "A1" * 21 + "b": "wst_[redacted]",
    "sk-proj-abc_DEF-123456": "sk-[redacted]",
    "sk-ant-api03-abcdef": "sk-[redacted]",
    "AIzaSyA1234567890-_abc": "AIza[redacted]",
    "sk_live_51AbCdEfGh": "sk_live_[redacted]",
    "rk_test_51AbCdEfGh": "rk_test_[redacted]",
    "whsec_AbCd/EfGh+": "whsec_[redacted]",
    "Bearer abcdef.ghi-jkl_mno": "Bearer [redacted]",
    "bearer YWJj/ZGVm+Zw==": "bearer [redacted]",
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "x={}&y=1", '{{"k": "{}"}}', "a {} b", "[{}, {}]"])
def test_secrets_are_cut_wherever_they_stand(secret: str, around: str) -> None:
    assert redact(around.format(secret, secret)) == around.format(SECRETS[secret], SECRETS[secret])


@pytest.mark.parametrize("text", ["", "nothing secret", "POST /api/ai/v1/models 200", "aig_x", "é"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


class Line:
    """A logger with our formatter; `text` is what it wrote."""

    def __init__(self, *, as_json: bool) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        description = our_logging._formatter(as_json=as_json)
        handler.setFormatter(description.pop("()")(**description))
        # Not from getLogger: the root's handlers would write it as well.
        self.logger = logging.Logger("tests.line", logging.DEBUG)  # noqa: LOG001
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self._stream.getvalue()


@pytest.fixture(params=[False, True], ids=["console", "json"])
def line(request: pytest.FixtureRequest) -> Line:
    return Line(as_json=request.param)


@pytest.mark.parametrize("hostile", ["\n", "\r\n", "\x1b[2J", "\x00", "\x7f", "\x9b", "\u2028"])
def test_nobody_else_writes_lines_or_moves_the_cursor(line: Line, hostile: str) -> None:
    forged = f"/path{hostile}2026-01-01 [info] all is well"
    line.logger.warning("Not Found: %s", forged)
    line.logger.warning("seen", extra={"path": forged})
    assert len(line.text.splitlines()) == 2
    assert hostile not in line.text.replace("\n", "", 2) or hostile == "\n"
    assert line.text.count("\n") == 2


def test_structured_values_are_escaped_and_cut(line: Line) -> None:
    logger = structlog.wrap_logger(line.logger, processors=structlog.get_config()["processors"])
    logger.warning(
        "seen",
        model=f"gpt\n{KEY}",
        headers={"authorization": f"Bearer {KEY}"},
        raw=[b"x-api-key", KEY.encode()],
    )
    assert len(line.text.splitlines()) == 1
    assert KEY[-20:] not in line.text


def test_tracebacks_keep_their_lines_but_not_their_secrets(line: Line) -> None:
    try:
        raise RuntimeError(f"refused {KEY}\x1b[2J")
    except RuntimeError:
        line.logger.exception("failed")
    assert "RuntimeError" in line.text
    assert KEY[-20:] not in line.text
    assert "\x1b" not in line.text


def test_a_json_line_is_json() -> None:
    line = Line(as_json=True)
    line.logger.warning('a "quoted" %s', KEY, extra={"count": 3})
    known: dict[str, Any] = json.loads(line.text)
    assert known["count"] == 3
    assert known["level"] == "warning"
    assert known["logger"] == "tests.line"
    assert known["event"] == 'a "quoted" aig_app-0123456789_[redacted]'
