"""What the stand-ins answer: directives, forced tools, wanted schemas, tools' results."""

import json
from typing import Any

import pytest

from gateway.events import Carry
from gateway.generation import (
    GenerationRequest,
    OutputFormat,
    Parameters,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.providers import PROVIDERS
from gateway.standin.caching import Cache
from gateway.standin.local import CONVERSATION_CHARACTERS_MAX, write_body
from gateway.standin.rejections import Asked
from gateway.standin.scripts import Call, Directive, Fault, Plan, parse, read_plan

SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
TOOLS = (Tool("get_time"), Tool("get_weather", schema=SCHEMA))
CALLED = Turn("assistant", (ToolCall("c1", "get_weather", "{}"),))
RESULT = Turn("tool", (ToolResult("c1", (Text("Sunny."),)),))


def user(text: str) -> Turn:
    return Turn("user", (Text(text),))


def plan(*turns: Turn, **members: Any) -> Plan:
    return read_plan(GenerationRequest("m", turns, **members))


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("Hello [[world]] and [[1, 2]].", []),
        ("[[say a ]b[ c]]", [Directive("say", "a ]b[ c")]),
        ('[[tool f {"a": [[1], [2]]}]]', [Directive("tool", 'f {"a": [[1], [2]]}')]),
        ("[[tool f]] [[tool g]]", [Directive("tool", "f"), Directive("tool", "g")]),
        (
            '[[tool f]] then [[tool g {"x": 1}]]',
            [Directive("tool", "f"), Directive("tool", 'g {"x": 1}')],
        ),
        ("[[json [[1]]]]", [Directive("json", "[[1]]")]),
        ("[[json {not json]]", [Directive("json", "{not json")]),
        ("[[say without an end", []),
    ],
)
def test_directives_are_read_out_of_a_text(text: str, directives: list[Directive]) -> None:
    assert parse(text) == directives


def test_a_text_without_directives_is_the_local_model_s_to_answer() -> None:
    assert plan(user("Hello.")) == Plan()


def test_several_tool_directives_are_parallel_calls_unless_those_are_forbidden() -> None:
    turn = user('[[tool a {"x": 1}]] [[tool b]]')
    assert plan(turn) == Plan(text="", calls=(Call("a", '{"x": 1}'), Call("b", "{}")))
    alone = plan(turn, parameters=Parameters(parallel_tool_calls=False))
    assert alone.calls == (Call("a", '{"x": 1}'),)


def test_results_are_repeated_and_steps_follow_one_another() -> None:
    one = user("[[tool get_weather {}]]")
    assert plan(one, CALLED, RESULT).text == "The tools answered. get_weather: Sunny."
    steps = user("[[tool a]] [[then]] [[tool b]] [[then]] [[say done]]")
    assert plan(steps).calls == (Call("a", "{}"),)
    assert plan(steps, CALLED, RESULT).calls == (Call("b", "{}"),)
    assert plan(steps, CALLED, RESULT, CALLED, RESULT) == Plan(text="done")


def test_results_in_one_turn_with_the_user_s_text_are_seen() -> None:
    both = Turn("user", (ToolResult("c1", (Text("Sunny."),)), Text("[[say next]]")))
    assert plan(user("[[tool x]]"), CALLED, both).text == "next"


def test_a_script_can_tell_how_many_thoughts_came_back() -> None:
    carry = Carry("anthropic.thinking", "signature")
    thoughtful = Turn("assistant", (Reasoning("Hm.", carry), Reasoning("Ah."), *CALLED.parts))
    script = user("[[tool get_weather]] [[then]] [[recall]]")
    assert plan(script, thoughtful, RESULT).text == "Thoughts that came back: 1."
    unsigned = Carry("gemini.thought", "skip_thought_signature_validator")
    forgetful = Turn("assistant", (ToolCall("c1", "get_weather", "{}", unsigned),))
    assert plan(script, forgetful, RESULT).text == "Thoughts that came back: 0."


def test_an_answered_question_is_no_longer_a_script() -> None:
    answer = Turn("assistant", (Text("Hi."),))
    assert plan(user("[[say hi]]"), answer, user("And now?")) == Plan()


