"""What OpenAI's models take, by name."""

from contextlib import nullcontext
from typing import Any

import pytest

from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import Target
from gateway.dialects.openai_models import effort
from gateway.generation import GenerationRequest, OutputFormat, Parameters, Text, Turn
from gateway.refusals import Refusal
from gateway.standin import strict_openai, strict_responses
from gateway.standin.rejections import Asked, apply


@pytest.mark.parametrize(
    ("model", "asked", "written"),
    [
        ("gpt-5.2-codex", "none", "low"),
        ("gpt-5.2-codex", "minimal", "low"),
        ("gpt-5.2-codex", "max", "xhigh"),
        ("openai/gpt-5.1-codex-mini", "xhigh", "high"),
        ("gpt-5.1-codex-max", "xhigh", "xhigh"),
        ("gpt-5", "none", "minimal"),
        ("gpt-5-mini-2025-08-07", "xhigh", "high"),
        ("gpt-5.1", "minimal", "low"),
        ("gpt-5.2-2025-12-11", "none", "none"),
        ("gpt-5.4-mini", "max", "xhigh"),
        ("o4-mini", "minimal", "low"),
        ("gpt-5.6", "max", "max"),
        ("deepseek-reasoner", "none", "none"),
        ("gpt-5.2-codex", "enormous", "enormous"),
        ("gpt-5.2-codex", None, None),
    ],
)
def test_an_effort_is_one_the_model_has(model: str, asked: str | None, written: str | None) -> None:
    assert effort(model, asked) == written


def test_a_client_that_wants_no_thinking_is_not_refused_by_a_model_that_always_thinks() -> None:
    request = GenerationRequest(
        "m",
        (Turn("user", (Text("Hi"),)),),
        parameters=Parameters(reasoning_effort="none", temperature=0.5),
    )
    body = UPSTREAM_DIALECTS["openai_responses"].write_request(
        request, Target("gpt-5.2-codex", 100)
    )
    assert body["reasoning"] == {"effort": "low"}
    assert "temperature" not in body, "it reasons, so it does not sample"


@pytest.mark.parametrize(
    ("wire", "model", "member"),
    [("openai_chat", "gpt-4o", "messages"), ("openai_responses", "gpt-5.2-codex", "input")],
)
def test_json_is_named_where_openai_wants_it_named(wire: str, model: str, member: str) -> None:
    """Google's clients ask for it by media type, and need not say the word."""

    def asked(text: str, model: str = model, kind: str = "json_object") -> list[str]:
        request = GenerationRequest(
            "m",
            (Turn("user", (Text(text),)),),
            output_format=OutputFormat(kind, "n", {}),  # type: ignore[arg-type]
        )
        body = UPSTREAM_DIALECTS[wire].write_request(request, Target(model, 100))
        return [message["role"] for message in body[member]]

    assert asked("List three cities.") == ["system", "user"]
    assert asked("List three cities as JSON.") == ["user"]
    assert asked("List three cities.", kind="json_schema") == ["user"]
    assert asked("List three cities.", model="llama-4") == ["user"]


@pytest.mark.parametrize(
    ("wire", "model", "is_refused"),
    [
        ("openai_chat", "gpt-4o", True),
        ("openai_responses", "gpt-5.2-codex", True),
        ("openai_chat", "llama-4", False),
        ("anthropic", "claude-haiku-4-5", False),
        ("gemini", "gemini-3-flash-preview", False),
    ],
)
def test_an_answer_that_anthropics_client_began_is_gone_on_with_or_refused(
    wire: str, model: str, is_refused: bool
) -> None:
    """OpenAI's models begin anew: the client would put two beginnings together."""
    messages = [{"role": "user", "content": "A poem."}, {"role": "assistant", "content": "Roses"}]
    body = {"model": "m", "max_tokens": 100, "messages": messages}
    request = CLIENT_DIALECTS["anthropic"].read_request(body)
    with pytest.raises(Refusal) if is_refused else nullcontext() as refused:
        UPSTREAM_DIALECTS[wire].write_request(request, Target(model, 100))
    assert refused is None or refused.value.param == "messages"
    body["messages"] = messages[:1]
    request = CLIENT_DIALECTS["anthropic"].read_request(body)
    UPSTREAM_DIALECTS[wire].write_request(request, Target(model, 100))


def test_what_a_model_that_reasons_cannot_tell_is_refused() -> None:
    """OpenAI refuses it, too; left out, a client would wait for it in vain."""
    asked = {"generationConfig": {"responseLogprobs": True}}
    contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
    body = {"model": "m", "contents": contents, **asked}
    request = CLIENT_DIALECTS["gemini"].read_request(body)
    with pytest.raises(Refusal) as refused:
        UPSTREAM_DIALECTS["openai_chat"].write_request(request, Target("gpt-5", 100))
    assert refused.value.param == "logprobs"
    UPSTREAM_DIALECTS["openai_chat"].write_request(request, Target("gpt-4o", 100))


@pytest.mark.parametrize(
    ("wire", "model", "rules"),
    [
        ("openai_chat", "gpt-4o", strict_openai.RULES),
        ("openai_responses", "gpt-5", strict_responses.RULES),
    ],
)
def test_a_users_long_id_is_told_as_its_digest(wire: str, model: str, rules: Any) -> None:
    """Claude Code sends a JSON object of three ids."""

    def asked(user_id: str) -> Any:
        body = {
            "model": "m",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "Hi"}],
            "metadata": {"user_id": user_id},
        }
        request = CLIENT_DIALECTS["anthropic"].read_request(body)
        written = UPSTREAM_DIALECTS[wire].write_request(request, Target(model, 100))
        apply(rules, Asked({}, written, model))
        return written["user"]

    assert asked("u" * 64) == "u" * 64
    first, second = asked("u" * 65), asked("v" * 200)
    assert first != second
    assert first == asked("u" * 65)
