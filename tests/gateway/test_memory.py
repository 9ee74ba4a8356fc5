"""State of tool calls: noted from an answer, put back into the next request."""

from gateway import memory
from gateway.events import (
    Carry,
    Event,
    ReasoningDelta,
    ReasoningEnded,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from gateway.generation import GenerationRequest, Reasoning, Text, ToolCall, ToolResult, Turn

SIGNED = Carry("anthropic.thinking", "sig==", "claude")
THOUGHT = Carry("gemini.thought", "AbC+/=", "gemini")


def recorded(*events: Event) -> dict[str, object]:
    recorder = memory.Recorder()
    for event in events:
        recorder.add(event)
    return recorder.rows()


def request(*parts: object) -> GenerationRequest:
    turn = Turn("assistant", parts)  # type: ignore[arg-type]
    return GenerationRequest("m", (Turn("user", (Text("hi"),)), turn))


def test_reasoning_is_kept_under_the_first_tool_call_that_follows_and_comes_back_before_it() -> (
    None
):
    kept = recorded(
        ReasoningDelta("let me "),
        ReasoningDelta("think"),
        ReasoningEnded(SIGNED),
        TextDelta("I will look."),
        ToolCallStarted(0, "call_1", "look"),
        ToolCallDelta(0, "{}"),
        ToolCallStarted(1, "call_2", "look"),
    )
    assert list(kept) == ["call_1"]
    restored = memory.restore(
        request(
            Reasoning("let me think"),
            Text("I will look."),
            ToolCall("call_1", "look", "{}"),
            ToolCall("call_2", "look", "{}"),
        ),
        kept,
    )
    parts = restored.turns[1].parts
    assert parts[0] == Reasoning("let me think", SIGNED)
    assert [type(part) for part in parts] == [Reasoning, Text, ToolCall, ToolCall]


def test_a_signature_of_a_tool_call_comes_back_on_it() -> None:
    kept = recorded(ToolCallStarted(0, "call_1", "look", carry=THOUGHT))
    restored = memory.restore(request(ToolCall("call_1", "look", "{}")), kept)
    assert restored.turns[1].parts == (ToolCall("call_1", "look", "{}", THOUGHT),)


def test_state_the_client_kept_itself_wins() -> None:
    own = Carry("gemini.thought", "own")
    kept = recorded(ToolCallStarted(0, "call_1", "look", carry=THOUGHT))
    asked = request(ToolCall("call_1", "look", "{}", own))
    assert memory.missing_ids(asked) == []
    assert memory.restore(asked, kept).turns[1].parts == (ToolCall("call_1", "look", "{}", own),)


def test_calls_without_state_leave_nothing_and_other_choices_are_not_mixed_in() -> None:
    assert recorded(ReasoningDelta("x"), ToolCallStarted(0, "call_1", "f")) == {}
    assert recorded(ToolCallStarted(0, "call_1", "f", choice=1, carry=THOUGHT)) == {}


def test_results_and_users_words_stay_as_they_are() -> None:
    turn = Turn("tool", (ToolResult("call_1", (Text("4"),)),))
    asked = GenerationRequest("m", (turn,))
    kept = recorded(ToolCallStarted(0, "call_1", "f", carry=THOUGHT))
    assert memory.restore(asked, kept) == asked


def test_carries_are_stamped_with_the_model_that_made_them() -> None:
    event = memory.stamp(ReasoningEnded(Carry("anthropic.thinking", "s")), "claude-x")
    assert event == ReasoningEnded(Carry("anthropic.thinking", "s", "claude-x"))
    assert memory.stamp(TextDelta("a"), "m") == TextDelta("a")
    assert memory.stamp(ReasoningEnded(), "m") == ReasoningEnded()