def test_a_forced_tool_is_called_with_the_smallest_valid_arguments() -> None:
    named = plan(user("Hi."), tools=TOOLS, tool_choice=ToolChoice("named", "get_weather"))
    assert named.calls == (Call("get_weather", '{"city": "city"}'),)
    required = plan(user("Hi."), tools=TOOLS, tool_choice=ToolChoice("required"))
    assert required.calls == (Call("get_time", "{}"),)
    again = plan(user("Hi."), CALLED, RESULT, tools=TOOLS, tool_choice=ToolChoice("required"))
    assert not again.calls


def test_a_wanted_schema_is_filled_and_a_directive_wins() -> None:
    wanted = OutputFormat("json_schema", "city", SCHEMA)
    assert json.loads(plan(user("Hi."), output_format=wanted).text or "") == {"city": "city"}
    said = plan(user('[[json {"city": "Rome"}]]'), output_format=wanted)
    assert said.text == '{"city": "Rome"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[say x]] [[cut 3]]", Plan(text="x", fault=Fault("cut", 3))),
        ("[[say x]] [[garbage]]", Plan(text="x", fault=Fault("garbage", 2))),
        ("[[error 429 7]]", Plan(status=429, retry_after=7)),
        ("[[error]]", Plan(status=500)),
        ("[[say x]] [[length]]", Plan(text="x", is_cut_short=True)),
        ("[[say x]] [[reason because]]", Plan(text="x", thought="because")),
    ],
)
def test_everything_that_can_go_wrong_can_be_asked_for(text: str, expected: Plan) -> None:
    assert plan(user(text)) == expected


def test_the_local_model_gets_what_fits_with_the_system_first() -> None:
    turns = (
        Turn("system", (Text("Be brief."),)),
        user("a" * CONVERSATION_CHARACTERS_MAX),
        CALLED,
        RESULT,
        user("Last."),
    )
    request = GenerationRequest("m", turns, parameters=Parameters(output_tokens_max=10**6, seed=1))
    body = write_body(request)
    messages = body["messages"]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[-1] == {"role": "user", "content": "Last."}
    assert sum(len(message["content"]) for message in messages) < CONVERSATION_CHARACTERS_MAX + 20
    assert body["max_tokens"] < 10**4
    assert body["seed"] == 1


def test_marked_prompts_are_written_to_the_cache_and_then_read() -> None:
    mark = {"type": "ephemeral"}
    system = [{"type": "text", "text": "x" * 4000, "cache_control": mark}]
    message = {"role": "user", "content": "Hello."}
    first = Asked({}, {"system": system, "messages": [message]}, "claude-sonnet-4-5")
    second = Asked({}, {"system": system, "messages": [message]}, "claude-sonnet-4-5")
    cache = Cache()
    written, read = cache.count(first, "anthropic"), cache.count(second, "anthropic")
    assert written.cache_write > 1000
    assert (written.cache_read, read.cache_write) == (0, 0)
    assert read.cache_read == written.cache_write


def test_what_is_marked_for_an_hour_is_written_for_an_hour() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    system = [{"type": "text", "text": "x" * 4000, "cache_control": mark}]
    asked = Asked({}, {"system": system, "messages": [{"role": "user"}]}, "claude-sonnet-4-5")
    written = Cache().count(asked, "anthropic")
    assert written.cache_write_1h > 1000
    assert written.cache_write == 0


def test_an_image_is_counted_as_one_and_not_by_its_base64() -> None:
    url = {"url": "data:image/png;base64," + "A" * 1_000_000}
    parts = [{"type": "image_url", "image_url": url}]
    asked = Asked({}, {"messages": [{"role": "user", "content": parts}]}, "gpt-4o")
    image_tokens_max = PROVIDERS["openai"].image_tokens_max("gpt-4o")
    assert Cache().count(asked, "openai_chat").input < image_tokens_max


def test_long_prompts_are_cached_by_themselves_elsewhere() -> None:
    asked = Asked({}, {"instructions": "x" * 5000, "input": [{"role": "user"}]}, "gpt-4o")
    cache = Cache()
    assert cache.count(asked, "openai_responses").cache_read == 0
    assert cache.count(asked, "openai_responses").cache_read > 1024
    short = Asked({}, {"input": [{"role": "user"}]}, "gpt-4o")
    assert cache.count(short, "openai_responses") == cache.count(short, "openai_responses")
