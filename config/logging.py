"""How the platform logs: structlog over the standard library, secrets redacted in one filter.

Owns formats and redaction; must not import Django (settings import this module).
"""

import logging
import os
import re
from typing import Any

import structlog

# Gateway keys, workspace tokens, keys of providers and of Stripe, and bearer headers, wherever they
# turn up.
SECRET_PATTERN = re.compile(
    r"(aig_[a-z0-9-]{1,63}_|wst_|sk-|[rs]k_(?:live|test)_|whsec_|AIza|Bearer\s+)"
    r"[A-Za-z0-9_\-.~+/=]{6,}",
    re.IGNORECASE,
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# What may have lines: tracebacks, whose secrets are cut all the same.
MULTILINE = frozenset({"exception", "stack"})


def redact(text: str) -> str:
    """`text` with every secret cut after its prefix."""
    return SECRET_PATTERN.sub(lambda match: f"{match.group(1)}[redacted]", text)


def escape(text: str) -> str:
    """`text` on one line: control characters, line ends among them, as escapes."""
    return CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def _clean_event(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what callers put into a line, so that nobody outside can write lines of their own."""
    event.pop("color_message", None)  # uvicorn's message once more, with escape codes
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key in MULTILINE else [value]
            event[key] = "\n".join(map(escape, lines))
    return event


def _redact_line(_: Any, __: str, line: str) -> str:
    """The last step: also finds secrets inside dictionaries, bytes and exceptions."""
    return redact(line)


def _formatter(*, as_json: bool) -> dict[str, Any]:
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    return {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": shared,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _clean_event,
            renderer,
            _redact_line,
        ],
    }


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"main": _formatter(as_json=os.environ.get("LOG_FORMAT") == "json")},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "main"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO").upper()},
    "loggers": {
        # One line per request is nginx's business; the gateway logs its own calls.
        "uvicorn.access": {"level": "WARNING", "propagate": True},
        "uvicorn.error": {"level": "WARNING", "propagate": True, "handlers": []},
        "celery": {"level": "WARNING"},
        "kombu": {"level": "ERROR"},
        "httpx": {"level": "WARNING"},
        "aiohttp.access": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
    },
}

structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    cache_logger_on_first_use=True,
)
