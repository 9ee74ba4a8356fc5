"""Arguments of a call that arrive in pieces, by JSON path. Part of `gemini`. Pure.

Vertex AI sends them when `streamFunctionCallArguments` is on:
cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling. The gateway never asks
for it; a server that sends them anyway is understood.
"""

import re
from itertools import pairwise
from typing import Any

from gateway.dialects.base import Json
from gateway.events import Carry

STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]")
VALUE_NAMES = ("stringValue", "numberValue", "boolValue")
LIST_ITEMS_MAX = 10_000


class PartialCall:
    """One call being assembled."""

    def __init__(self, name: str, call_id: str, carry: Carry | None) -> None:
        self.name = name
        self.call_id = call_id
        self.carry = carry
        self.arguments: Json = {}
        self._open_path = ""

    def add(self, piece: Json) -> None:
        """One entry of `partialArgs`; one with an unreadable path is left out."""
        path = piece.get("jsonPath")
        if not isinstance(path, str):
            return
        steps = [name or quoted or int(index) for name, index, quoted in STEP.findall(path)]
        if not steps:
            return
        value = next((piece[name] for name in VALUE_NAMES if name in piece), None)
        continues = path == self._open_path and isinstance(value, str)
        self._open_path = path if piece.get("willContinue") else ""
        _put(self.arguments, steps, value, continues=continues)


def _put(root: Json, steps: list[str | int], value: Any, *, continues: bool) -> None:
    """Set the value at the path, making what is missing on the way; text that continues joins."""
    holder: Any = root
    for step, following in pairwise(steps):
        missing: Any = [] if isinstance(following, int) else {}
        holder = _child(holder, step, missing)
        if holder is None:
            return
    before = _child(holder, steps[-1], value)
    if continues and isinstance(before, str):
        value = before + value
    if isinstance(holder, dict | list) and before is not None:
        holder[steps[-1]] = value  # type: ignore[index]


def _child(holder: Any, step: str | int, missing: Any) -> Any:
    """What the holder has at a step, put there if it was missing; None where it cannot be."""
    if isinstance(holder, dict) and isinstance(step, str):
        return holder.setdefault(step, missing)
    if isinstance(holder, list) and isinstance(step, int) and step < LIST_ITEMS_MAX:
        while len(holder) <= step:
            holder.append(None)
        if holder[step] is None:
            holder[step] = missing
        return holder[step]
    return None
