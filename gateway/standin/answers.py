"""An answer as events: what the plan says, or the local model's own text."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

from billing.pricing import Usage
from gateway.events import (
    Carry,
    ChoiceFinished,
    Ended,
    Event,
    FinishReason,
    ReasoningDelta,
    ReasoningEnded,
    RefusalDelta,
    Started,
    TextDelta,
    TextSigned,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.generation import GenerationRequest
from gateway.standin import scripts
from gateway.standin.caching import Prompt
from gateway.standin.local import OUTPUT_TOKENS_MAX, LocalModel, UnableToAskModel
from gateway.standin.rejections import Asked
from gateway.standin.signatures import sign
from gateway.standin.strict_anthropic import REDACTED
from gateway.standin.wires import Wire

BYTES_PER_TOKEN = 4
# A text in pieces of a word each, a JSON text in pieces of a few characters.
WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")
JSON_PIECE_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one request. `seed` makes its ids; `prompt` counts what was asked."""

    wire: Wire
    asked: Asked
    request: GenerationRequest
    plan: scripts.Plan
    prompt: Prompt
    seed: str
    created_at: int
    model: LocalModel

    async def events(self) -> AsyncIterator[Event]:
        """The whole answer. Raises UnableToAskModel."""
        yield Started(f"stand-in-{self.seed}", self.asked.model, self.created_at)
        usage = Usage()
        for choice in range(self.request.parameters.choices):
            written = 0
            for event in self._reasoning(choice):
                written += _tokens(event)
                yield event
            thought = max(written, self._hidden_tokens())
            usage = replace(
                usage, output=usage.output + thought, reasoning=usage.reasoning + thought
            )
            async for event in self._content(choice):
                if isinstance(event, UsageReported):
                    usage = _add(usage, event.usage)
                else:
                    yield event
        if not usage.whole_input:
            usage = replace(
                usage,
                input=self.prompt.input,
                cache_read=self.prompt.cache_read,
                cache_write=self.prompt.cache_write,
                cache_write_1h=self.prompt.cache_write_1h,
            )
        yield UsageReported(usage)
        yield Ended()

    # --- reasoning ---------------------------------------------------------------------------

    def _thinks(self) -> str:
        asked_for = self.wire.thinks(self.asked)
        has_text = self.wire.dialect != "openai_chat"
        return "shown" if self.plan.thought and has_text else asked_for

    def _hidden_tokens(self) -> int:
        if self._thinks() == "none" and not self.plan.thought:
            return 0
        return len(self.plan.thought or scripts.THOUGHT) // BYTES_PER_TOKEN

    def _reasoning(self, choice: int) -> Iterator[Event]:
        kind = self._thinks()
        if kind == "none":
            return
        if self.plan.is_redacted:
            yield ReasoningEnded(Carry(REDACTED, sign(REDACTED, ""), self.asked.model), choice)
            return
        text = (self.plan.thought or scripts.THOUGHT) if kind == "shown" else ""
        for piece in WORD.findall(text):
            yield ReasoningDelta(piece, choice, is_summary=self.wire.is_summary)
        yield ReasoningEnded(self.wire.carry_of_reasoning(self.asked, text), choice)

    # --- text and calls ----------------------------------------------------------------------

    async def _content(self, choice: int) -> AsyncIterator[Event]:
        if self.plan.text is None:
            async for event in self._ask_model(choice):
                yield event
            return
        tokens = 0
        for event in self._scripted(choice):
            tokens += _tokens(event)
            yield event
        yield UsageReported(Usage(output=max(tokens, 1)))

    async def _ask_model(self, choice: int) -> AsyncIterator[Event]:
        """The local model's text, with this wire's signature at its end."""
        limit = self.request.parameters.output_tokens_max
        usage = Usage()
        async for event in self.model.ask(self.request):
            match event:
                case TextDelta(text=text):
                    yield TextDelta(text, choice)
                case UsageReported():
                    usage = event.usage
                case ChoiceFinished(reason=reason):
                    # Its own limit is lower than a real model's: that one was not reached.
                    is_limit = limit is not None and limit <= OUTPUT_TOKENS_MAX
                    is_cut_short = reason is FinishReason.LENGTH and is_limit
                    for last in self._finish(choice, is_cut_short=is_cut_short):
                        yield last
                case _:
                    pass
        if not usage.total:
            raise UnableToAskModel("The local model did not say what it counted.")
        yield UsageReported(usage)

    def _scripted(self, choice: int) -> Iterator[Event]:
        text, is_cut_short = self._limit(self.plan.text or "")
        for piece in WORD.findall(text):
            yield TextDelta(piece, choice)
        if self.plan.refusal:
            yield RefusalDelta(self.plan.refusal, choice)
        for index, call in enumerate(self.plan.calls):
            call_id = f"{self.wire.call_prefix}{self.seed[:20]}{choice}{index}"
            carry = self.wire.carry_of_call(self.asked, call.name) if index == 0 else None
            yield ToolCallStarted(index, call_id, call.name, choice, carry)
            for begin in range(0, len(call.arguments), JSON_PIECE_CHARACTERS):
                piece = call.arguments[begin : begin + JSON_PIECE_CHARACTERS]
                yield ToolCallDelta(index, piece, choice)
        yield from self._finish(choice, is_cut_short=is_cut_short)

    def _limit(self, text: str) -> tuple[str, bool]:
        """The text as far as the request lets it go, and whether it was cut."""
        stops = [text.find(stop) for stop in self.request.parameters.stop]
        text = text[: min((at for at in stops if at >= 0), default=len(text))]
        most = self.request.parameters.output_tokens_max
        if most is None or len(text.encode()) // BYTES_PER_TOKEN <= most:
            return text, False
        return text[: most * BYTES_PER_TOKEN], True

    def _finish(self, choice: int, *, is_cut_short: bool) -> Iterator[Event]:
        is_answer = not self.plan.calls and not self.plan.refusal
        if is_answer and (carry := self.wire.carry_of_text(self.asked, "")):
            yield TextSigned(carry, choice)
        yield ChoiceFinished(self._reason(is_cut_short=is_cut_short), choice)

    def _reason(self, *, is_cut_short: bool) -> FinishReason:
        if is_cut_short or self.plan.is_cut_short:
            return FinishReason.LENGTH
        if self.plan.refusal:
            # OpenAI says stop and puts the refusal beside the content.
            is_openai = self.wire.dialect.startswith("openai")
            return FinishReason.STOP if is_openai else FinishReason.CONTENT_FILTER
        return FinishReason.TOOL_CALLS if self.plan.calls else FinishReason.STOP


def _tokens(event: Event) -> int:
    match event:
        case TextDelta(text=text) | ReasoningDelta(text=text) | RefusalDelta(text=text):
            return -(-len(text.encode()) // BYTES_PER_TOKEN)
        case ToolCallStarted(name=name):
            return -(-len(name) // BYTES_PER_TOKEN)
        case ToolCallDelta(json_piece=piece):
            return -(-len(piece) // BYTES_PER_TOKEN)
        case _:
            return 0


def _add(one: Usage, other: Usage) -> Usage:
    """The usage of one more choice: the prompt counts once."""
    return replace(
        one,
        input=max(one.input, other.input),
        cache_read=max(one.cache_read, other.cache_read),
        output=one.output + other.output,
    )
