"""Output items while they are being written: each tells the events of its life in wire order.

Owns the brackets `output_item.added` > `content_part.added` > deltas > `.done`, which accumulating
clients require. An item says what happened through `tell`; who numbers and sends that is not its
business. Facts: platform.openai.com/docs/api-reference/responses-streaming. Pure.
"""

from collections.abc import Callable
from typing import Any

import orjson

from gateway.dialects.base import Json
from gateway.events import CitationAdded

Tell = Callable[[str, Json], None]


class Item:
    """What all items share: where they are, and how they begin and end."""

    def __init__(self, body: Json, position: int, tell: Tell) -> None:
        self.body = body
        self._position = position
        self._tell = tell
        tell("response.output_item.added", {"output_index": position, "item": body})

    def _say(self, kind: str, **fields: Any) -> None:
        """An event about this item."""
        at = {"item_id": self.body["id"], "output_index": self._position}
        self._tell(kind, {**at, **fields})

    def _end(self) -> None:
        self._tell("response.output_item.done", {"output_index": self._position, "item": self.body})

    def partial(self) -> Json:
        """The item as far as it got, for an answer that failed."""
        return self.body


class MessageItem(Item):
    """Text and refusals, in parts. `said_before` is the length of the answer's text so far."""

    def __init__(self, item_id: str, position: int, tell: Tell, said_before: int) -> None:
        body = {
            "id": item_id,
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        super().__init__(body, position, tell)
        self._said_before = said_before
        self._kind = ""
        self._pieces: list[str] = []
        self._logprobs: list[Json] = []
        self._annotations: list[Json] = []

    def text(self, text: str, logprobs: tuple[Json, ...]) -> None:
        """More text."""
        if self._kind != "output_text":
            self._open_part("output_text")
        self._pieces.append(text)
        self._logprobs.extend(logprobs)
        self._say(
            "response.output_text.delta",
            content_index=len(self.body["content"]),
            delta=text,
            logprobs=list(logprobs),
        )

    def refusal(self, text: str) -> None:
        """More of a refusal."""
        if self._kind != "refusal":
            self._open_part("refusal")
        self._pieces.append(text)
        self._say("response.refusal.delta", content_index=len(self.body["content"]), delta=text)

    def cite(self, event: CitationAdded) -> None:
        """A source of the text so far; one without offsets is a source of all of it."""
        if self._kind != "output_text":
            self._open_part("output_text")
        length = sum(map(len, self._pieces))
        start, end = event.start - self._said_before, event.end - self._said_before
        is_placed = event.start >= 0 and event.end >= event.start
        annotation = {
            "type": "url_citation",
            "url": event.url,
            "title": event.title,
            "start_index": max(start, 0) if is_placed else 0,
            "end_index": max(end, 0) if is_placed else length,
        }
        self._annotations.append(annotation)
        self._say(
            "response.output_text.annotation.added",
            content_index=len(self.body["content"]),
            annotation_index=len(self._annotations) - 1,
            annotation=annotation,
        )

    def sign(self, sealed: str) -> None:
        """Keep a provider's state with the text; clients that replay whole items bring it back."""
        self.body["encrypted_content"] = sealed

    def close(self, status: str) -> int:
        """End the item. The length of its text in characters."""
        self._close_part()
        self.body["status"] = status
        self._end()
        texts = [part["text"] for part in self.body["content"] if part["type"] == "output_text"]
        return sum(map(len, texts))

    def partial(self) -> Json:
        """See Item."""
        content = [*self.body["content"], *([self._part()] if self._kind else [])]
        return {**self.body, "status": "incomplete", "content": content}

    def _part(self) -> Json:
        whole = "".join(self._pieces)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": whole}
        return {
            "type": "output_text",
            "text": whole,
            "annotations": list(self._annotations),
            "logprobs": list(self._logprobs),
        }

    def _open_part(self, kind: str) -> None:
        self._close_part()
        self._kind = kind
        self._said_before += sum(map(len, self._pieces))
        self._pieces, self._logprobs, self._annotations = [], [], []
        self._say(
            "response.content_part.added",
            content_index=len(self.body["content"]),
            part=self._part(),
        )

    def _close_part(self) -> None:
        if not self._kind:
            return
        index, part = len(self.body["content"]), self._part()
        if self._kind == "refusal":
            self._say("response.refusal.done", content_index=index, refusal=part["refusal"])
        else:
            self._say(
                "response.output_text.done",
                content_index=index,
                text=part["text"],
                logprobs=part["logprobs"],
            )
        self._say("response.content_part.done", content_index=index, part=part)
        self.body["content"].append(part)
        self._kind = ""


class ReasoningItem(Item):
    """What the model thought: the provider's summary, raw text, or only its sealed form."""

    def __init__(self, item_id: str, position: int, tell: Tell) -> None:
        super().__init__({"id": item_id, "type": "reasoning", "summary": []}, position, tell)
        self._kind = ""
        self._pieces: list[str] = []

    def think(self, text: str, *, is_summary: bool) -> None:
        """More of the thought."""
        kind = "summary_text" if is_summary else "reasoning_text"
        if self._kind != kind:
            self._close_part()
            self._kind = kind
            self._pieces = []
            self._say_part("added", text="")
        self._pieces.append(text)
        name = "reasoning_summary_text" if is_summary else "reasoning_text"
        self._say(f"response.{name}.delta", **self._at(), delta=text)

    def close(self, sealed: str = "") -> None:
        """End the item, with what the provider wants back."""
        self._close_part()
        if sealed:
            self.body["encrypted_content"] = sealed
        self._end()

    def partial(self) -> Json:
        """See Item."""
        if not self._kind:
            return self.body
        member = self._member()
        part = {"type": self._kind, "text": "".join(self._pieces)}
        return {**self.body, member: [*self.body.get(member, []), part]}

    def _member(self) -> str:
        return "summary" if self._kind == "summary_text" else "content"

    def _at(self) -> Json:
        index = len(self.body.get(self._member(), []))
        return {"summary_index" if self._kind == "summary_text" else "content_index": index}

    def _say_part(self, what: str, *, text: str) -> None:
        name = "reasoning_summary_part" if self._kind == "summary_text" else "content_part"
        self._say(f"response.{name}.{what}", **self._at(), part={"type": self._kind, "text": text})

    def _close_part(self) -> None:
        if not self._kind:
            return
        text = "".join(self._pieces)
        name = "reasoning_summary_text" if self._kind == "summary_text" else "reasoning_text"
        self._say(f"response.{name}.done", **self._at(), text=text)
        self._say_part("done", text=text)
        self.body.setdefault(self._member(), []).append({"type": self._kind, "text": text})
        self._kind = ""


class CallItem(Item):
    """A call of a function. Its item id is not its call id."""

    def __init__(
        self, item_id: str, position: int, tell: Tell, *, call_id: str, name: str, namespace: str
    ) -> None:
        body = {
            "id": item_id,
            "type": "function_call",
            "status": "in_progress",
            "arguments": "",
            "call_id": call_id,
            "name": name,
        }
        if namespace:
            body["namespace"] = namespace
        super().__init__(body, position, tell)
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        """More of the arguments."""
        self._pieces.append(piece)
        self._say("response.function_call_arguments.delta", delta=piece)

    def is_whole(self) -> bool:
        """Whether the arguments are a JSON object, to which nothing can be added."""
        try:
            return isinstance(orjson.loads("".join(self._pieces)), dict)
        except orjson.JSONDecodeError:
            return False

    def sign(self, sealed: str) -> None:
        """Keep a provider's state with the call."""
        self.body["encrypted_content"] = sealed

    def close(self, status: str) -> None:
        """End the item. A call without arguments gets an empty object, which clients can parse."""
        if status == "completed" and not "".join(self._pieces).strip():
            self.add("{}")
        self.body["arguments"] = "".join(self._pieces)
        self.body["status"] = status
        self._say("response.function_call_arguments.done", arguments=self.body["arguments"])
        self._end()

    def partial(self) -> Json:
        """See Item."""
        return {**self.body, "status": "incomplete", "arguments": "".join(self._pieces)}


class ImageItem(Item):
    """An image the model made, whole at once."""

    def __init__(self, item_id: str, position: int, tell: Tell) -> None:
        body = {
            "id": item_id,
            "type": "image_generation_call",
            "status": "in_progress",
            "result": None,
        }
        super().__init__(body, position, tell)

    def close(self, data: str, media_type: str) -> None:
        """End the item with base64 data."""
        self.body |= {"status": "completed", "result": data}
        self.body["output_format"] = media_type.rpartition("/")[2]
        self._end()
