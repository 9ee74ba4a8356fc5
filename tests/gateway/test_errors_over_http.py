"""Every way the AI API says no, as every Python SDK hears it: real server, real sockets, real SDKs.

Each row of the table is a situation that is provoked, not simulated, and what the answer then is:
status, type, code, parameter and headers, in the error shape of each wire, and with them the
exception that each SDK raises, whole and streamed. An SDK that cannot get into a row's situation is
listed with the reason. Below are the endpoints that only some SDKs have, and how a stream ends when
credit runs out after it has begun; tests/gateway/test_broken_streams.py has its other ends.
"""

import asyncio
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from django.db import connection, transaction
from django.utils import timezone
from google.genai import errors as genai_errors

from billing import ledger, purses
from billing.models import UsageRecord
from billing.pricing import Usage
from gateway import attempts, exchange, keys, proxy
from gateway.models import GatewayKey, Limit
from gateway.providers import PROVIDERS, AuthStyle, Provider
from orgs import idempotency
from orgs.models import IdempotentRequest
from tests import factories
from tests.gateway.conftest import DOLLAR, Tenant, make_tenant
from tests.gateway.sdks import SDKS, Changing, Heard, Sdk, edited, with_members
from tests.gateway.served import (
    API_KEY,
    STREAM_HEAD,
    Asked,
    Script,
    Served,
    answering,
    beginning,
    cutting,
    framed,
    silent,
)
from tests.gateway.test_replays_over_http import ANSWER

INVALID, SERVER, QUOTA = "invalid_request_error", "server_error", "insufficient_quota"
RETRY, NO_RETRY = {"x-should-retry": "true"}, {"x-should-retry": "false"}
KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
# Headers that say what to do about an error; a row names all of these that its answer has.
TELLING = re.compile(r"www-authenticate|allow|connection|retry-after(-ms)?|x-should-retry")
ROOT = Path(__file__).resolve().parent.parent.parent
GPT, CODEX, CLAUDE, GEMINI = "gpt-4o", "gpt-5.2-codex", "claude-sonnet-4.5", "gemini-3-flash"
WRONG_KEY = keys._new_text("app-0123456789")


@dataclass(frozen=True)
class Situation:
    """What a client gets into. `change` is made to its request on the way out, `script` is what
    the provider does, `during` surrounds the call, `address` names whom it calls."""

    model: str = GPT
    key: str = "good"
    change: Callable[[httpx2.Request], httpx2.Request] | None = None
    script: Script = field(default_factory=lambda: answering(500))
    during: Callable[["Stage"], AbstractContextManager[Any]] | None = None
    address: str = "url"


@dataclass(frozen=True)
class Row:
    """One row: what OpenAI's wire says, and what the others say instead of status and type.

    Messages and headers are patterns. `on` holds what is different for one wire; `absent` the
    reason why one cannot get there.
    """

    name: str
    situation: Situation
    status: int
    type: str
    code: str | None
    message: str
    anthropic: tuple[int, str]
    gemini: tuple[int, str]
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # Whose limit, remaining and reset the headers tell: requests or tokens.
    limited: str = ""
    # Members of the error beyond OpenAI's four.
    extra: tuple[str, ...] = ()
    # How often the provider is asked for one call.
    tries: int = 0
    # Which ways of asking get there: a stream fails before it begins.
    methods: tuple[str, ...] = ("ask", "stream")
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def may_pass(self) -> bool:
        """Whether clients should ask again, which SDKs do by themselves when they are let."""
        is_passing = self.status in (408, 409, 429) or self.status >= 500
        return is_passing and self.headers.get("x-should-retry") != "false"

    @property
    def is_recorded(self) -> bool:
        """Whether a provider was tried, even in vain."""
        return self.tries > 0 or self.code == "upstream_error"

    def on_wire(self, wire: str) -> dict[str, Any]:
        """What is expected there."""
        said = {name: getattr(self, name) for name in EXPECTED}
        if wire in ("anthropic", "gemini"):
            said["status"], said["type"] = getattr(self, wire)
        return {**said, **self.on.get(wire, {})}


EXPECTED = ("status", "type", "code", "param", "message", "headers", "extra", "limited")


# --- the stage -------------------------------------------------------------------------------


