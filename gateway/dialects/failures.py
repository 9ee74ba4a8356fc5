"""What a tool answered, for wires that cannot mark it as a failure. Pure.

Anthropic's and Google's wires can, OpenAI's two cannot: there the answer has to say so itself.
"""

from dataclasses import replace

from gateway.generation import File, Image, Text, ToolResult

WORD = "Error"


def spoken(result: ToolResult) -> tuple[Text | Image | File, ...]:
    """The parts of the answer, a failure told in words."""
    if not result.is_error:
        return result.parts
    first, *rest = result.parts or (Text(""),)
    if not isinstance(first, Text):
        return (Text(WORD), *result.parts)
    if first.text.lower().startswith(WORD.lower()):
        return result.parts
    return (replace(first, text=f"{WORD}: {first.text}" if first.text else WORD), *rest)
