"""The Python SDKs as their documentation uses them, over one connection pool.

Owns how each asks for an answer and what its exceptions say of the HTTP answer behind them. A test
may change a request on its way out, after the SDK has made it. Must know no expectation.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
from google import genai
from google.genai import errors as genai_errors
from google.genai import types

Change = Callable[[httpx2.Request], httpx2.Request]
# What SDKs are given for a key: the real one is put in its place on the way out.
NO_KEY = "the-key-of-the-moment"


def edited(
    request: httpx2.Request,
    *,
    method: str = "",
    path: str = "",
    query: str = "",
    content: bytes | None = None,
    drop: tuple[str, ...] = (),
    add: dict[str, str] | None = None,
) -> httpx2.Request:
    """The request with another method, path, query, body, or headers."""
    url = request.url.copy_with(raw_path=(path or request.url.path).encode())
    url = url.copy_with(query=(query.encode() or request.url.query) or None)
    left_out = {*drop, "content-length", "host"}
    headers = [one for one in request.headers.multi_items() if one[0].lower() not in left_out]
    body = request.read() if content is None else content
    return httpx2.Request(
        method or request.method,
        url,
        headers=[*headers, *(add or {}).items()],
        content=body,
        extensions=request.extensions,
    )


def with_members(request: httpx2.Request, members: dict[str, Any]) -> httpx2.Request:
    """The request with these members of its JSON body; None takes one away."""
    body = {**json.loads(request.read()), **members}
    body = {name: value for name, value in body.items() if value is not None}
    return edited(request, content=json.dumps(body).encode())


class Changing(httpx2.BaseTransport):
    """Sends what `change` makes of each request, with the key of the moment, and counts."""

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport()
        self.key = ""
        self.change: Change | None = None
        self.sent = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent += 1
        for name, value in request.headers.multi_items():
            if NO_KEY in value:
                request.headers[name] = value.replace(NO_KEY, self.key)
        return self._inner.handle_request(self.change(request) if self.change else request)

    def close(self) -> None:
        self._inner.close()


@dataclass(frozen=True)
class Heard:
    """The HTTP answer behind an exception."""

    status: int
    headers: dict[str, str]
    body: Any


class Sdk:
    """One SDK on one wire."""

    name = ""
    wire = ""
    # The class that all its exceptions about answers have in common.
    base: type[Exception]
    # The exceptions of its documentation by the answer's status.
    raises: dict[int, type[Exception]]

    def __init__(self, http: httpx2.Client, url: str, retries: int = 0) -> None:
        raise NotImplementedError

    def ask(self, model: str) -> Any:
        """One whole answer."""
        raise NotImplementedError

    def stream(self, model: str) -> Iterator[Any]:
        """The pieces of a streamed answer."""
        raise NotImplementedError

    def hear(self, error: Any) -> Heard:
        """What the exception was made of."""
        response = error.response
        return Heard(response.status_code, dict(response.headers), response.json())


OPENAI = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    405: openai.APIStatusError,
    408: openai.APIStatusError,
    409: openai.ConflictError,
    413: openai.APIStatusError,
    415: openai.APIStatusError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


class OpenAIChat(Sdk):
    name = "openai-python, chat completions"
    wire = "chat"
    base = openai.APIError
    raises = OPENAI

    def __init__(self, http: httpx2.Client, url: str, retries: int = 0) -> None:
        self.client = openai.OpenAI(
            base_url=f"{url}/v1", api_key=NO_KEY, max_retries=retries, http_client=http
        )

    def ask(self, model: str) -> Any:
        return self.client.chat.completions.create(model=model, messages=self._messages())

    def stream(self, model: str) -> Iterator[Any]:
        yield from self.client.chat.completions.create(
            model=model, messages=self._messages(), stream=True
        )

    @staticmethod
    def _messages() -> Any:
        return [{"role": "user", "content": "Hi"}]


class OpenAIResponses(OpenAIChat):
    name = "openai-python, responses"
    wire = "responses"

    def ask(self, model: str) -> Any:
        return self.client.responses.create(model=model, input="Hi")

    def stream(self, model: str) -> Iterator[Any]:
        yield from self.client.responses.create(model=model, input="Hi", stream=True)


class Anthropic(Sdk):
    name = "anthropic-python"
    wire = "anthropic"
    base = anthropic.APIError
    raises = {
        400: anthropic.BadRequestError,
        401: anthropic.AuthenticationError,
        403: anthropic.PermissionDeniedError,
        404: anthropic.NotFoundError,
        405: anthropic.APIStatusError,
        408: anthropic.RequestTimeoutError,
        409: anthropic.ConflictError,
        413: anthropic.ContentTooLargeError,
        415: anthropic.APIStatusError,
        422: anthropic.UnprocessableEntityError,
        429: anthropic.RateLimitError,
        500: anthropic.InternalServerError,
        504: anthropic.GatewayTimeoutError,
        529: anthropic.OverloadedError,
    }

    def __init__(self, http: httpx2.Client, url: str, retries: int = 0) -> None:
        self.client = anthropic.Anthropic(
            base_url=url, api_key=NO_KEY, max_retries=retries, http_client=http
        )

    def ask(self, model: str) -> Any:
        return self.client.messages.create(model=model, **self._body())

    def stream(self, model: str) -> Iterator[Any]:
        yield from self.client.messages.create(model=model, stream=True, **self._body())

    @staticmethod
    def _body() -> Any:
        return {"max_tokens": 16_384, "messages": [{"role": "user", "content": "Hi"}]}


class Gemini(Sdk):
    name = "google-genai"
    wire = "gemini"
    base = genai_errors.APIError
    raises = {
        **dict.fromkeys(
            (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429), genai_errors.ClientError
        ),
        **dict.fromkeys((500, 502, 503, 504), genai_errors.ServerError),
    }

    def __init__(self, http: httpx2.Client, url: str, retries: int = 0) -> None:
        options = types.HttpOptions(base_url=url, httpx_client=http)
        self.client = genai.Client(api_key=NO_KEY, http_options=options)

    def ask(self, model: str) -> Any:
        return self.client.models.generate_content(model=model, contents="Hi")

    def stream(self, model: str) -> Iterator[Any]:
        yield from self.client.models.generate_content_stream(model=model, contents="Hi")


SDKS: tuple[type[Sdk], ...] = (OpenAIChat, OpenAIResponses, Anthropic, Gemini)
