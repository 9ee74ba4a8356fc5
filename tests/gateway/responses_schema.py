"""What a response object and an event stream of the Responses wire must be, as checks.

The required keys are those of the Open Responses specification; the types are openai-python's; the
order is the grammar that accumulating clients rely on.
"""

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway import sse

RESPONSE_KEYS = frozenset(
    (
        *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"),
        *("previous_response_id", "instructions", "output", "error", "tools", "tool_choice"),
        *("truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty"),
        *("frequency_penalty", "top_logprobs", "temperature", "reasoning", "user", "usage"),
        *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier"),
        *("metadata", "safety_identifier", "prompt_cache_key"),
    )
)
ITEM_KEYS = {
    "message": {"id", "type", "status", "role", "content"},
    "reasoning": {"id", "type", "summary"},
    "function_call": {"id", "type", "status", "call_id", "name", "arguments"},
    "image_generation_call": {"id", "type", "status", "result"},
}
PART_KEYS = {
    "output_text": {"type", "text", "annotations", "logprobs"},
    "refusal": {"type", "refusal"},
    "summary_text": {"type", "text"},
    "reasoning_text": {"type", "text"},
}
AT_ITEM = {"item_id", "output_index"}
AT_PART = {*AT_ITEM, "content_index"}
AT_SUMMARY = {*AT_ITEM, "summary_index"}
EVENT_KEYS: dict[str, set[str]] = {
    "response.created": {"response"},
    "response.in_progress": {"response"},
    "response.completed": {"response"},
    "response.incomplete": {"response"},
    "response.failed": {"response"},
    "response.output_item.added": {"output_index", "item"},
    "response.output_item.done": {"output_index", "item"},
    "response.content_part.added": {*AT_PART, "part"},
    "response.content_part.done": {*AT_PART, "part"},
    "response.output_text.delta": {*AT_PART, "delta", "logprobs"},
    "response.output_text.done": {*AT_PART, "text", "logprobs"},
    "response.output_text.annotation.added": {*AT_PART, "annotation_index", "annotation"},
    "response.refusal.delta": {*AT_PART, "delta"},
    "response.refusal.done": {*AT_PART, "refusal"},
    "response.function_call_arguments.delta": {*AT_ITEM, "delta"},
    "response.function_call_arguments.done": {*AT_ITEM, "arguments"},
    "response.reasoning_summary_part.added": {*AT_SUMMARY, "part"},
    "response.reasoning_summary_part.done": {*AT_SUMMARY, "part"},
    "response.reasoning_summary_text.delta": {*AT_SUMMARY, "delta"},
    "response.reasoning_summary_text.done": {*AT_SUMMARY, "text"},
    "response.reasoning_text.delta": {*AT_PART, "delta"},
    "response.reasoning_text.done": {*AT_PART, "text"},
    "error": {"code", "message", "param", "error"},
}
SDK_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


def check_response(response: dict[str, Any]) -> None:
    """A response object has every required key and is one that openai-python reads."""
    assert response.keys() >= RESPONSE_KEYS, RESPONSE_KEYS - response.keys()
    for tool in response["tools"]:
        if tool["type"] == "function":
            assert tool.keys() >= {"type", "name", "description", "parameters", "strict"}
    for item in response["output"]:
        check_item(item)
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    if response["usage"]:
        usage = response["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens_details"].keys() >= {"cached_tokens"}
        assert usage["output_tokens_details"].keys() >= {"reasoning_tokens"}
    # OpenAI sends error codes, too, that its own type does not list.
    Response.model_validate({**response, "error": None})


def check_item(item: dict[str, Any]) -> None:
    """An output item has the keys of its type."""
    assert item.keys() >= ITEM_KEYS[item["type"]], item
    for part in [*item.get("content", []), *item.get("summary", [])]:
        assert part.keys() == PART_KEYS[part["type"]], part
    if item["type"] == "function_call":
        assert item["id"] != item["call_id"]
        assert isinstance(item["arguments"], str)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The stream's events. Each is one whole message, named by its type."""
    events = []
    for message in sse.Decoder().feed(stream):
        event = json.loads(message.data)
        assert message.event == event["type"]
        events.append(event)
    return events


def check_stream(stream: bytes, *, is_failed: bool = False) -> dict[str, Any]:
    """A whole stream obeys the grammar. Returns the object of its terminal event."""
    events = events_of(stream)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check_event(event)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    last = dict(events[-1]["response"])
    body = events[2:-2] if is_failed else events[2:-1]
    items = check_items(body, is_failed=is_failed)
    if is_failed:
        assert events[-2]["type"] == "error"
        assert last["status"] == "failed"
        done = {item["id"]: item for item in items if item}
        assert [done.get(item["id"], item) for item in last["output"]] == last["output"]
    else:
        assert last["output"] == items
    identities = {(one["id"], one["created_at"]) for one in map(response_of, events) if one}
    assert len(identities) == 1
    return last


def response_of(event: dict[str, Any]) -> dict[str, Any]:
    """The event's response object, {} without one."""
    return dict(event.get("response", {}))


def check_event(event: dict[str, Any]) -> None:
    """An event has the required keys and is one that openai-python reads."""
    kind = event["type"]
    assert event.keys() == {"type", "sequence_number", *EVENT_KEYS[kind]}, event
    if kind == "error":
        assert isinstance(event["code"], str)
        assert event["error"].keys() == {"type", "code", "message", "param"}
        assert isinstance(event["error"]["code"], str)
    if "response" in event:
        check_response(event["response"])
        event = {**event, "response": {**event["response"], "error": None}}
    SDK_EVENT.validate_python(event)


def check_items(events: list[dict[str, Any]], *, is_failed: bool) -> list[Any]:
    """Items begin in order, say what their parts say, and end; the items as they ended."""
    items: list[Any] = []
    ids: list[str] = []
    parts: dict[tuple[int, str, int], str] = {}
    for event in events:
        kind, position = event["type"], event["output_index"]
        if kind == "response.output_item.added":
            assert position == len(items)
            assert event["item"].get("status", "in_progress") == "in_progress"
            check_item(event["item"])
            items.append(None)
            ids.append(event["item"]["id"])
            continue
        assert items[position] is None, "an item that has ended says no more"
        if kind == "response.output_item.done":
            check_item(event["item"])
            assert event["item"]["id"] == ids[position]
            assert not [key for key in parts if key[0] == position]
            items[position] = event["item"]
            continue
        assert event["item_id"] == ids[position]
        check_part(event, parts)
    assert is_failed or (None not in items and not parts)
    return items


def check_part(event: dict[str, Any], parts: dict[tuple[int, str, int], str]) -> None:
    """Deltas come inside their part and add up to what its end says."""
    position, kind = event["output_index"], event["type"]
    member = "summary_index" if "summary_index" in event else "content_index"
    key = (position, member, event.get(member, -1))
    match kind.removeprefix("response."):
        case "content_part.added" | "reasoning_summary_part.added":
            assert key not in parts
            parts[key] = ""
        case "content_part.done" | "reasoning_summary_part.done":
            part = event["part"]
            assert (part.get("text") or part.get("refusal") or "") == parts.pop(key)
        case "function_call_arguments.done":
            assert event["arguments"] == parts.pop(key, "")
        case "function_call_arguments.delta":
            parts[key] = parts.get(key, "") + event["delta"]
        case "output_text.annotation.added":
            assert key in parts
        case name if name.endswith(".delta"):
            parts[key] += event["delta"]
        case name:
            assert event.get("text", event.get("refusal")) == parts[key], name
