"""openai-python: chat completions and responses, whole, by stream helper, and parsed."""

import json
from typing import Any

import openai

from tests.conformance.cells import (
    WEATHER_SCHEMA,
    Answer,
    Gateway,
    Question,
    Weather,
    weather,
)

STEPS_MAX = 4
# What the stream helper adds to a message; OpenAI refuses members it does not know.
HELPERS_OWN: Any = {
    "parsed": True,
    "tool_calls": {"__all__": {"index": True, "function": {"parsed_arguments"}}},
}
ERRORS: dict[str, type[Exception]] = {
    "unknown model": openai.NotFoundError,
    "wrong key": openai.AuthenticationError,
    "no credit": openai.RateLimitError,
}


class Chat:
    """`client.chat.completions`."""

    name = "openai-python, chat completions"
    package = "openai"
    limits: dict[str, str] = {}
    errors = ERRORS
    length_word = "length"
    shows_reasoning = True

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        self.client = openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=key or gateway.key, max_retries=0, timeout=60
        )

    def ask(self, question: Question) -> Answer:
        return self._ask(question, [_chat_message(question)])[0]

    def stream(self, question: Question) -> Answer:
        return self._stream(question, [_chat_message(question)])[0]

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        messages: list[Any] = [_chat_message(question)]
        answers: list[Answer] = []
        for _ in range(STEPS_MAX):
            call = self._stream if is_stream else self._ask
            answer, message = call(question, messages)
            answers.append(answer)
            if not message.tool_calls:
                break
            messages.append(message.model_dump(exclude_none=True, exclude=HELPERS_OWN))
            for made in message.tool_calls:
                found = weather(**json.loads(made.function.arguments))
                messages.append({"role": "tool", "tool_call_id": made.id, "content": found})
        return answers

    def parse(self, question: Question) -> Any:
        answer = self.client.chat.completions.parse(
            model=question.model,
            messages=[_chat_message(question)],
            response_format=Weather,
        )
        return answer.choices[0].message.parsed

    def leave(self, question: Question) -> None:
        with self.client.chat.completions.create(
            **_chat_options(question), messages=[_chat_message(question)], stream=True
        ) as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    return

    def _ask(self, question: Question, messages: list[Any]) -> tuple[Answer, Any]:
        answer = self.client.chat.completions.create(**_chat_options(question), messages=messages)
        return _chat_answer(answer), answer.choices[0].message

    def _stream(self, question: Question, messages: list[Any]) -> tuple[Answer, Any]:
        pieces = 0
        with self.client.chat.completions.stream(
            **_chat_options(question),
            messages=messages,
            stream_options={"include_usage": True},
        ) as stream:
            try:
                for event in stream:
                    pieces += event.type == "content.delta"
                final: Any = stream.get_final_completion()
            except openai.LengthFinishReasonError as error:  # the helper's word for it
                final = error.completion
        answer = _chat_answer(final)
        answer.pieces = pieces
        return answer, final.choices[0].message


def _chat_message(question: Question) -> Any:
    if not question.image:
        return {"role": "user", "content": question.prompt}
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": question.prompt},
            {"type": "image_url", "image_url": {"url": question.image}},
        ],
    }


def _chat_options(question: Question) -> dict[str, Any]:
    options: dict[str, Any] = {"model": question.model}
    if question.tokens_max:
        options["max_completion_tokens"] = question.tokens_max
    if question.effort:
        options["reasoning_effort"] = question.effort
    if question.uses_tools:
        function = {"name": "get_weather", "description": "Weather.", "parameters": WEATHER_SCHEMA}
        options["tools"] = [{"type": "function", "function": {**function, "strict": True}}]
    return options


def _chat_answer(completion: Any) -> Answer:
    choice = completion.choices[0]
    return Answer(
        text=choice.message.content or "",
        finish=choice.finish_reason,
        input_tokens=completion.usage.prompt_tokens,
        output_tokens=completion.usage.completion_tokens,
        calls=[
            (made.function.name, json.loads(made.function.arguments))
            for made in choice.message.tool_calls or []
        ],
        reasoning=getattr(choice.message, "reasoning_content", "") or "",
    )


