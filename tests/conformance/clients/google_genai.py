"""google-genai: generate_content, whole and streamed, with manual function calling."""

from typing import Any

from google import genai
from google.genai import errors, types

from tests.conformance.cells import WEATHER_SCHEMA, Answer, Gateway, Question, Weather, weather

STEPS_MAX = 4


class Models:
    """`client.models`."""

    name = "google-genai"
    package = "google-genai"
    limits: dict[str, str] = {}
    errors: dict[str, type[Exception]] = {
        "unknown model": errors.ClientError,
        "wrong key": errors.ClientError,
        "no credit": errors.ClientError,
    }
    length_word = "MAX_TOKENS"
    shows_reasoning = True

    def __init__(self, gateway: Gateway, key: str | None = None) -> None:
        options = types.HttpOptions(base_url=gateway.url, api_version="v1beta", timeout=60_000)
        self.client = genai.Client(api_key=key or gateway.key, http_options=options)

    def ask(self, question: Question) -> Answer:
        return _answer([self._call(question, _contents(question))])

    def stream(self, question: Question) -> Answer:
        return _answer(self._stream(question, _contents(question)))

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        contents = _contents(question)
        answers = []
        for _ in range(STEPS_MAX):
            if is_stream:
                chunks = self._stream(question, contents)
            else:
                chunks = [self._call(question, contents)]
            answers.append(_answer(chunks))
            results = [_result(call) for chunk in chunks for call in chunk.function_calls or []]
            if not results:
                break
            contents.append(types.Content(role="model", parts=_parts(chunks)))
            contents.append(types.Content(role="user", parts=results))
        return answers

    def parse(self, question: Question) -> Any:
        config = types.GenerateContentConfig(
            response_mime_type="application/json", response_schema=Weather
        )
        return self.client.models.generate_content(
            model=question.model, contents=question.prompt, config=config
        ).parsed

    def leave(self, question: Question) -> None:
        stream = self.client.models.generate_content_stream(
            model=question.model, contents=_contents(question), config=_config(question)
        )
        next(stream)
        stream.close()

    def _call(self, question: Question, contents: list[Any]) -> Any:
        return self.client.models.generate_content(
            model=question.model, contents=contents, config=_config(question)
        )

    def _stream(self, question: Question, contents: list[Any]) -> list[Any]:
        return list(
            self.client.models.generate_content_stream(
                model=question.model, contents=contents, config=_config(question)
            )
        )


def _contents(question: Question) -> list[Any]:
    parts = [types.Part.from_text(text=question.prompt)]
    if question.image:
        head, _, data = question.image.partition(",")
        media_type = head.removeprefix("data:").removesuffix(";base64")
        parts.append(types.Part(inline_data=types.Blob(mime_type=media_type, data=data.encode())))
    return [types.Content(role="user", parts=parts)]


def _config(question: Question) -> types.GenerateContentConfig:
    config = types.GenerateContentConfig(max_output_tokens=question.tokens_max)
    config.automatic_function_calling = types.AutomaticFunctionCallingConfig(disable=True)
    if question.effort:
        level = types.ThinkingLevel(question.effort.upper())
        config.thinking_config = types.ThinkingConfig(thinking_level=level, include_thoughts=True)
    if question.uses_tools:
        declared = types.FunctionDeclaration(
            name="get_weather", description="Weather.", parameters_json_schema=WEATHER_SCHEMA
        )
        config.tools = [types.Tool(function_declarations=[declared])]
    return config


def _parts(chunks: list[Any]) -> list[Any]:
    """The parts of one turn, as ai.google.dev/gemini-api/docs/thought-signatures wants them."""
    contents = [chunk.candidates[0].content for chunk in chunks if chunk.candidates]
    return [part for content in contents if content for part in content.parts or []]


def _result(call: Any) -> types.Part:
    made = types.Part.from_function_response(
        name=call.name, response={"result": weather(**call.args)}
    )
    assert made.function_response is not None
    made.function_response.id = call.id
    return made


def _answer(chunks: list[Any]) -> Answer:
    parts = _parts(chunks)
    made = [part.function_call for part in parts if part.function_call]
    usage = next(chunk.usage_metadata for chunk in reversed(chunks) if chunk.usage_metadata)
    finish = chunks[-1].candidates[0].finish_reason
    return Answer(
        text="".join(part.text or "" for part in parts if not part.thought),
        pieces=sum(1 for part in parts if part.text and not part.thought),
        finish=finish.name if finish else "",
        input_tokens=usage.prompt_token_count,
        output_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        calls=[(call.name, call.args) for call in made],
        reasoning="".join(part.text or "" for part in parts if part.thought),
    )