class Stage:
    """Everything a situation may need: the server, tenants by what is wrong with them, SDKs."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.transport = Changing()
        self.http = httpx2.Client(transport=self.transport)
        self.tenants = _make_tenants()
        self.patch = pytest.MonkeyPatch()
        # The call that is about to be made, for what must happen to it before.
        self.ask: Callable[[], Any] = lambda: None
        self._sdks: dict[tuple[Any, ...], Sdk] = {}

    def sdk(self, kind: type[Sdk], address: str, retries: int) -> Sdk:
        """Made once: making one takes longer than ten calls."""
        named = (kind, address, retries)
        if named not in self._sdks:
            self._sdks[named] = kind(self.http, address, retries)
        return self._sdks[named]

    def enter(self, situation: Situation) -> AbstractContextManager[Any]:
        """Bring the situation about; until left."""
        tenant = self.tenants.get(situation.key)
        self.transport.key = tenant.key if tenant else situation.key
        self.transport.change = situation.change
        self.served.upstream.script = situation.script
        return situation.during(self) if situation.during else nullcontext()

    def close(self) -> None:
        self.patch.undo()
        self.http.close()


def _make_tenants() -> dict[str, Tenant]:
    now = timezone.now()
    made = {
        name: make_tenant(dollars=1000)
        for name in ("good", "browser", "revoked", "expired", "deleted", "suspended")
    }
    keys.revoke_all(made["revoked"].deployment, at=now)
    keys.rotate(made["expired"].deployment, expires_at=now - timedelta(seconds=1), at=now)
    made["deleted"].deployment.deleted_at = now
    made["deleted"].deployment.save()
    factories.suspend(made["suspended"].organization, at=now)
    made["poor"] = make_tenant(dollars=0)
    # One call may write 16,384 tokens at a hundred-thousandth of a dollar: enough for one, and not
    # for the beginning of another.
    made["busy"] = make_tenant(dollars=0)
    ledger.grant(
        made["busy"].organization,
        165 * DOLLAR // 1000,
        reason="test",
        idempotency_key="grant",
        at=now,
    )
    for name, limits in {
        "hurried": {"requests_per_minute": 1},
        "hungry": {"tokens_per_minute": 1},
        "eager": {"concurrency": 1},
        "thrifty": {"daily_budget_nanos": 1},
        "spendthrift": {"daily_budget_nanos": 1},
        "frugal": {"daily_budget_nanos": 165 * DOLLAR // 1000},
        "confined": {"allowed_models": [GEMINI]},
    }.items():
        made[name] = make_tenant(dollars=1000)
        scope = {"scope": Limit.Scope.DEPLOYMENT, "scope_id": made[name].deployment.pk}
        Limit.objects.create(organization=made[name].organization, **scope, **limits)
    spendthrift = made["spendthrift"]
    factories.make_call(
        organization=spendthrift.organization,
        deployment_id=spendthrift.deployment.pk,
        deploy_id=spendthrift.deployment.deploy_id,
        price=factories.make_price(provider="test", model="test"),
        usage=Usage(input=1000),
        started_at=now,
    )
    return made


@pytest.fixture(scope="module")
def stage(served: Served) -> Iterator[Stage]:
    factories.make_route(public_name="unpriced", provider="openai")
    factories.make_route(public_name="unconfigured", provider="elsewhere")
    embedder = factories.make_route(public_name="embedder", provider="openai")
    embedder.capabilities = ["embeddings"]
    embedder.save()
    stage = Stage(served)
    stage.patch.setattr(attempts, "PAUSE_SECONDS", 0.01)
    url = "https://elsewhere.example/v1"
    elsewhere = Provider("elsewhere", "Elsewhere", ("openai_chat",), url, AuthStyle.BEARER)
    stage.patch.setitem(PROVIDERS, "elsewhere", elsewhere)
    yield stage
    stage.close()


# --- situations ------------------------------------------------------------------------------


def members(**given: Any) -> Callable[[httpx2.Request], httpx2.Request]:
    return lambda request: with_members(request, given)


def by_wire(**bodies: dict[str, Any]) -> Callable[[httpx2.Request], httpx2.Request]:
    """Other members of the body for each wire."""

    def change(request: httpx2.Request) -> httpx2.Request:
        path = request.url.path
        if ":" in path:
            return with_members(request, bodies["gemini"])
        wire = {"completions": "chat", "messages": "anthropic"}.get(path.rpartition("/")[2])
        return with_members(request, bodies[wire or "responses"])

    return change


def elsewhere(request: httpx2.Request) -> httpx2.Request:
    """A path that nobody has, below the one of the client's wire."""
    path = "/api/ai/v1beta/xyz" if ":" in request.url.path else "/api/ai/v1/xyz"
    return edited(request, path=path)


def huge(request: httpx2.Request) -> httpx2.Request:
    return edited(request, content=b"{" + b" " * (20 * 1024 * 1024) + b"}")


@contextmanager
def slow_body(stage: Stage) -> Iterator[None]:
    """The request stops in the middle of its body."""

    def stalling(request: httpx2.Request) -> httpx2.Request:
        def pieces() -> Iterator[bytes]:
            yield request.read()[:10]
            time.sleep(1)

        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("content-length", "host")
        }
        return httpx2.Request(request.method, request.url, headers=headers, content=pieces())

    stage.transport.change = stalling
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "BODY_SECONDS_MAX", 0.2)
        yield


def keyed(stage: Stage, body_ends: bytes = b"") -> Callable[[], None]:
    """From now on every request carries the same new Idempotency-Key.

    This one's body ends differently, until what is returned is called.
    """
    header = {"idempotency-key": uuid.uuid4().hex}

    def change(request: httpx2.Request, ending: bytes = b"") -> httpx2.Request:
        return edited(request, content=request.read() + ending, add=header)

    def same() -> None:
        stage.transport.change = change

    stage.transport.change = lambda request: change(request, body_ends)
    return same


@contextmanager
def key_of_another_call(stage: Stage) -> Iterator[None]:
    same = keyed(stage, body_ends=b" ")
    stage.served.upstream.script = answering(200, ANSWER)
    stage.ask()
    same()
    yield


@contextmanager
def key_of_a_call_whose_answer_was_too_large(stage: Stage) -> Iterator[None]:
    keyed(stage)
    stage.served.upstream.script = answering(200, ANSWER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idempotency, "ANSWER_BYTES_MAX", 1)
        stage.ask()
    yield


@contextmanager
def key_of_a_call_whose_answer_was_lost(stage: Stage) -> Iterator[None]:
    """As a process leaves it that dies between the bill and the answer."""
    keyed(stage)
    stage.served.upstream.script = answering(200, ANSWER)
    stage.ask()
    lost = {"status": None, "answer_sealed": "", "leased_until": timezone.now()}
    IdempotentRequest.objects.update(**lost)
    yield