class Responses:
    """`client.responses`: whole by previous_response_id, streamed with everything replayed."""

    name = "openai-python, responses"
    package = "openai"
    limits: dict[str, str] = {}
    errors = {**ERRORS, "unknown model": openai.BadRequestError}
    length_word = "max_output_tokens"
    shows_reasoning = True

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        self.client = openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=key or gateway.key, max_retries=0, timeout=60
        )

    def ask(self, question: Question) -> Answer:
        return _response_answer(
            self.client.responses.create(**_options(question), input=_input(question))
        )

    def stream(self, question: Question) -> Answer:
        return self._stream(question, _input(question))[0]

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        return self._replaying(question) if is_stream else self._continuing(question)

    def _continuing(self, question: Question) -> list[Answer]:
        given: Any = _input(question)
        previous: str | None = None
        answers = []
        for _ in range(STEPS_MAX):
            response = self.client.responses.create(
                **_options(question), input=given, previous_response_id=previous
            )
            answers.append(_response_answer(response))
            given, previous = _outputs(response), response.id
            if not given:
                break
        return answers

    def _replaying(self, question: Question) -> list[Answer]:
        given = _input(question)
        answers = []
        for _ in range(STEPS_MAX):
            answer, response = self._stream(
                question, given, store=False, include=["reasoning.encrypted_content"]
            )
            answers.append(answer)
            outputs = _outputs(response)
            if not outputs:
                break
            given = [*given, *response.output, *outputs]
        return answers

    def parse(self, question: Question) -> Any:
        return self.client.responses.parse(
            model=question.model, input=question.prompt, text_format=Weather
        ).output_parsed

    def leave(self, question: Question) -> None:
        with self.client.responses.create(
            **_options(question), input=question.prompt, stream=True
        ) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    return

    def _stream(self, question: Question, given: Any, **options: Any) -> tuple[Answer, Any]:
        pieces = 0
        numbers = []
        final = None
        with self.client.responses.stream(**_options(question), **options, input=given) as stream:
            for event in stream:
                numbers.append(event.sequence_number)
                pieces += event.type == "response.output_text.delta"
                if event.type in ("response.completed", "response.incomplete"):
                    final = event.response
        assert numbers == list(range(len(numbers)))
        assert final is not None
        answer = _response_answer(final)
        answer.pieces = pieces
        return answer, final


def _input(question: Question) -> list[Any]:
    parts: list[Any] = [{"type": "input_text", "text": question.prompt}]
    if question.image:
        parts.append({"type": "input_image", "image_url": question.image, "detail": "auto"})
    return [{"role": "user", "content": parts}]


def _options(question: Question) -> dict[str, Any]:
    options: dict[str, Any] = {"model": question.model}
    if question.tokens_max:
        options["max_output_tokens"] = question.tokens_max
    if question.effort:
        options["reasoning"] = {"effort": question.effort, "summary": "auto"}
    if question.uses_tools:
        function = {"name": "get_weather", "description": "Weather.", "parameters": WEATHER_SCHEMA}
        options["tools"] = [{"type": "function", **function, "strict": True}]
    return options


def _outputs(response: Any) -> list[Any]:
    return [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": weather(**json.loads(item.arguments)),
        }
        for item in response.output
        if item.type == "function_call"
    ]


def _response_answer(response: Any) -> Answer:
    details = response.incomplete_details
    thoughts = [item for item in response.output if item.type == "reasoning"]
    return Answer(
        text=response.output_text,
        finish=details.reason if details else response.status,
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        calls=[
            (item.name, json.loads(item.arguments))
            for item in response.output
            if item.type == "function_call"
        ],
        reasoning="".join(part.text for item in thoughts for part in item.summary)
        or "".join(part.text for item in thoughts for part in item.content or []),
    )
