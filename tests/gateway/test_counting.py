"""Counts and their disjoint parts: every token in one bucket, whatever the parts claim."""

from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import Usage
from gateway.dialects import (
    anthropic_answers,
    anthropic_frames,
    chat_answers,
    gemini_answers,
    gemini_reading,
    openai_chat,
    responses_objects,
)
from gateway.dialects.counting import divide

TOKENS = st.integers(0, 100_000)
PARTS = ("cached", "written", "written_1h", "audio", "cached_audio", "image")
USAGES = st.builds(
    Usage, **{name: TOKENS for name in Usage.__dataclass_fields__ if name != "is_doubtful"}
).filter(lambda usage: usage.reasoning <= usage.output)


@given(
    whole_input=TOKENS,
    whole_output=TOKENS,
    parts=st.fixed_dictionaries(dict.fromkeys((*PARTS, "audio_output", "image_output"), TOKENS)),
    reasoning=TOKENS,
)
def test_buckets_are_disjoint_whatever_the_parts_claim(
    whole_input: int, whole_output: int, parts: dict[str, int], reasoning: int
) -> None:
    usage = divide(whole_input, whole_output, **parts, reasoning=reasoning)
    assert min(usage.counts) >= 0
    assert usage.whole_input == whole_input
    assert usage.whole_output == whole_output
    assert usage.reasoning <= usage.output
    assert usage.cache_read + usage.audio_cache_read == min(parts["cached"], whole_input)
    assert usage.audio_input + usage.audio_cache_read <= parts["audio"]


@given(USAGES)
def test_every_wire_tells_all_tokens_and_reads_them_back(usage: Usage) -> None:
    again = (
        chat_answers.read_usage_object(openai_chat.write_usage_object(usage)),
        responses_objects.read_usage(responses_objects.write_usage(usage)),
        anthropic_answers.UsageTotals().merge(anthropic_frames.write_usage(usage)),
        gemini_reading.UsageReader().read({"usageMetadata": gemini_answers.write_usage(usage)}),
    )
    for read in again:
        assert read is not None
        assert (read.whole_input, read.whole_output) == (usage.whole_input, usage.whole_output)
        assert read.reasoning == usage.reasoning
        assert not read.is_doubtful


@given(USAGES)
def test_what_a_wire_can_itemise_comes_back_in_its_bucket(usage: Usage) -> None:
    chat = chat_answers.read_usage_object(openai_chat.write_usage_object(usage))
    assert chat is not None
    assert chat.audio_input == usage.audio_input
    assert chat.audio_cache_read == usage.audio_cache_read
    assert chat.image_input == usage.image_input
    assert chat.audio_output == usage.audio_output
    assert chat.image_output == usage.image_output
    claude = anthropic_answers.UsageTotals().merge(anthropic_frames.write_usage(usage))
    assert claude is not None
    assert claude.cache_write_1h == usage.cache_write_1h
    assert claude.cache_write == usage.cache_write