@contextmanager
def key_of_a_call_in_progress(stage: Stage) -> Iterator[None]:
    keyed(stage)
    may_end, upstream = threading.Event(), stage.served.upstream

    async def waiting(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(may_end.wait, 20)
        await answering(200, ANSWER)(asked, writer)

    upstream.script = waiting
    asked = len(upstream.asked)
    first = threading.Thread(target=stage.ask)
    first.start()
    until(lambda: len(upstream.asked) > asked)
    try:
        yield
    finally:
        may_end.set()
        first.join(20)


def call_in_flight(name: str) -> Callable[[Stage], AbstractContextManager[None]]:
    """A stream of this tenant's has begun and does not end."""

    @contextmanager
    def during(stage: Stage) -> Iterator[None]:
        ended = _calls_of(stage.tenants[name])
        chunk = {"id": "c", "object": "chat.completion.chunk", "model": GPT, "choices": []}
        stage.served.upstream.script = beginning(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        with httpx2.Client() as other, other.stream(**_hello(stage, name)) as begun:
            assert begun.status_code == 200
            stage.served.upstream.script = answering(500)
            yield
        until(lambda: _calls_of(stage.tenants[name]) > ended)

    return during


def _hello(stage: Stage, name: str) -> dict[str, Any]:
    """A stream's request by this tenant."""
    return {
        "method": "POST",
        "url": f"{stage.served.url}/v1/chat/completions",
        "headers": {"authorization": f"Bearer {stage.tenants[name].key}"},
        "json": {"model": GPT, "stream": True, "messages": [{"role": "user", "content": "Hi"}]},
    }


@contextmanager
def spent_minute(stage: Stage) -> Iterator[None]:
    """The hurried tenant has made the one request of this minute."""
    if (into := time.time() % 60) > 50:
        time.sleep(60 - into)
    asked = _hello(stage, "hurried")
    until(lambda: httpx2.request(**asked).status_code == 429)
    yield


def _calls_of(tenant: Tenant) -> int:
    return UsageRecord.objects.filter(organization=tenant.organization).count()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def impatience(stage: Stage) -> Iterator[None]:
    with stage.served.limits(first_byte=0.2, total=0.2):
        yield


def no_listener(stage: Stage) -> AbstractContextManager[None]:
    return stage.served.unreachable()


@contextmanager
def bug(_: Stage) -> Iterator[None]:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.routing, "choose", broken)
        yield


@contextmanager
def locked_ledger(stage: Stage) -> Iterator[None]:
    """Somebody else holds the ledger: nothing can be reserved for who has nothing on lease."""
    tenant = make_tenant(dollars=1000)
    stage.transport.key = tenant.key
    # That the key is used is written down at its first use, which the lock would hold up.
    headers = {"authorization": f"Bearer {tenant.key}"}
    assert httpx2.get(f"{stage.served.url}/v1/models", headers=headers).status_code == 200
    unused = GatewayKey.objects.filter(deployment=tenant.deployment, last_used_at=None)
    until(lambda: not unused.all().exists())
    with pytest.MonkeyPatch.context() as patch, transaction.atomic():
        patch.setattr(purses, "HOLD_SECONDS_MAX", 0.2)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE billing_ledgeraccount IN ACCESS EXCLUSIVE MODE")
        yield  # SQLite's transactions take the lock when they begin


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a process of its own whose database does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/nowhere",
        "JOURNAL_DIR": str(tmp_path_factory.mktemp("lost")),
        **{name: name.lower() * 4 for name in ("SECRET_KEY", "KEY_PEPPER", "VAULT_KEY")},
    }
    command = [sys.executable, "-m", "uvicorn", "config.asgi:gateway", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _answers(port))
        yield f"http://127.0.0.1:{port}/api/ai"
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx2.TransportError:
        return False


# --- the table -------------------------------------------------------------------------------

NOT_FOUND = {"anthropic": (404, "not_found_error"), "gemini": (404, "NOT_FOUND")}
BAD_REQUEST = {"anthropic": (400, INVALID), "gemini": (400, "INVALID_ARGUMENT")}
UNAUTHENTICATED = {
    "status": 401,
    "type": INVALID,
    "anthropic": (401, "authentication_error"),
    "gemini": (401, "UNAUTHENTICATED"),
    "headers": {"www-authenticate": "Bearer"},
}
NO_CREDIT = {
    "status": 429,
    "type": QUOTA,
    "anthropic": (429, "rate_limit_error"),
    "gemini": (429, "RESOURCE_EXHAUSTED"),
    "extra": ("scope", "top_up_url"),
}
OVER_BUDGET = {
    **NO_CREDIT,
    "extra": ("scope", "period", "limit", "used", "requested", "resets_at", "limits_url"),
}
RATE_LIMITED = {
    "status": 429,
    "code": "rate_limit_exceeded",
    "anthropic": (429, "rate_limit_error"),
    "gemini": (429, "RESOURCE_EXHAUSTED"),
    "extra": ("scope", "limit", "used", "requested"),
}
UPSTREAM_FAILED = {
    "status": 502,
    "type": SERVER,
    "code": "upstream_error",
    "message": r"^The model's provider failed to answer this request\.$",
    "anthropic": (500, "api_error"),
    "gemini": (502, "UNAVAILABLE"),
}
OVERLOADED = {
    "status": 503,
    "type": SERVER,
    "code": "upstream_overloaded",
    "message": r"^The model's provider is overloaded\. Please retry\.$",
    "anthropic": (529, "overloaded_error"),
    "gemini": (503, "UNAVAILABLE"),
    "tries": 1,
}
UNAVAILABLE = {
    "status": 503,
    "type": SERVER,
    "code": "service_unavailable",
    "anthropic": (529, "overloaded_error"),
    "gemini": (503, "UNAVAILABLE"),
    "headers": {"retry-after": "1"},
}
INVALID_KEY = {
    **UNAUTHENTICATED,
    "code": "invalid_api_key",
    "message": "^Incorrect API key provided",
}
REFUSED_UPSTREAM = {"status": 400, "type": INVALID, "tries": 1, **BAD_REQUEST}
BAD = {"status": 400, "type": INVALID, **BAD_REQUEST}
REPEATED = {"type": INVALID, "param": "Idempotency-Key", "methods": ("ask",)}
OTHERS = "only Responses has such a parameter"
WIRES = tuple(sdk.wire for sdk in SDKS)


