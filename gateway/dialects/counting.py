"""Token counts as providers report them, and their parts made disjoint. Pure.

What a number may be: a whole number from 0 to COUNT_MAX; 12.0 is 12. Anything else that is a number
(negative, a fraction, 10^18) cannot be a count: it is left out, as if it had not been reported, and
the usage says so (`is_doubtful`), which the usage record shows as estimated. Text, null and
booleans are no numbers: not reported, which is not zero. A part above its whole is cut to it, so
that no token is billed twice.
"""

from typing import Any

from billing.pricing import Usage

# Ten times the largest context window there is.
COUNT_MAX = 100_000_000


class Counts:
    """Reads counts; remembers in `is_doubtful` whether any number could not be one."""

    def __init__(self) -> None:
        self.is_doubtful = False

    def take(self, holder: Any, name: str) -> int | None:
        """The count of this name; None when there is none."""
        value = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        # Not a number is not within either; infinity is above.
        if not 0 <= value <= COUNT_MAX or value != int(value):
            self.is_doubtful = True
            return None
        return int(value)


def divide(
    whole_input: int,
    whole_output: int,
    *,
    cached: int = 0,
    written: int = 0,
    written_1h: int = 0,
    audio: int = 0,
    cached_audio: int = 0,
    image: int = 0,
    audio_output: int = 0,
    image_output: int = 0,
    reasoning: int = 0,
    is_doubtful: bool = False,
) -> Usage:
    """Disjoint buckets whose sum is `whole_input + whole_output`, from parts that may overlap.

    `cached` contains `cached_audio`, `written` contains `written_1h`, and `audio` contains
    `cached_audio`; `image` is what of images was not cached. Where cached and spoken tokens are
    more than there are, those too many must be both.
    """
    cached = min(cached, whole_input)
    written = min(written, whole_input - cached)
    fresh = whole_input - cached - written
    cached_audio = min(max(cached_audio, audio - fresh), cached, audio)
    audio_input = min(audio - cached_audio, fresh)
    image_input = min(image, fresh - audio_input)
    audio_output = min(audio_output, whole_output)
    image_output = min(image_output, whole_output - audio_output)
    output = whole_output - audio_output - image_output
    written_1h = min(written_1h, written)
    return Usage(
        input=fresh - audio_input - image_input,
        cache_read=cached - cached_audio,
        cache_write=written - written_1h,
        cache_write_1h=written_1h,
        audio_input=audio_input,
        audio_cache_read=cached_audio,
        image_input=image_input,
        output=output,
        audio_output=audio_output,
        image_output=image_output,
        reasoning=min(reasoning, output),
        is_doubtful=is_doubtful,
    )
