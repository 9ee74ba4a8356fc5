"""The response object of the Responses wire, without its items: status, echo, usage, error. Pure.

Facts: the Open Responses schema (ResponseResource) requires every key written here, nullable or
not; platform.openai.com/docs/api-reference/responses/object for the defaults.
"""

from typing import Any

from billing.pricing import Usage
from gateway.dialects import responses_tools
from gateway.dialects.base import Inspection, Json, Reply
from gateway.dialects.counting import Counts, divide
from gateway.dialects.openai_usage import (
    read_input_details,
    write_input_details,
    write_output_details,
)
from gateway.refusals import Refusal

# What a response repeats of its request: name -> (types, what it says when nothing was asked).
ECHOED: dict[str, tuple[type | tuple[type, ...], Any]] = {
    "instructions": (str, None),
    "tool_choice": ((str, dict), "auto"),
    "truncation": (str, "disabled"),
    "parallel_tool_calls": (bool, True),
    "top_p": ((int, float), 1.0),
    "temperature": ((int, float), 1.0),
    "top_logprobs": (int, 0),
    "max_output_tokens": (int, None),
    "max_tool_calls": (int, None),
    "metadata": (dict, {}),
    "safety_identifier": (str, None),
    "prompt_cache_key": (str, None),
    "user": (str, None),
}
SERVICE_TIERS = ("default", "flex", "scale", "priority")


def new_object(inspection: Inspection, reply: Reply) -> Json:
    """The object of an answer that has just begun."""
    body = reply.body
    tools = body.get("tools")
    tier = body.get("service_tier")
    return {
        "id": f"resp_{reply.seed}",
        "object": "response",
        "created_at": reply.created_at,
        # Nobody tells this pure code the time, and the keys allow null.
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": inspection.model,
        "output": [],
        "previous_response_id": inspection.previous_id or None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "reasoning": {"effort": None, "summary": None, **_object(body.get("reasoning"))},
        "service_tier": tier if tier in SERVICE_TIERS else "default",
        "store": inspection.keeps_state,
        "text": {"format": {"type": "text"}, **_object(body.get("text"))},
        "tools": [responses_tools.write_tool(tool) for tool in tools or []],
        "usage": None,
        **{name: _echo(body, name) for name in ECHOED},
    }


def _object(value: Any) -> Json:
    members = value if isinstance(value, dict) else {}
    return {name: member for name, member in members.items() if member is not None}


def _echo(body: Json, name: str) -> Any:
    kind, default = ECHOED[name]
    value = body.get(name)
    return value if isinstance(value, kind) else default


def write_usage(usage: Usage) -> Json:
    """Disjoint buckets as this wire's `usage`; Codex fails on details without their number."""
    return {
        "input_tokens": usage.whole_input,
        "input_tokens_details": write_input_details(usage),
        "output_tokens": usage.whole_output,
        "output_tokens_details": write_output_details(usage),
        "total_tokens": usage.total,
    }


def read_usage(usage: Any) -> Usage | None:
    """This wire's `usage` as disjoint buckets; None when it is absent or counts nothing.

    Cached tokens are a part of `input_tokens`, reasoning tokens a part of `output_tokens`.
    """
    counts = Counts()
    whole_input = counts.take(usage, "input_tokens")
    output = counts.take(usage, "output_tokens")
    if whole_input is None and output is None and not counts.is_doubtful:
        return None
    details = usage.get("output_tokens_details")
    return divide(
        whole_input or 0,
        output or 0,
        **read_input_details(counts, usage.get("input_tokens_details")),
        audio_output=counts.take(details, "audio_tokens") or 0,
        image_output=counts.take(details, "image_tokens") or 0,
        reasoning=counts.take(details, "reasoning_tokens") or 0,
        is_doubtful=counts.is_doubtful,
    )


def write_error_event(refusal: Refusal) -> Json:
    """The fields of an `error` event, in every form there are readers for.

    openai-python and newer AI SDKs read the nested `error`, AI SDK 5 before 2.0.118 the flat
    members; neither takes a null code.
    """
    code = refusal.code or refusal.error_type
    return {
        "code": code,
        "message": refusal.message,
        "param": refusal.param,
        "error": {
            "type": refusal.error_type,
            "code": code,
            "message": refusal.message,
            "param": refusal.param,
        },
    }


def fail(response: Json, refusal: Refusal) -> Json:
    """The object of an answer that ended with an error."""
    error = {"code": refusal.code or refusal.error_type, "message": refusal.message}
    return {**response, "status": "failed", "error": error}
