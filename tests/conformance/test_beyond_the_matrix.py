"""What single clients do beyond what all of them do: their own helpers, lists and kept answers."""

from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from tests.conformance.cells import MODELS, Gateway, weather

pytestmark = pytest.mark.conformance

ABLE = [model for model in MODELS if model != "smollm2-135m"]
STEPS = '[[reason]] [[tool get_weather {"city": "Paris"}]] [[then]] [[say Sunny there.]]'


def get_weather(city: str) -> str:
    """Weather."""
    return weather(city)


@pytest.fixture(scope="module")
def google(gateway: Gateway) -> Any:
    options = types.HttpOptions(base_url=gateway.url, api_version="v1beta", timeout=60_000)
    return genai.Client(api_key=gateway.key, http_options=options)


@pytest.fixture(scope="module")
def messages(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0)


@pytest.fixture(scope="module")
def responses(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)


@pytest.mark.parametrize("model", ABLE)
def test_googles_chats_call_functions_by_themselves(google: Any, model: str) -> None:
    config = types.GenerateContentConfig(tools=[get_weather])
    chat = google.chats.create(model=model, config=config)
    assert chat.send_message(STEPS).text == "Sunny there."
    streamed = chat.send_message_stream(STEPS)
    assert "".join(chunk.text or "" for chunk in streamed) == "Sunny there."
    assert chat.send_message("[[say Bye.]]").text == "Bye."


@pytest.mark.parametrize("model", ABLE)
def test_anthropics_betas_are_understood_or_left_out(
    messages: anthropic.Anthropic, model: str
) -> None:
    answer = messages.beta.messages.create(
        model=model,
        max_tokens=100,
        messages=[{"role": "user", "content": "[[say Hello.]]"}],
        betas=["context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
    )
    assert [block.text for block in answer.content if block.type == "text"] == ["Hello."]


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_counted_for_every_model(messages: anthropic.Anthropic, model: str) -> None:
    counted = messages.messages.count_tokens(
        model=model, messages=[{"role": "user", "content": "Hello."}]
    )
    assert counted.input_tokens > 0


def test_every_client_lists_and_shows_models(
    google: Any, messages: anthropic.Anthropic, responses: openai.OpenAI
) -> None:
    assert set(MODELS) <= {model.id for model in responses.models.list()}
    assert set(MODELS) <= {model.id for model in messages.models.list()}
    assert {f"models/{name}" for name in MODELS} <= {one.name for one in google.models.list()}
    for name in MODELS:
        assert responses.models.retrieve(name).id == name
        assert messages.models.retrieve(name).id == name
        assert google.models.get(model=name).name == f"models/{name}"


@pytest.mark.parametrize("model", ABLE)
def test_answers_are_kept_read_and_deleted(responses: openai.OpenAI, model: str) -> None:
    made = responses.responses.create(model=model, input="[[say Hello.]]", metadata={"a": "b"})
    read = responses.responses.retrieve(made.id)
    assert (read.output_text, read.metadata) == ("Hello.", {"a": "b"})
    asked = responses.responses.input_items.list(made.id).data
    assert [item.content[0].text for item in asked] == ["[[say Hello.]]"]
    more = responses.responses.create(
        model=model, input="[[say Again.]]", previous_response_id=made.id
    )
    assert more.output_text == "Again."
    responses.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        responses.responses.retrieve(made.id)
