"""What to answer: directives in the last user text, or what the request itself asks for.

    [[say some exact text]]        that text
    [[json {...}]]                 that JSON as the text
    [[tool name {...}]]            a tool call; several are parallel calls
    [[then]]                       what follows is the next step, after the tools' results
    [[reason]]                     reasoning before the answer ([[reason some text]]: that text)
    [[redacted]]                   the reasoning is redacted, where the wire has that
    [[refuse]]                     a refusal
    [[recall]]                     how many earlier thoughts came back with their signatures
    [[length]]                     the answer ends because it grew too long
    [[error 529]] [[error 429 7]]  this status before anything else; with seconds to wait
    [[midstream_error]] [[cut 3]] [[garbage]] [[silence]]
                                   what goes wrong after so many pieces (2 if not said)

Without a directive a forced tool is called, a wanted schema is filled with its smallest instance,
tool results are repeated, and everything else the local model answers. Pure.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from gateway.generation import (
    GenerationRequest,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.standin.schemas import make_instance
from gateway.standin.strict_gemini import SENTINELS

DIRECTIVE = re.compile(r"\[\[(\w+)\s*")
NAMED = frozenset(
    (
        *("say", "json", "tool", "then", "reason", "redacted", "refuse", "length", "error"),
        *("midstream_error", "cut", "garbage", "silence", "recall"),
    )
)
FAULTS = ("midstream_error", "cut", "garbage", "silence")
FAULT_AFTER = 2
THOUGHT = "The user wants an answer. I think about it step by step, and then I give it."
REFUSAL = "I'm sorry, but I can't help with that."
RESULT_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call to make; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong after this many pieces of the stream."""

    kind: str
    after: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to answer. `text` None asks the local model; `status` is an error instead of all."""

    text: str | None = None
    calls: tuple[Call, ...] = ()
    thought: str = ""
    is_redacted: bool = False
    refusal: str = ""
    is_cut_short: bool = False
    fault: Fault | None = None
    status: int = 0
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive: its name and what follows it."""

    name: str
    rest: str


def read_plan(request: GenerationRequest) -> Plan:
    """What to answer to this request."""
    text, results, steps_done = _read_conversation(request)
    directives = _step(parse(text), steps_done)
    if directives:
        return _plan_directives(directives, request, results)
    return _plan_request(request, results)


def parse(text: str) -> list[Directive]:
    """The directives of a text, in order. JSON in one may hold anything, also `]]`."""
    found = []
    position = 0
    while match := DIRECTIVE.search(text, position):
        position = match.end()
        end = _find_end(text, position, match[1])
        if match[1] not in NAMED or end < 0:
            continue
        found.append(Directive(match[1], text[position:end].strip()))
        position = end + 2
    return found


def _find_end(text: str, position: int, name: str) -> int:
    """Where the directive's `]]` is, after its JSON if it has any; -1 without one."""
    if name in ("tool", "json"):
        first_end = text.find("]]", position)
        begin = text.find("{", position) if name == "tool" else position
        if 0 <= begin < first_end:
            try:
                _, end = json.JSONDecoder().raw_decode(text, begin)
            except json.JSONDecodeError:
                return first_end
            return text.find("]]", end)
        return first_end
    return text.find("]]", position)


def _read_conversation(request: GenerationRequest) -> tuple[str, list[str], int]:
    """The last user text, the results of the latest round of tools, and the rounds since it."""
    results: list[str] = []
    text, rounds = "", 0
    names: dict[str, str] = {}
    was_result = False
    for turn in request.turns:
        for part in turn.parts:
            if isinstance(part, Text) and turn.role == "user":
                # Several texts of one message are one text; tools' results begin a new round.
                text = part.text if was_result or rounds or not text else text + "\n" + part.text
                results, rounds, was_result = [], 0, False
            elif isinstance(part, ToolCall):
                names[part.call_id] = part.name
                was_result = False
            elif isinstance(part, ToolResult):
                if not was_result:
                    results, rounds = [], rounds + 1
                was_result = True
                results.append(_describe_result(part, names))
        if turn.role == "assistant" and not any(isinstance(p, ToolCall) for p in turn.parts):
            text, results, rounds = "", [], 0
    return text, results, rounds


