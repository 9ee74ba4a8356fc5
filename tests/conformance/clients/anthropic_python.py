"""anthropic-python: messages, its stream helper, thinking, and parsing."""

from typing import Any

import anthropic

from tests.conformance.cells import WEATHER_SCHEMA, Answer, Gateway, Question, Weather, weather

STEPS_MAX = 4
TOKENS = 2000
BUDGETS = {"low": 1024, "high": 1500}


class Messages:
    """`client.messages`."""

    name = "anthropic-python"
    package = "anthropic"
    limits: dict[str, str] = {}
    errors: dict[str, type[Exception]] = {
        "unknown model": anthropic.NotFoundError,
        "wrong key": anthropic.AuthenticationError,
        "no credit": anthropic.RateLimitError,
    }
    length_word = "max_tokens"
    shows_reasoning = True

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        self.client = anthropic.Anthropic(
            base_url=gateway.url, api_key=key or gateway.key, max_retries=0, timeout=60
        )

    def ask(self, question: Question) -> Answer:
        return _answer(
            self.client.messages.create(**_options(question), messages=[_message(question)])
        )

    def stream(self, question: Question) -> Answer:
        return self._stream(question, [_message(question)])[0]

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        messages: list[Any] = [_message(question)]
        answers: list[Answer] = []
        for _ in range(STEPS_MAX):
            if is_stream:
                answer, message = self._stream(question, messages)
            else:
                message = self.client.messages.create(**_options(question), messages=messages)
                answer = _answer(message)
            answers.append(answer)
            if message.stop_reason != "tool_use":
                break
            messages.append({"role": "assistant", "content": message.content})
            messages.append({"role": "user", "content": _results(message)})
        return answers

    def parse(self, question: Question) -> Any:
        return self.client.messages.parse(
            **_options(question), messages=[_message(question)], output_format=Weather
        ).parsed_output

    def leave(self, question: Question) -> None:
        with self.client.messages.stream(
            **_options(question), messages=[_message(question)]
        ) as stream:
            for _ in stream.text_stream:
                return

    def _stream(self, question: Question, messages: list[Any]) -> tuple[Answer, Any]:
        pieces = 0
        with self.client.messages.stream(**_options(question), messages=messages) as stream:
            for event in stream:
                pieces += event.type == "text"
            final = stream.get_final_message()
        answer = _answer(final)
        answer.pieces = pieces
        return answer, final


def _message(question: Question) -> Any:
    content: list[Any] = [{"type": "text", "text": question.prompt}]
    if question.image:
        head, _, data = question.image.partition(",")
        media_type = head.removeprefix("data:").removesuffix(";base64")
        source = {"type": "base64", "media_type": media_type, "data": data}
        content.insert(0, {"type": "image", "source": source})
    return {"role": "user", "content": content}


def _options(question: Question) -> dict[str, Any]:
    options: dict[str, Any] = {
        "model": question.model,
        "max_tokens": question.tokens_max or TOKENS,
    }
    if question.effort:
        budget = BUDGETS[question.effort]
        options["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if question.uses_tools:
        tool = {"name": "get_weather", "description": "Weather.", "input_schema": WEATHER_SCHEMA}
        options["tools"] = [tool]
    return options


def _results(message: Any) -> list[Any]:
    return [
        {"type": "tool_result", "tool_use_id": block.id, "content": weather(**block.input)}
        for block in message.content
        if block.type == "tool_use"
    ]


def _answer(message: Any) -> Answer:
    usage = message.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Answer(
        text="".join(block.text for block in message.content if block.type == "text"),
        finish=message.stop_reason,
        input_tokens=usage.input_tokens + cached,
        output_tokens=usage.output_tokens,
        calls=[(block.name, block.input) for block in message.content if block.type == "tool_use"],
        reasoning="".join(block.thinking for block in message.content if block.type == "thinking"),
    )