def openai_error(status: int, message: str, code: str | None = None, **more: Any) -> Script:
    error = {"message": message, "type": INVALID, "param": None, "code": code, **more}
    return answering(status, {"error": error}, **({"retry_after": "7"} if status == 429 else {}))


def google_error(status: int, word: str, *details: Any) -> Script:
    error = {"code": status, "message": "Told by Google.", "status": word, "details": details}
    return answering(status, {"error": error})


BUSY_CLAUDE = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
BAD_GOOGLE_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
GOOGLE_RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}

ROWS = (
    Row(
        "missing key",
        Situation(change=lambda request: edited(request, drop=KEY_HEADERS)),
        code=None,
        message=r"^You didn't provide an API key\..*\(i\.e\. Authorization: Bearer YOUR_KEY\)",
        **UNAUTHENTICATED,
    ),
    Row("malformed key", Situation(key="aig_nonsense"), **INVALID_KEY),
    Row("bad key", Situation(key=WRONG_KEY), **INVALID_KEY),
    Row("revoked key", Situation(key="revoked"), **INVALID_KEY),
    Row("expired key", Situation(key="expired"), **INVALID_KEY),
    Row("deleted deployment", Situation(key="deleted"), **INVALID_KEY),
    Row(
        "suspended organization",
        Situation(key="suspended"),
        status=403,
        type=INVALID,
        code="organization_suspended",
        message=r"^This organization is suspended\. Contact whoever runs this platform\.$",
        anthropic=(403, "permission_error"),
        gemini=(403, "PERMISSION_DENIED"),
    ),
    Row(
        "key used in a browser",
        Situation(
            key="browser",
            change=lambda request: edited(request, add={"origin": "https://app.example"}),
        ),
        status=403,
        type=INVALID,
        code="key_used_from_browser",
        message="used from a browser",
        anthropic=(403, "permission_error"),
        gemini=(403, "PERMISSION_DENIED"),
    ),
    Row(
        "key in the URL",
        Situation(change=lambda request: edited(request, query="key=abc", drop=KEY_HEADERS)),
        code="key_in_url",
        message="never in the URL",
        absent=dict.fromkeys(WIRES[:3], "only Google's wire has keys in URLs"),
        **BAD,
    ),
    Row(
        "model not allowed for the key",
        Situation(key="confined"),
        status=403,
        type=INVALID,
        code="model_not_allowed",
        param="model",
        message=r"^The model `gpt-4o` is not among those that this deployment may use\. ",
        anthropic=(403, "permission_error"),
        gemini=(403, "PERMISSION_DENIED"),
        extra=("scope",),
    ),
    Row(
        "unknown model",
        Situation(model="gpt-0"),
        status=404,
        type=INVALID,
        code="model_not_found",
        message=r"^The model `gpt-0` does not exist or you do not have access to it\.$",
        on={
            "responses": {
                "status": 400,
                "param": "model",
                "message": r"^The requested model 'gpt-0' does not exist\.$",
            }
        },
        **NOT_FOUND,
    ),
    Row(
        "model of another endpoint",
        Situation(model="embedder"),
        code="unsupported_endpoint",
        param="model",
        message="serves it on /v1/embeddings",
        **BAD,
    ),
    Row(
        "model without a price",
        Situation(model="unpriced"),
        status=503,
        type=SERVER,
        code="model_not_priced",
        message="has no price yet",
        anthropic=(500, "api_error"),
        gemini=(503, "UNAVAILABLE"),
        headers=NO_RETRY,
    ),
    Row(
        "model whose provider has no credential",
        Situation(model="unconfigured"),
        status=503,
        type=SERVER,
        code="provider_not_configured",
        message="is served by Elsewhere, which has no credential yet",
        anthropic=(500, "api_error"),
        gemini=(503, "UNAVAILABLE"),
        headers=NO_RETRY,
    ),
    Row(
        "out of credit",
        Situation(key="poor"),
        code=QUOTA,
        message="^You exceeded your current quota, please check your plan and billing details",
        headers=NO_RETRY,
        **NO_CREDIT,
    ),
    Row(
        "credit held by calls in flight",
        Situation(key="busy", during=call_in_flight("busy")),
        code="credit_reserved",
        message="^Calls in flight hold your remaining credit",
        headers={"retry-after": "2", **RETRY},
        **NO_CREDIT,
    ),
    Row(
        "budget used up",
        Situation(key="spendthrift"),
        message="^You exceeded your current quota, please check your plan and billing details. The "
        r"daily budget of this deployment is used up: Limit .* It resets at ",
        headers=NO_RETRY,
        code=QUOTA,
        **OVER_BUDGET,
    ),
    Row(
        "budget smaller than the call",
        Situation(key="thrifty"),
        message="^The rest of the daily budget of this deployment does not cover what this call",
        headers=NO_RETRY,
        code=QUOTA,
        **OVER_BUDGET,
    ),
    Row(
        "budget held by calls in flight",
        Situation(key="frugal", during=call_in_flight("frugal")),
        message="^Calls in flight hold the rest of the daily budget of this deployment: ",
        headers={"retry-after": "2", **RETRY},
        code="budget_reserved",
        **OVER_BUDGET,
    ),
    Row(
        "too many requests in a minute",
        Situation(key="hurried", during=spent_minute),
        type="requests",
        message=r"^Rate limit reached for requests per minute of this deployment: "
        r"Limit 1, Used 1, Requested 1\. Please try again in \d+(\.\d+)?m?s\.$",
        headers={"retry-after": r"\d\d?", "retry-after-ms": r"\d{1,5}"},
        limited="requests",
        **RATE_LIMITED,
    ),
    Row(
        "too many calls at once",
        Situation(key="eager", during=call_in_flight("eager")),
        type="requests",
        message=r"^Rate limit reached for concurrent requests of this deployment: "
        r"Limit 1, Used 1, Requested 1\. Please try again in 1s\.$",
        headers={"retry-after": "1", "retry-after-ms": "1000"},
        **RATE_LIMITED,
    ),
    Row(
        "more tokens than a minute has",
        Situation(key="hungry"),
        type="tokens",
        message=r"^Request too large for tokens per minute of this deployment: Limit 1, Used 0, ",
        headers=NO_RETRY,
        limited="tokens",
        **RATE_LIMITED,
    ),
    Row(
        "upstream 500",
        Situation(script=openai_error(500, f"boom {API_KEY}")),
        headers=RETRY,
        tries=2,
        **UPSTREAM_FAILED,
    ),
    Row(
        "upstream refuses connections",
        Situation(during=no_listener),
        headers=RETRY,
        **UPSTREAM_FAILED,
    ),
    Row(
        "upstream resets the connection",
        Situation(script=cutting),
        headers=RETRY,
        tries=2,
        **UPSTREAM_FAILED,
    ),
    Row(
        "upstream answers nonsense",
        Situation(script=answering(200, b"<html>It works!</html>")),
        headers=NO_RETRY,
        tries=1,
        methods=("ask",),
        **UPSTREAM_FAILED,
    ),
    Row(
        "upstream overloaded, OpenAI's 429",
        Situation(script=openai_error(429, "Rate limit reached in organization org-Ab12345678")),
        headers={"retry-after": "7"},
        **OVERLOADED,
    ),
    Row(
        "upstream overloaded, Anthropic's 529",
        Situation(model=CLAUDE, script=answering(529, BUSY_CLAUDE)),
        headers={"retry-after": "5"},
        **OVERLOADED,
    ),
    Row(
        "upstream overloaded, Google's 429",
        Situation(model=GEMINI, script=google_error(429, "RESOURCE_EXHAUSTED", GOOGLE_RETRY)),
        headers={"retry-after": "34"},
        **OVERLOADED,
    ),
    Row(
        "upstream overloaded, Google's 503",
        Situation(model=GEMINI, script=google_error(503, "UNAVAILABLE")),
        headers={"retry-after": "5"},
        **OVERLOADED,
    ),
    *(
        Row(
            f"upstream rejects our credential with {status}",
            Situation(script=openai_error(status, f"Incorrect API key provided: {API_KEY}")),
            headers=NO_RETRY,
            tries=1,
            **UPSTREAM_FAILED,
        )
        for status in (401, 402, 403)
    ),
    Row(
        "upstream rejects our credential with Google's 400",
        Situation(model=GEMINI, script=google_error(400, "INVALID_ARGUMENT", BAD_GOOGLE_KEY)),
        headers=NO_RETRY,
        tries=1,
        **UPSTREAM_FAILED,
    ),
    Row(
        "upstream rejects the request",
        Situation(script=openai_error(400, f"No. {API_KEY}", param="messages[0].role")),
        code=None,
        param="messages[0].role",
        message=r"^No\. \[redacted\]$",
        **REFUSED_UPSTREAM,
    ),
    Row(
        "context too long",
        Situation(
            script=openai_error(
                400,
                "This model's maximum context length is 8 tokens.",
                "context_length_exceeded",
                param="messages",
            )
        ),
        code="context_length_exceeded",
        param="messages",
        message="maximum context length is 8 tokens",
        **REFUSED_UPSTREAM,
    ),
    Row(
        "content policy",
        Situation(script=openai_error(400, "Rejected by our content policy.", "content_filter")),
        code="content_policy_violation",
        message="content policy",
        **REFUSED_UPSTREAM,
    ),
    Row(
        "upstream times out",
        Situation(script=silent, during=impatience),
        status=504,
        type=SERVER,
        code="upstream_timeout",
        message=r"^The model's provider did not answer in time\.$",
        anthropic=(504, "timeout_error"),
        gemini=(504, "DEADLINE_EXCEEDED"),
        headers=NO_RETRY,
        tries=1,
    ),
    Row(
        "body too large",
        Situation(change=huge),
        status=413,
        type=INVALID,
        code="request_too_large",
        message=r"^Maximum content size limit \(20971520\) exceeded \(20971522 bytes read\)$",
        anthropic=(413, "request_too_large"),
        gemini=(413, "INVALID_ARGUMENT"),
        headers={"connection": "close"},
        methods=("ask",),
    ),
    Row(
        "body that does not arrive",
        Situation(during=slow_body),
        status=408,
        type=INVALID,
        code="request_timeout",
        message=r"^The request body did not arrive in time\.$",
        anthropic=(408, "timeout_error"),
        gemini=(408, "DEADLINE_EXCEEDED"),
        headers={"connection": "close"},
    ),
    Row(
        "compressed body",
        Situation(change=lambda request: edited(request, add={"content-encoding": "gzip"})),
        status=415,
        type=INVALID,
        code="unsupported_encoding",
        message=r"^Send the body without Content-Encoding\.$",
        anthropic=(415, INVALID),
        gemini=(415, "INVALID_ARGUMENT"),
    ),
    Row(
        "invalid JSON",
        Situation(change=lambda request: edited(request, content=b'{"model": ')),
        code=None,
        message=r"^We could not parse the JSON body of your request\. \(HINT: ",
        **BAD,
    ),
    Row(
        "parameter of the wrong type",
        Situation(change=members(messages=5, input=5, contents=5)),
        code="invalid_type",
        param="messages",
        message="^Invalid type for 'messages': expected an array of objects, but got an integer",
        on={
            "responses": {"param": "input", "message": "^Invalid type for 'input': "},
            "anthropic": {"message": "^messages: Input should be a valid list$"},
            "gemini": {"param": "contents", "message": "^Invalid type for 'contents': "},
        },
        **BAD,
    ),
    Row(
        "missing parameter",
        Situation(change=members(messages=None, input=None, contents=None)),
        code="missing_required_parameter",
        param="messages",
        message=r"^Missing required parameter: 'messages'\.$",
        on={
            "responses": {"param": "input", "message": "^Missing required parameter: 'input'"},
            "anthropic": {"message": "^messages: Field required$"},
            "gemini": {"param": "contents", "message": "^Missing required parameter: 'contents'"},
        },
        **BAD,
    ),
    Row(
        "unsupported parameter",
        Situation(
            model=CODEX,
            change=by_wire(
                chat={"stop": ["x"]},
                responses={"background": True},
                anthropic={"stop_sequences": ["x"]},
                gemini={"generationConfig": {"stopSequences": ["x"]}},
            ),
        ),
        code="unsupported_parameter",
        param="stop",
        message="^This model cannot stop at given texts",
        on={
            "responses": {"param": "background", "message": "not made in the background"},
            "gemini": {"param": "generationConfig.stopSequences"},
        },
        **BAD,
    ),
    Row(
        "unsupported value",
        Situation(
            model=CLAUDE,
            change=by_wire(
                chat={"n": 3},
                responses={"top_logprobs": 3},
                anthropic={"container": "container_1"},
                gemini={"generationConfig": {"candidateCount": 3}},
            ),
        ),
        code="unsupported_value",
        param="n",
        message="^'n' is not offered by this model's provider",
        on={
            "responses": {"param": "top_logprobs", "message": "^'top_logprobs' is not offered"},
            "anthropic": {"message": "^'container' is not offered here"},
            "gemini": {
                "param": "generationConfig.candidateCount",
                "message": "^'generationConfig.candidateCount' is not offered",
            },
        },
        **BAD,
    ),
    Row(
        "unknown path",
        Situation(change=elsewhere),
        status=404,
        type=INVALID,
        code=None,
        message=r"^Invalid URL \(POST /api/ai/v1/xyz\)$",
        on={"gemini": {"message": r"^Invalid URL \(POST /api/ai/v1beta/xyz\)$"}},
        **NOT_FOUND,
    ),
    Row(
        "wrong method",
        Situation(change=lambda request: edited(request, method="PUT")),
        status=405,
        type=INVALID,
        code="method_not_supported",
        message=r"^Only POST requests are accepted\.$",
        anthropic=(405, INVALID),
        gemini=(405, "INVALID_ARGUMENT"),
        headers={"allow": "POST"},
    ),
    Row(
        "unknown item_reference",
        Situation(change=members(input=[{"type": "item_reference", "id": "rs_1"}])),
        status=404,
        type=INVALID,
        code=None,
        param="input",
        message=r"^Item with id 'rs_1' not found\. Items are not persisted when `store` is set to",
        absent=dict.fromkeys(("chat", "anthropic", "gemini"), OTHERS),
        **NOT_FOUND,
    ),
    Row(
        "unknown previous_response_id",
        Situation(change=members(previous_response_id="resp_1")),
        status=404,
        type=INVALID,
        code="previous_response_not_found",
        param="previous_response_id",
        message=r"^Previous response with id 'resp_1' not found\.$",
        absent=dict.fromkeys(("chat", "anthropic", "gemini"), OTHERS),
        **NOT_FOUND,
    ),
    Row(
        "Idempotency-Key on a stream",
        Situation(change=lambda request: edited(request, add={"idempotency-key": "order-1"})),
        code="idempotency_not_supported",
        param="Idempotency-Key",
        message=r"^A streaming call cannot be replayed\. Leave out the Idempotency-Key header, or ",
        methods=("stream",),
        **BAD,
    ),
    Row(
        "Idempotency-Key that is none",
        Situation(change=lambda request: edited(request, add={"idempotency-key": "order 1"})),
        code="idempotency_key_invalid",
        param="Idempotency-Key",
        message="^An Idempotency-Key has 1 to 255 visible ASCII characters, none a space",
        methods=("ask",),
        **BAD,
    ),
    Row(
        "Idempotency-Key of another call",
        Situation(during=key_of_another_call),
        status=422,
        code="idempotency_key_reused",
        message=r"^This Idempotency-Key was used for another request\. Use a new key for every ",
        anthropic=(422, INVALID),
        gemini=(422, "INVALID_ARGUMENT"),
        **REPEATED,
    ),
    Row(
        "Idempotency-Key of a call in progress",
        Situation(during=key_of_a_call_in_progress),
        status=409,
        code="idempotency_in_progress",
        message="^A request with this Idempotency-Key is in progress",
        anthropic=(409, INVALID),
        gemini=(409, "ABORTED"),
        headers={"retry-after": "2", **RETRY},
        **REPEATED,
    ),
    Row(
        "Idempotency-Key of a call whose answer was too large to keep",
        Situation(during=key_of_a_call_whose_answer_was_too_large),
        status=409,
        code="idempotent_answer_not_kept",
        message="was carried out, but its answer was too large to keep",
        anthropic=(409, INVALID),
        gemini=(409, "ABORTED"),
        headers=NO_RETRY,
        **REPEATED,
    ),
    Row(
        "Idempotency-Key of a call whose answer was lost",
        Situation(during=key_of_a_call_whose_answer_was_lost),
        status=409,
        code="idempotent_answer_lost",
        message=r"^The first call with this Idempotency-Key \(request id req_\w+\) was made and",
        anthropic=(409, INVALID),
        gemini=(409, "ABORTED"),
        headers=NO_RETRY,
        extra=("request_id",),
        **REPEATED,
    ),
    Row(
        "gateway bug",
        Situation(during=bug),
        status=500,
        type=SERVER,
        code=None,
        message=r"^The server had an error while processing .* \(request id req_\w+\)$",
        anthropic=(500, "api_error"),
        gemini=(500, "INTERNAL"),
    ),
    Row("draining", Situation(address="drained"), message="not ready", **UNAVAILABLE),
    Row(
        "database down",
        Situation(key=WRONG_KEY, address="lost"),
        message="not ready",
        **UNAVAILABLE,
    ),
    Row(
        "ledger out of reach",
        Situation(during=locked_ledger),
        message="^Billing is not available right now",
        **UNAVAILABLE,
    ),
)


