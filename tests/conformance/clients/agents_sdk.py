"""OpenAI Agents SDK: agents with a tool, over Responses and over chat completions."""

import asyncio
import json
from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai.types.shared import Reasoning

from tests.conformance.cells import Answer, Gateway, Question, Weather, weather

QUIET = RunConfig(tracing_disabled=True)


@function_tool
def get_weather(city: str) -> str:
    """Weather."""
    return weather(city)


class Responses:
    """The SDK's default model class."""

    name = "OpenAI Agents SDK, responses"
    package = "openai-agents"
    limits = {"length": "the SDK takes an answer that was cut short for an error"}
    errors: dict[str, type[Exception]] = {
        "unknown model": openai.BadRequestError,
        "wrong key": openai.AuthenticationError,
        "no credit": openai.RateLimitError,
    }
    length_word = ""
    shows_reasoning = True
    model_class: Any = OpenAIResponsesModel

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        self.gateway = gateway
        self.key = key or gateway.key

    def ask(self, question: Question) -> Answer:
        return self.loop(question, is_stream=False)[-1]

    def stream(self, question: Question) -> Answer:
        return self.loop(question, is_stream=True)[-1]

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        return asyncio.run(self._loop(question, is_stream))

    def parse(self, question: Question) -> Any:
        async def run() -> Any:
            async with self._client() as client:
                agent = self._agent(client, question, output_type=Weather)
                return (await Runner.run(agent, question.prompt, run_config=QUIET)).final_output

        return asyncio.run(run())

    def leave(self, question: Question) -> None:
        async def run() -> None:
            async with self._client() as client:
                agent = self._agent(client, question)
                result = Runner.run_streamed(agent, question.prompt, run_config=QUIET)
                async for event in result.stream_events():
                    if _is_text(event):
                        break
                result.cancel()
                async for _ in result.stream_events():
                    pass

        asyncio.run(run())

    async def _loop(self, question: Question, is_stream: bool) -> list[Answer]:
        async with self._client() as client:
            agent = self._agent(client, question)
            pieces = 0
            if is_stream:
                result: Any = Runner.run_streamed(agent, _input(question), run_config=QUIET)
                async for event in result.stream_events():
                    pieces += _is_text(event)
            else:
                result = await Runner.run(agent, _input(question), run_config=QUIET)
        answers = [_answer(response) for response in result.raw_responses]
        answers[-1].pieces = pieces
        return answers

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.gateway.url}/v1", api_key=self.key, max_retries=0, timeout=60
        )

    def _agent(self, client: openai.AsyncOpenAI, question: Question, **options: Any) -> Any:
        settings = ModelSettings(
            max_tokens=question.tokens_max, temperature=question.temperature, include_usage=True
        )
        if question.effort:
            settings.reasoning = Reasoning(effort=question.effort)  # type: ignore[arg-type]
        return Agent(
            name="Forecaster",
            model=self.model_class(question.model, client),
            model_settings=settings,
            tools=[get_weather] if question.uses_tools else [],
            **options,
        )


class Chat(Responses):
    """The SDK's model class for everybody else's endpoints."""

    name = "OpenAI Agents SDK, chat completions"
    limits = {"length": "the SDK does not tell why an answer stopped"}
    errors = {**Responses.errors, "unknown model": openai.NotFoundError}
    model_class = OpenAIChatCompletionsModel


def _input(question: Question) -> Any:
    parts: list[Any] = [{"type": "input_text", "text": question.prompt}]
    if question.image:
        parts.append({"type": "input_image", "image_url": question.image, "detail": "auto"})
    return [{"role": "user", "content": parts}]


def _is_text(event: Any) -> bool:
    return event.type == "raw_response_event" and event.data.type == "response.output_text.delta"


def _answer(response: Any) -> Answer:
    made = [item for item in response.output if item.type == "function_call"]
    said = [item for item in response.output if item.type == "message"]
    return Answer(
        text="".join(part.text for item in said for part in item.content),
        finish="completed",
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        calls=[(item.name, json.loads(item.arguments)) for item in made],
        reasoning="".join(str(item) for item in response.output if item.type == "reasoning"),
    )
