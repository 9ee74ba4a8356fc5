"""LangChain's ChatOpenAI, over chat completions and over Responses."""

from typing import Any

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.conformance.cells import Answer, Gateway, Question, Weather, weather

STEPS_MAX = 4


@tool
def get_weather(city: str) -> str:
    """Weather."""
    return weather(city)


class Chat:
    """`ChatOpenAI` as it is."""

    name = "LangChain, chat completions"
    package = "langchain-openai"
    limits: dict[str, str] = {}
    errors: dict[str, type[Exception]] = {
        "unknown model": openai.NotFoundError,
        "wrong key": openai.AuthenticationError,
        "no credit": openai.RateLimitError,
    }
    length_word = "length"
    shows_reasoning = False
    uses_responses = False

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        self.gateway = gateway
        self.key = key or gateway.key

    def ask(self, question: Question) -> Answer:
        return _answer([self._model(question).invoke([_message(question)])])

    def stream(self, question: Question) -> Answer:
        return _answer(list(self._model(question).stream([_message(question)])))

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        model = self._model(question)
        messages: list[Any] = [_message(question)]
        answers = []
        for _ in range(STEPS_MAX):
            chunks = list(model.stream(messages)) if is_stream else [model.invoke(messages)]
            answers.append(_answer(chunks))
            message = _join(chunks)
            if not message.tool_calls:
                break
            messages.append(message)
            for call in message.tool_calls:
                messages.append(ToolMessage(weather(**call["args"]), tool_call_id=call["id"]))
        return answers

    def parse(self, question: Question) -> Any:
        return self._model(question).with_structured_output(Weather).invoke(question.prompt)

    def leave(self, question: Question) -> None:
        stream = self._model(question).stream([_message(question)])
        for chunk in stream:
            if chunk.content:
                break
        stream.close()

    def _model(self, question: Question) -> Any:
        options: dict[str, Any] = {"use_responses_api": self.uses_responses}
        if question.effort and self.uses_responses:
            options["reasoning"] = {"effort": question.effort, "summary": "auto"}
        elif question.effort:
            options["reasoning_effort"] = question.effort
        if question.tokens_max:
            options["max_completion_tokens"] = question.tokens_max
        model = ChatOpenAI(
            model=question.model,
            base_url=f"{self.gateway.url}/v1",
            api_key=SecretStr(self.key),
            max_retries=0,
            timeout=60,
            stream_usage=True,
            **options,
        )
        return model.bind_tools([get_weather]) if question.uses_tools else model


class Responses(Chat):
    """`ChatOpenAI(use_responses_api=True)`."""

    name = "LangChain, responses"
    errors = {**Chat.errors, "unknown model": openai.BadRequestError}
    length_word = "max_output_tokens"
    shows_reasoning = True
    uses_responses = True


def _message(question: Question) -> HumanMessage:
    content: list[Any] = [{"type": "text", "text": question.prompt}]
    if question.image:
        content.append({"type": "image_url", "image_url": {"url": question.image}})
    return HumanMessage(content)


def _join(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def _answer(chunks: list[Any]) -> Answer:
    message = _join(chunks)
    about = message.response_metadata
    usage = message.usage_metadata
    incomplete = about.get("incomplete_details") or {}
    return Answer(
        text=message.text,
        pieces=sum(1 for chunk in chunks if chunk.text),
        finish=incomplete.get("reason") or about.get("finish_reason") or about.get("status") or "",
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        calls=[(call["name"], call["args"]) for call in message.tool_calls],
        reasoning=_thoughts(message),
    )


def _thoughts(message: Any) -> str:
    return "".join(
        str(part)
        for part in message.content
        if isinstance(part, dict) and part["type"] == "reasoning"
    )
