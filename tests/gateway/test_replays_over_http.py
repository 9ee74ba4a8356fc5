"""The official SDKs send a call with an Idempotency-Key twice, and it is made once."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.conftest import Tenant, make_tenant
from tests.gateway.served import Asked, Served, answering

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Once."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
}
Ask = Callable[[str], str]


@pytest.fixture(scope="module")
def tenant(served: Served) -> Tenant:
    return make_tenant()


def openais(served: Served, key: str) -> Ask:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=5)

    def ask(idempotency_key: str) -> str:
        answer = client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers={"Idempotency-Key": idempotency_key},
        )
        return str(answer.choices[0].message.content)

    return ask


def anthropics(served: Served, key: str) -> Ask:
    client = anthropic.Anthropic(base_url=served.url, api_key=key, max_retries=5)

    def ask(idempotency_key: str) -> str:
        answer: Any = client.messages.create(
            model="gpt-4o",
            max_tokens=64,
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers={"Idempotency-Key": idempotency_key},
        )
        return str(answer.content[0].text)

    return ask


@pytest.fixture(params=[openais, anthropics])
def ask(request: pytest.FixtureRequest, served: Served, tenant: Tenant) -> Ask:
    served.upstream.asked.clear()
    made: Ask = request.param(served, tenant.key)
    return made


def test_a_call_repeated_while_the_first_runs_waits_for_its_answer(
    ask: Ask, served: Served, request: pytest.FixtureRequest
) -> None:
    """The SDK takes the 409 for what it is: it waits, as it is told, and asks again."""
    goes_on = asyncio.Event()

    async def slow(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        await answering(200, ANSWER)(asked, writer)

    served.upstream.script = slow
    key = request.node.name
    said: list[str] = []
    calls = [threading.Thread(target=lambda: said.append(ask(key))) for _ in range(2)]
    for call in calls:
        call.start()
    # Long enough for both to have come; were it not, the second would be answered at once.
    calls[0].join(timeout=0.5)
    served.loop.call_soon_threadsafe(goes_on.set)
    for call in calls:
        call.join()
    assert said == ["Once.", "Once."]
    assert len(served.upstream.asked) == 1


def test_a_key_used_for_another_call_is_an_error_of_the_sdks_own(
    served: Served, tenant: Tenant
) -> None:
    served.upstream.script = answering(200, ANSWER)
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=tenant.key, max_retries=0)

    def say(content: str) -> Any:
        return client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": content}],
            extra_headers={"Idempotency-Key": "reused"},
        )

    say("one")
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        say("two")
    assert caught.value.code == "idempotency_key_reused"