# --- the test --------------------------------------------------------------------------------


CELLS = [(row, sdk) for row in ROWS for sdk in SDKS if sdk.wire not in row.absent]


@pytest.mark.parametrize(
    ("row", "kind"), CELLS, ids=[f"{row.name}-{sdk.name}" for row, sdk in CELLS]
)
def test_every_row_is_heard_as_the_sdks_own_exception(
    stage: Stage, request: pytest.FixtureRequest, row: Row, kind: type[Sdk]
) -> None:
    expected = row.on_wire(kind.wire)
    sdk = stage.sdk(kind, _address(stage, request, row), retries=0 if row.may_pass else 2)
    upstream, transport = stage.served.upstream, stage.transport
    for method in row.methods:
        stage.ask = partial(_whole, sdk, method, row.situation.model)
        with stage.enter(row.situation):
            sent, tried, made = transport.sent, len(upstream.asked), UsageRecord.objects.count()
            with pytest.raises(kind.base) as caught:
                stage.ask()
            records = UsageRecord.objects.order_by("call_id")[made:]
            # A call that got as far as a provider leaves one record and costs nothing.
            assert [record.cost_nanos for record in records] == [0] * row.is_recorded
        # The class itself, not one below it; and no SDK asks again where that cannot help.
        assert type(caught.value) is kind.raises[expected["status"]]
        assert transport.sent == sent + 1
        assert len(upstream.asked) == tried + row.tries
        check(sdk.hear(caught.value), kind.wire, expected)


