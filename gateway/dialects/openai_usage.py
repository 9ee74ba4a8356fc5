"""The parts of a prompt and an answer as both of OpenAI's wires itemise them in `usage`. Pure.

Facts: platform.openai.com/docs/api-reference/chat/object (`*_tokens_details`) and recorded traffic.
"""

from typing import Any

from billing.pricing import Usage
from gateway.dialects.base import Json
from gateway.dialects.counting import Counts


def read_input_details(counts: Counts, details: Any) -> dict[str, int]:
    """The parts of a prompt as both of OpenAI's wires name them, for `counting.divide`.

    `cached_tokens_details` is from their realtime wire, the only one that says what was cached.
    """
    cached = details.get("cached_tokens_details") if isinstance(details, dict) else None
    return {
        "cached": counts.take(details, "cached_tokens") or 0,
        "written": counts.take(details, "cache_write_tokens") or 0,
        "audio": counts.take(details, "audio_tokens") or 0,
        "cached_audio": counts.take(cached, "audio_tokens") or 0,
        "image": counts.take(details, "image_tokens") or 0,
    }


def write_input_details(usage: Usage) -> Json:
    """The parts of a prompt on both of OpenAI's wires; strict clients want the first always."""
    details: Json = {
        "cached_tokens": usage.cache_read + usage.audio_cache_read,
        "cache_write_tokens": usage.cache_write + usage.cache_write_1h,
    }
    if spoken := usage.audio_input + usage.audio_cache_read:
        details["audio_tokens"] = spoken
    if usage.audio_cache_read:
        details["cached_tokens_details"] = {"audio_tokens": usage.audio_cache_read}
    if usage.image_input:
        details["image_tokens"] = usage.image_input
    return details


def write_output_details(usage: Usage) -> Json:
    """The parts of an answer on both of OpenAI's wires; strict clients want the first always."""
    details: Json = {"reasoning_tokens": usage.reasoning}
    if usage.audio_output:
        details["audio_tokens"] = usage.audio_output
    if usage.image_output:
        details["image_tokens"] = usage.image_output
    return details
