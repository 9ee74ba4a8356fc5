"""Whatever happens to a call, neither the log nor an answer holds a secret."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from aiohttp import web
from django.test import Client

from billing import metering
from config.logging import LOGGING
from deployments import environment
from gateway import proxy
from tests import factories
from tests.gateway.conftest import ApiClient, Provider, Tenant
from tests.gateway.test_proxy import DONE, TEXT, USAGE_CHUNK, streamed, whole

PROVIDER_KEY = "sk-provider-secret-0123456789"
USER_KEY = "sk-the-users-own-key-123456"


@dataclass
class Log:
    """What was logged: as our formatter writes it, and as it was before that redacted it."""

    formatted: io.StringIO = field(default_factory=io.StringIO)
    plain: io.StringIO = field(default_factory=io.StringIO)

    def assert_without(self, *secrets: str) -> None:
        """No line holds the part of a secret that makes it one."""
        text = self.formatted.getvalue()
        assert text  # a log that is empty proves nothing
        for secret in secrets:
            assert secret[-20:] not in text


def our_handler(stream: io.StringIO) -> logging.Handler:
    """A handler as the settings describe it."""
    description = dict(LOGGING["formatters"]["main"])
    handler = logging.StreamHandler(stream)
    handler.setFormatter(description.pop("()")(**description))
    return handler


@pytest.fixture
def log() -> Iterator[Log]:
    """Everything that is logged, at any level."""
    captured = Log()
    handlers = [our_handler(captured.formatted), logging.StreamHandler(captured.plain)]
    root = logging.getLogger()
    level = root.level
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield captured
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


async def leaky(_: web.Request) -> web.Response:
    """A provider that repeats our key in its error, as some do."""
    message = f"Incorrect API key provided: {PROVIDER_KEY}. Authorization: Bearer {PROVIDER_KEY}"
    return web.json_response({"error": {"message": message}}, status=401)


async def test_calls_leave_no_secret_in_the_log_or_the_answer(
    api: ApiClient,
    provider: Provider,
    tenant: Tenant,
    settings: Any,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = api.key[:-7] + "0000000"
    answers = []
    for handler in (whole(), leaky, streamed(*TEXT), streamed(*TEXT[:2], then="cut")):
        provider.handler = handler
        answers += [await api.chat(), await api.chat(stream=True)]
    failure = f'data: {{"error":{{"message":"bad key {PROVIDER_KEY}"}}}}\n\n'.encode()
    provider.handler = streamed(*TEXT[:2], failure)
    answers.append(await api.chat(stream=True))
    answers += [
        await api.chat(key=wrong),
        await api.call("/models", method="GET", key="", headers={"x-api-key": wrong}),
        await api.chat(headers={"origin": "https://app.example"}),
        await api.chat(model=api.key),
        await api.call(f"/models/{api.key}", method="GET"),
    ]

    async def broken(*_: Any) -> None:
        raise RuntimeError(f"Bearer {PROVIDER_KEY} and {api.key}")

    with monkeypatch.context() as patched:
        patched.setattr(proxy, "_answer", broken)
        provider.handler = whole()
        assert (await api.chat()).status == 500
    settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = "http://127.0.0.1:9/v1"
    answers.append(await api.chat())
    for answer in answers:
        assert PROVIDER_KEY not in str(answer.headers) + answer.body.decode()
    log.assert_without(api.key, PROVIDER_KEY, wrong)
    assert "Incorrect API key provided: [redacted]" in log.plain.getvalue()
    # Secrets are not even given to the logger; only our own bug did that above.
    for line in log.plain.getvalue().splitlines():
        if any(secret[-20:] in line for secret in (api.key, wrong, PROVIDER_KEY)):
            assert "RuntimeError" in line


def test_the_formatter_cuts_the_secrets_of_tracebacks_too() -> None:
    written = io.StringIO()
    handler = our_handler(written)
    logger = logging.getLogger("tests.secrets")
    logger.addHandler(handler)
    try:
        raise RuntimeError(f"Bearer {USER_KEY}")
    except RuntimeError:
        structlog.get_logger("tests.secrets").exception("failed", headers={"x-api-key": USER_KEY})
        logger.exception("failed with %s", USER_KEY, extra={"sent": [USER_KEY]})
    finally:
        logger.removeHandler(handler)
    assert "RuntimeError" in written.getvalue()
    assert USER_KEY not in written.getvalue()
    assert "sk-[redacted]" in written.getvalue()


def test_the_data_api_leaves_no_secret_in_the_log(
    transactional_db: None, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = factories.make_workspace()
    token = factories.make_token(workspace=workspace)
    deployment = factories.make_deployment(workspace=workspace)
    environment.update(deployment, {"OPENAI_API_KEY": USER_KEY})
    client = Client(raise_request_exception=False)

    def post(path: str, body: str = "{}", secret: str = token) -> Any:
        return client.post(
            f"/api/data/{path}",
            data=body,
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret}"},
        )

    key = post("aigateway/provision").json()["apiKey"]
    rotated = post("aigateway/rotate", '{"graceSeconds": 60}').json()["apiKey"]
    post("aigateway/info")
    post("aigateway/provision", "{")
    post("aigateway/provision", secret=token[:-1] + "0")
    post("deployments/get-env")
    post("deployments/nothing-here")
    with monkeypatch.context() as patched:
        patched.setattr("gateway.provisioning._inject", _broken)
        assert post("aigateway/rotate").status_code == 500
    post("aigateway/revoke")
    assert "Internal Server Error" in log.formatted.getvalue()
    log.assert_without(token, key, rotated, USER_KEY)


def _broken(*_: Any) -> None:
    raise ZeroDivisionError


async def test_a_failing_settlement_is_logged_without_secrets(
    api: ApiClient, provider: Provider, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(metering.UnableToSettle("The disk has failed."))
        return refused

    provider.handler = whole()
    with monkeypatch.context() as patched:
        patched.setattr(metering.Call, "settle", refuse)
        assert (await api.chat()).status == 503
        # And a stream is cut with an error in the place of its end.
        provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE)
        answer = await api.chat(stream=True)
        assert "[DONE]" not in answer.messages
        assert json.loads(answer.messages[-1])["error"]["code"] == "settlement_unconfirmed"
    assert "settlement failed" in log.formatted.getvalue()
    log.assert_without(api.key, PROVIDER_KEY)