def _describe_result(result: ToolResult, names: dict[str, str]) -> str:
    name = result.name or names.get(result.call_id, "")
    return f"{name}: {_text_of(result.parts)[:RESULT_CHARACTERS_MAX]}"


def _text_of(parts: tuple[Part, ...]) -> str:
    return "\n".join(part.text for part in parts if isinstance(part, Text))


def _step(directives: list[Directive], number: int) -> list[Directive]:
    """The directives of one step; none after the last."""
    steps: list[list[Directive]] = [[]]
    for directive in directives:
        if directive.name == "then":
            steps.append([])
        else:
            steps[-1].append(directive)
    return steps[number] if number < len(steps) else []


def _plan_directives(
    directives: list[Directive], request: GenerationRequest, results: list[str]
) -> Plan:
    by_name = {directive.name: directive.rest for directive in directives}
    calls = tuple(_read_call(one.rest) for one in directives if one.name == "tool")
    if request.parameters.parallel_tool_calls is False:
        calls = calls[:1]
    text = by_name.get("say", by_name.get("json"))
    if "recall" in by_name:
        text = f"Thoughts that came back: {_count_thoughts(request)}."
    if text is None and (calls or "refuse" in by_name):
        text = ""
    if text is None:
        text = _plan_request(request, results).text
    status, retry_after = _read_numbers(by_name.get("error", ""))
    return Plan(
        text=text,
        calls=calls,
        thought=(by_name["reason"] or THOUGHT) if "reason" in by_name else "",
        is_redacted="redacted" in by_name,
        refusal=REFUSAL if "refuse" in by_name else "",
        is_cut_short="length" in by_name,
        fault=_read_fault(by_name),
        status=(status or 500) if "error" in by_name else 0,
        retry_after=retry_after,
    )


def _count_thoughts(request: GenerationRequest) -> int:
    """Blocks of reasoning and tool calls that came back with their state."""
    return sum(
        _has_state(part)
        for turn in request.turns
        for part in turn.parts
        if isinstance(part, Reasoning | ToolCall)
    )


def _has_state(part: Reasoning | ToolCall) -> bool:
    """Whether there is state, or the id of a reasoning item that keeps it; a sentinel is none."""
    if part.carry is not None:
        return part.carry.data not in SENTINELS
    return isinstance(part, Reasoning) and bool(part.item_id)


def _read_call(rest: str) -> Call:
    name, _, arguments = rest.partition(" ")
    return Call(name, arguments.strip() or "{}")


def _read_numbers(rest: str) -> tuple[int, int | None]:
    numbers = [int(word) for word in rest.split() if word.isdecimal()]
    return (numbers[0] if numbers else 0), (numbers[1] if len(numbers) > 1 else None)


def _read_fault(by_name: dict[str, str]) -> Fault | None:
    for kind in FAULTS:
        if kind in by_name:
            rest = by_name[kind]
            return Fault(kind, int(rest) if rest.isdecimal() else FAULT_AFTER)
    return None


def _plan_request(request: GenerationRequest, results: list[str]) -> Plan:
    """What the request itself asks for."""
    forced = _forced_tool(request)
    if forced is not None and not results:
        arguments = json.dumps(make_instance(forced.schema or {"type": "object"}))
        return Plan(text="", calls=(Call(forced.name, arguments),))
    if request.output_format is not None:
        schema: Any = request.output_format.schema or {"type": "object"}
        return Plan(text=json.dumps(make_instance(schema)))
    if results:
        return Plan(text="The tools answered. " + "; ".join(results))
    return Plan()


def _forced_tool(request: GenerationRequest) -> Tool | None:
    choice = request.tool_choice
    if choice is None or choice.mode not in ("required", "named") or not request.tools:
        return None
    named = (tool for tool in request.tools if tool.name == choice.name)
    return next(named, request.tools[0])
