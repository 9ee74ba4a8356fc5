"""Names of functions that a provider does not take: spelled otherwise for it, and back. Pure.

Wires allow different characters and lengths (Gemini `weather.get`, Anthropic 128 characters, OpenAI
64), and a client has no reason to know its provider's. A name that fits is never touched.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from gateway.events import Event, ToolCallStarted
from gateway.generation import GenerationRequest, Part, ToolCall, ToolResult

NOT_ALLOWED_ANYWHERE = re.compile(r"[^a-zA-Z0-9_-]")
CHARACTERS_MAX = 64
DIGEST_CHARACTERS = 8


def fit(
    request: GenerationRequest, allowed: re.Pattern[str]
) -> tuple[GenerationRequest, Mapping[str, str]]:
    """The request with names that `allowed` matches, and the client's name for each new one."""
    names = dict.fromkeys(name for name in _names(request) if name)
    wrong = [name for name in names if not allowed.fullmatch(name)]
    if not wrong:
        return request, {}
    taken = set(names).difference(wrong)
    spelled: dict[str, str] = {}
    for name in wrong:
        spelled[name] = _spell(name, taken)
        taken.add(spelled[name])
    fitted = _rename(request, lambda name: spelled.get(name, name))
    return fitted, {new: name for name, new in spelled.items()}


def restore(event: Event, given: Mapping[str, str]) -> Event:
    """The event with the client's own name of a function."""
    if isinstance(event, ToolCallStarted) and event.name in given:
        return replace(event, name=given[event.name])
    return event


def _names(request: GenerationRequest) -> Iterator[str]:
    """Every name, those of what was called earlier included."""
    yield from (tool.name for tool in request.tools)
    if request.tool_choice is not None:
        yield request.tool_choice.name
    for turn in request.turns:
        for part in turn.parts:
            if isinstance(part, ToolCall | ToolResult):
                yield part.name


def _spell(name: str, taken: set[str]) -> str:
    """A name like this one that every wire takes and nobody else has."""
    plain = NOT_ALLOWED_ANYWHERE.sub("_", name)
    if not (plain[0].isalpha() or plain[0] == "_"):
        plain = f"_{plain}"
    if len(plain) <= CHARACTERS_MAX and plain not in taken:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARACTERS]
    return f"{plain[: CHARACTERS_MAX - DIGEST_CHARACTERS - 1]}_{digest}"


def _rename(request: GenerationRequest, spell: Callable[[str], str]) -> GenerationRequest:
    choice = request.tool_choice

    def renamed(part: Part) -> Part:
        if isinstance(part, ToolCall | ToolResult):
            return replace(part, name=spell(part.name))
        return part

    return replace(
        request,
        tools=tuple(replace(tool, name=spell(tool.name)) for tool in request.tools),
        tool_choice=replace(choice, name=spell(choice.name)) if choice else None,
        turns=tuple(
            replace(turn, parts=tuple(renamed(part) for part in turn.parts))
            for turn in request.turns
        ),
    )