def _address(stage: Stage, request: pytest.FixtureRequest, row: Row) -> str:
    """Whom the row's calls go to."""
    addresses = {"url": stage.served.url, "drained": stage.served.drained_url}
    address = addresses.get(row.situation.address)
    return str(address or request.getfixturevalue("lost"))


def _whole(sdk: Sdk, method: str, model: str) -> None:
    """One call to its end."""
    list(getattr(sdk, method)(model))


def check(heard: Heard, wire: str, expected: dict[str, Any]) -> None:
    """The answer is what the table says, member by member and header by header."""
    assert heard.status == expected["status"]
    assert heard.headers["content-type"] == "application/json"
    assert heard.headers["x-request-id"].startswith("req_")
    telling = {name: value for name, value in heard.headers.items() if TELLING.fullmatch(name)}
    assert set(telling) == set(expected["headers"])
    for name, pattern in expected["headers"].items():
        assert re.fullmatch(pattern, telling[name]), (name, telling[name])
    if kind := expected["limited"]:
        told = {f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset")}
        if wire == "anthropic":
            told |= {
                f"anthropic-ratelimit-{kind}-{what}" for what in ("limit", "remaining", "reset")
            }
        assert told <= set(heard.headers)
    error = heard.body["error"]
    assert re.search(expected["message"], error["message"]), error["message"]
    assert API_KEY not in json.dumps(heard.body)
    SHAPES[wire](heard, error, expected)


def check_openai(heard: Heard, error: Any, expected: dict[str, Any]) -> None:
    assert list(heard.body) == ["error"]
    assert set(error) == {"message", "type", "param", "code", *expected["extra"]}
    for name in ("type", "code", "param"):
        assert error[name] == expected[name], name


def check_anthropic(heard: Heard, error: Any, expected: dict[str, Any]) -> None:
    assert heard.body == {
        "type": "error",
        "error": {"type": expected["type"], "message": error["message"]},
        "request_id": heard.headers["x-request-id"],
    }


def check_gemini(heard: Heard, error: Any, expected: dict[str, Any]) -> None:
    assert list(heard.body) == ["error"]
    assert (error["code"], error["status"]) == (heard.status, expected["type"])
    details = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
    if expected["code"]:
        assert details["ErrorInfo"]["reason"] == expected["code"].upper()
    assert details["ErrorInfo"]["metadata"].get("param") == expected["param"]
    assert set(expected["extra"]) <= set(details["ErrorInfo"]["metadata"])
    assert details["RequestInfo"]["requestId"] == heard.headers["x-request-id"]
    seconds = heard.headers.get("retry-after")
    assert details.get("RetryInfo", {}).get("retryDelay") == (f"{seconds}s" if seconds else None)


SHAPES = {
    "chat": check_openai,
    "responses": check_openai,
    "anthropic": check_anthropic,
    "gemini": check_gemini,
}


@pytest.mark.parametrize("kind", SDKS, ids=[sdk.name for sdk in SDKS])
def test_nobody_learns_why_a_key_does_not_work(stage: Stage, kind: type[Sdk]) -> None:
    sdk = stage.sdk(kind, stage.served.url, retries=2)
    heard = set()
    for key in (WRONG_KEY, "revoked", "expired", "deleted"):
        with stage.enter(Situation(key=key)), pytest.raises(kind.base) as caught:
            sdk.ask(GPT)
        answer = sdk.hear(caught.value)
        private = {"date", "content-length", "x-request-id"}
        headers = sorted(set(answer.headers.items()) - {(n, answer.headers[n]) for n in private})
        body = json.dumps(answer.body).replace(answer.headers["x-request-id"], "")
        masked = re.sub(r"provided: aig_\w{2,4}-?\w*\*{4}\w{4}\.", "", body)
        assert masked != body
        heard.add((answer.status, str(headers), masked))
    assert len(heard) == 1


# --- endpoints that only some SDKs have ------------------------------------------------------

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
HELLO = "Hi"
# What each asks for, with the SDK it belongs to.
ENDPOINTS: dict[str, tuple[type[Sdk], Callable[[Any, str], Any]]] = {
    "openai: a model": (SDKS[0], lambda client, model: client.models.retrieve(model)),
    "openai: embeddings": (
        SDKS[0],
        lambda client, model: client.embeddings.create(model=model, input=HELLO),
    ),
    "anthropic: a model": (SDKS[2], lambda client, model: client.models.retrieve(model)),
    "anthropic: counting": (
        SDKS[2],
        lambda client, model: client.messages.count_tokens(model=model, messages=MESSAGES),
    ),
    "genai: a model": (SDKS[3], lambda client, model: client.models.get(model=model)),
    "genai: counting": (
        SDKS[3],
        lambda client, model: client.models.count_tokens(model=model, contents=HELLO),
    ),
}
# The rows that every endpoint which names a model has, by name: the model that is asked for.
EVERYWHERE = {
    "missing key": GPT,
    "bad key": GPT,
    "revoked key": GPT,
    "key used in a browser": GPT,
    "model not allowed for the key": GPT,
    "unknown model": "gpt-0",
    "draining": GPT,
    "database down": GPT,
}
BY_NAME = {row.name: row for row in ROWS}


# OpenAI's and Google's clients share this path: whose they are is told by the header of their key.
UNTOLD = ("genai: a model", "missing key")


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [pair for pair in itertools.product(ENDPOINTS, EVERYWHERE) if pair != UNTOLD],
)
def test_other_endpoints_refuse_in_the_same_words(
    stage: Stage, request: pytest.FixtureRequest, endpoint: str, name: str
) -> None:
    (kind, call), row = ENDPOINTS[endpoint], BY_NAME[name]
    expected = row.on_wire(kind.wire)
    sdk: Any = stage.sdk(kind, _address(stage, request, row), retries=0 if row.may_pass else 2)
    with stage.enter(row.situation), pytest.raises(kind.base) as caught:
        call(sdk.client, EVERYWHERE[name])
    assert type(caught.value) is kind.raises[expected["status"]]
    check(sdk.hear(caught.value), kind.wire, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.responses.retrieve("resp_1"), "Response with id 'resp_1' not found"),
        (lambda client: client.responses.delete("resp_1"), "Response with id 'resp_1' not found"),
        (
            lambda client: client.responses.input_items.list("resp_1"),
            "Response with id 'resp_1' not found",
        ),
    ],
    ids=["retrieve", "delete", "input items"],
)
def test_a_response_that_is_not_kept_is_a_404_of_openais_sdk(
    stage: Stage, call: Callable[[Any], Any], message: str
) -> None:
    sdk: Any = stage.sdk(SDKS[1], stage.served.url, retries=2)
    with stage.enter(Situation()), pytest.raises(openai.NotFoundError) as caught:
        call(sdk.client)
    expected = {
        "status": 404,
        "type": INVALID,
        "code": None,
        "param": None,
        "message": message,
        "headers": {},
        "extra": (),
        "limited": "",
    }
    check(sdk.hear(caught.value), "responses", expected)


