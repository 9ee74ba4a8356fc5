"""What the Responses stand-in keeps: the last answers and their items, in memory."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.standin.rejections import Json, objects
from gateway.standin.strict_openai import refuse, rejection
from gateway.standin.strict_responses import kind_of

RESPONSES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer and everything that was said up to it."""

    response: Json
    turns: tuple[Json, ...]


class Memory:
    """Answers by id; the oldest go first."""

    def __init__(self) -> None:
        self._responses: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, response: Json, asked: Sequence[Json]) -> None:
        """Keep an answer, with the items it was asked with."""
        turns = (*asked, *response["output"])
        self._responses[response["id"]] = Kept(response, turns)
        while len(self._responses) > RESPONSES_MAX:
            self._responses.popitem(last=False)

    def find(self, response_id: str) -> Json | None:
        """A kept answer."""
        kept = self._responses.get(response_id)
        return kept.response if kept else None

    def forget(self, response_id: str) -> bool:
        """Delete an answer; whether there was one."""
        return self._responses.pop(response_id, None) is not None

    def previous(self, body: Json) -> tuple[Json, ...]:
        """The turns before the body's own. Raises Rejection for an unknown previous response."""
        response_id = body.get("previous_response_id")
        if response_id is None:
            return ()
        kept = self._responses.get(str(response_id))
        if kept is None:
            raise refuse(
                f"Previous response with id '{response_id}' not found.",
                "previous_response_id",
                "previous_response_not_found",
            )
        return kept.turns

    def items(self, body: Json) -> dict[str, Json]:
        """The kept items that the input refers to. Raises Rejection for an unknown one."""
        found: dict[str, Json] = {}
        known = self._items()
        given = objects(body.get("input"))
        for item in given:
            item_id = item.get("id")
            kind = kind_of(item)
            is_bare = kind == "reasoning" and not item.get("encrypted_content")
            if item_id in known:
                found[item_id] = known[item_id]
            elif kind == "item_reference" or (is_bare and item_id is not None):
                raise rejection(
                    404,
                    f"Item with id '{item_id}' not found. Items are not persisted when `store` is "
                    "set to false. Try again with `store` set to true, or remove this item from "
                    "your input.",
                    param="input",
                )
        self._check_reasoning(given)
        return found

    def _items(self) -> dict[str, Json]:
        return {
            item["id"]: item
            for kept in self._responses.values()
            for item in kept.response["output"]
        }

    def _check_reasoning(self, given: list[Json]) -> None:
        """A kept call comes back with the reasoning that led to it. Raises Rejection."""
        ids = {item.get("id") for item in given}
        for kept in self._responses.values():
            output = kept.response["output"]
            for before, item in itertools.pairwise(output):
                is_missing = before["type"] == "reasoning" and before["id"] not in ids
                if is_missing and item["type"] == "function_call" and item["id"] in ids:
                    raise refuse(
                        f"Item '{item['id']}' of type 'function_call' was provided without its "
                        f"required 'reasoning' item: '{before['id']}'.",
                        "input",
                    )