def test_embeddings_on_googles_wire_are_a_400_of_its_sdk(stage: Stage) -> None:
    sdk: Any = stage.sdk(SDKS[3], stage.served.url, retries=2)
    with stage.enter(Situation()), pytest.raises(genai_errors.ClientError) as caught:
        sdk.client.models.embed_content(model="embedder", contents=HELLO)
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert "POST them in OpenAI's shape to /api/ai/v1/embeddings" in caught.value.message


# --- streams that have begun -----------------------------------------------------------------

# Held in steps of 2,048 tokens at a hundred-thousandth of a dollar: enough for one, not for two.
ONE_SLICE = 30 * DOLLAR // 1000
QUOTA_MESSAGE = "You exceeded your current quota, please check your plan and billing details."


async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
    """A stream of more tokens than a slice has."""
    choice = {"index": 0, "delta": {"content": "x "}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": GPT, "choices": [choice]}
    message = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    writer.write(STREAM_HEAD)
    for _ in range(100):
        writer.write(framed(message * 50))
        await asyncio.sleep(0.001)  # so that the gateway reads it before more comes


def openai_quota(error: Any) -> None:
    assert type(error) is openai.APIError
    assert (error.type, error.code, error.message) == (QUOTA, QUOTA, QUOTA_MESSAGE)


def anthropic_quota(error: Any) -> None:
    assert type(error) is anthropic.APIStatusError
    said = {"type": "rate_limit_error", "message": QUOTA_MESSAGE}
    assert error.body == {"type": "error", "error": said}


def gemini_quota(error: Any) -> None:
    assert type(error) is genai_errors.ClientError
    assert (error.code, error.status) == (429, "RESOURCE_EXHAUSTED")
    assert error.message == QUOTA_MESSAGE


QUOTAS = {
    "chat": openai_quota,
    "responses": openai_quota,
    "anthropic": anthropic_quota,
    "gemini": gemini_quota,
}


@pytest.mark.parametrize("kind", SDKS, ids=[sdk.name for sdk in SDKS])
def test_credit_that_runs_out_in_the_middle_of_a_stream_is_an_exception(
    stage: Stage, kind: type[Sdk]
) -> None:
    tenant = make_tenant(dollars=0)
    ledger.grant(
        tenant.organization,
        ONE_SLICE,
        reason="test",
        idempotency_key="grant",
        at=timezone.now(),
    )
    sdk, pieces = stage.sdk(kind, stage.served.url, retries=2), list[Any]()
    with stage.enter(Situation(key=tenant.key, script=endless)):
        sent = stage.transport.sent
        with pytest.raises(kind.base) as caught:
            pieces.extend(sdk.stream(GPT))
    QUOTAS[kind.wire](caught.value)
    assert stage.transport.sent == sent + 1
    assert len(pieces) > 1000  # what the client got before is part of the answer, and billed
    record = UsageRecord.objects.get(organization=tenant.organization)
    assert (record.status, record.error_code) == (UsageRecord.Status.CREDIT_CUT, QUOTA)
    assert 0 < record.cost_nanos <= ONE_SLICE
