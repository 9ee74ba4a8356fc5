"""How large a prompt can be: media by position and provider, everything else by its bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.models import UsageRecord
from gateway import prompts
from gateway.dialects import CLIENT_DIALECTS
from gateway.dialects.media import Kind, Medium
from gateway.providers import PROVIDERS
from tests.gateway.conftest import ApiClient, Provider, Tenant
from tests.gateway.test_proxy import whole

BASE64 = "iVBORw0KGgo" * 1000
SIZE = len(BASE64)
PNG = f"data:image/png;base64,{BASE64}"
PDF = f"data:application/pdf;base64,{BASE64}"
TEXT = f"data:text/csv;base64,{BASE64}"
URL = "https://example.com/it"
IMAGE, DOCUMENT, AUDIO = Kind.IMAGE, Kind.DOCUMENT, Kind.AUDIO
WINDOW = 200_000


def chat(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts)}]}


def image_url(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def file(**members: str) -> dict[str, Any]:
    return {"type": "file", "file": members}


def sound(format_: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": BASE64, "format": format_}}


def claude(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def block(kind: str, **source: str) -> dict[str, Any]:
    return {"type": kind, "source": source}


def gemini(*parts: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def inline(media_type: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": media_type, "data": BASE64}}


PNG_BLOCK = block("image", type="base64", media_type="image/png", data=BASE64)
PDF_BLOCK = block("document", type="base64", media_type="application/pdf", data=BASE64)


@pytest.mark.parametrize(
    ("wire", "body", "found"),
    [
        ("openai_chat", chat(image_url(PNG)), [Medium(IMAGE, SIZE)]),
        ("openai_chat", chat(image_url(URL)), [Medium(IMAGE)]),
        ("openai_chat", chat(image_url(TEXT)), []),
        ("openai_chat", chat(image_url(PNG), role="tool"), [Medium(IMAGE, SIZE)]),
        ("openai_chat", chat(file(file_data=PDF)), [Medium(DOCUMENT, SIZE)]),
        ("openai_chat", chat(file(file_data=BASE64)), [Medium(DOCUMENT, SIZE)]),
        ("openai_chat", chat(file(file_data=TEXT)), []),
        ("openai_chat", chat(file(file_id="file-1")), [Medium(DOCUMENT)]),
        ("openai_chat", chat(sound("mp3")), [Medium(AUDIO, SIZE)]),
        ("openai_chat", chat(sound("flac")), [Medium(DOCUMENT, SIZE)]),
        ("openai_chat", chat({"type": "video_url", "video_url": {"url": URL}}), [Medium(DOCUMENT)]),
        ("openai_chat", chat({"type": "text", "text": BASE64}), []),
        ("openai_chat", {"messages": [{"role": "user", "content": PNG}]}, []),
        (
            "openai_chat",
            {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
            [Medium(DOCUMENT)],
        ),
        (
            "openai_responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]},
            [Medium(IMAGE, SIZE)],
        ),
        (
            "openai_responses",
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "output": [
                            {"type": "input_image", "image_url": URL},
                            {"type": "input_file", "file_url": URL},
                            {"type": "input_file", "file_data": PDF},
                        ],
                    }
                ]
            },
            [Medium(IMAGE), Medium(DOCUMENT), Medium(DOCUMENT, SIZE)],
        ),
        (
            "openai_responses",
            {
                "input": [
                    {
                        "type": "computer_call_output",
                        "output": {"type": "computer_screenshot", "image_url": PNG},
                    },
                    {"type": "image_generation_call", "result": BASE64},
                ]
            },
            [Medium(IMAGE, SIZE), Medium(IMAGE, SIZE)],
        ),
        (
            "openai_responses",
            {
                "input": [
                    {"type": "function_call_output", "output": PNG},
                    {"type": "function_call", "arguments": json.dumps(chat(image_url(PNG)))},
                    {"type": "reasoning", "encrypted_content": BASE64, "summary": []},
                ]
            },
            [],
        ),
        ("openai_responses", {"input": PNG}, []),
        ("anthropic", claude(PNG_BLOCK), [Medium(IMAGE, SIZE)]),
        ("anthropic", claude(block("image", type="url", url=URL)), [Medium(IMAGE)]),
        ("anthropic", claude(PDF_BLOCK), [Medium(DOCUMENT, SIZE)]),
        ("anthropic", claude(block("document", type="url", url=URL)), [Medium(DOCUMENT)]),
        (
            "anthropic",
            claude(block("document", type="text", media_type="text/plain", data=BASE64)),
            [],
        ),
        (
            "anthropic",
            claude({"type": "tool_result", "tool_use_id": "t", "content": [PNG_BLOCK]}),
            [Medium(IMAGE, SIZE)],
        ),
        (
            "anthropic",
            claude({"type": "document", "source": {"type": "content", "content": [PNG_BLOCK]}}),
            [Medium(IMAGE, SIZE)],
        ),
        # What a tool was called with is text to the model, whatever it looks like.
        ("anthropic", claude({"type": "tool_use", "input": PNG_BLOCK}), []),
        ("anthropic", claude({"type": "thinking", "thinking": "", "signature": BASE64}), []),
        ("gemini", gemini(inline("image/png")), [Medium(IMAGE, SIZE)]),
        ("gemini", gemini(inline("application/pdf")), [Medium(DOCUMENT, SIZE)]),
        ("gemini", gemini(inline("video/mp4")), [Medium(DOCUMENT, SIZE)]),
        ("gemini", gemini(inline("audio/wav")), [Medium(AUDIO, SIZE)]),
        ("gemini", gemini(inline("audio/ogg")), [Medium(DOCUMENT, SIZE)]),
        ("gemini", gemini(inline("text/plain")), []),
        (
            "gemini",
            gemini({"inline_data": {"mime_type": "image/png", "data": BASE64}}),
            [Medium(IMAGE, SIZE)],
        ),
        (
            "gemini",
            gemini({"fileData": {"mimeType": "image/png", "fileUri": URL}}),
            [Medium(IMAGE)],
        ),
        ("gemini", gemini({"fileData": {"fileUri": URL}}), [Medium(DOCUMENT)]),
        (
            "gemini",
            gemini({"functionResponse": {"name": "f", "parts": [inline("image/png")]}}),
            [Medium(IMAGE, SIZE)],
        ),
        ("gemini", gemini({"functionCall": {"name": "f", "args": inline("image/png")}}), []),
        (
            "gemini",
            {"systemInstruction": {"parts": [inline("image/png")]}, "contents": []},
            [Medium(IMAGE, SIZE)],
        ),
    ],
)
def test_media_are_found_where_a_wire_has_a_place_for_them(
    wire: str, body: dict[str, Any], found: list[Medium]
) -> None:
    assert CLIENT_DIALECTS[wire].media(body) == found


KEYS = st.sampled_from(
    [
        "messages",
        "input",
        "contents",
        "content",
        "parts",
        "type",
        "source",
        "image_url",
        "url",
        "file",
        "file_data",
        "data",
        "input_audio",
        "format",
        "output",
        "result",
        "inlineData",
        "mimeType",
        "functionResponse",
        "media_type",
        "audio",
    ]
)
WORDS = st.sampled_from(
    [
        "text",
        "image",
        "document",
        "tool_result",
        "image_url",
        "input_image",
        "file",
        "base64",
        "url",
        "data:",
        "data:,",
        "mp3",
        "image/png",
        "computer_screenshot",
        "image_generation_call",
    ]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=30,
)


@given(body=st.dictionaries(KEYS, JUNK, max_size=4), wire=st.sampled_from(sorted(CLIENT_DIALECTS)))
def test_junk_is_no_medium_and_no_error(body: dict[str, Any], wire: str) -> None:
    found = CLIENT_DIALECTS[wire].media(body)
    assert sum(medium.payload for medium in found) <= len(json.dumps(body))


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [
        ("openai", "gpt-4o", 1_445),
        ("openai", "gpt-4o-2024-08-06", 1_445),
        ("openai", "gpt-4o-mini", 48_169),
        ("openai", "gpt-5.2-codex", 24_600),
        ("anthropic", "claude-opus-4-5", 4_784),
        ("google", "gemini-3-flash-preview", 2_240),
        ("google", "gemini-2.5-flash", 25_800),
    ],
)
def test_an_image_counts_the_most_it_can_be_at_its_provider(
    provider: str, model: str, tokens: int
) -> None:
    for url in (PNG, URL):
        body = chat(image_url(url))
        size = prompts.measure(
            len(json.dumps(body)), CLIENT_DIALECTS["openai_chat"].media(body), body
        )
        bound = size.tokens_max(PROVIDERS[provider], model, WINDOW)
        # The rest of the body: its signs, and the URL or its header.
        assert tokens < bound < tokens + 300


def test_text_counts_by_its_bytes_also_where_it_looks_like_base64() -> None:
    body = chat({"type": "text", "text": BASE64})
    size = prompts.measure(len(json.dumps(body)), CLIENT_DIALECTS["openai_chat"].media(body), body)
    assert size.tokens_max(PROVIDERS["openai"], "gpt-4o", WINDOW) > SIZE


@pytest.mark.parametrize(("provider", "per_second"), [("openai", 10), ("google", 32)])
def test_a_recording_counts_the_seconds_that_its_bytes_can_hold(
    provider: str, per_second: int
) -> None:
    # 75,000 bytes: 150 seconds at 4,000 bits a second, the least that speech is coded with.
    size = prompts.measure(100_100, [Medium(AUDIO, 100_000)], {})
    bound = size.tokens_max(PROVIDERS[provider], "any", WINDOW)
    assert bound == 150 * per_second + 100 + prompts.WRAPPING_TOKENS


@pytest.mark.parametrize("document", [Medium(DOCUMENT), Medium(DOCUMENT, 100)])
def test_a_document_may_fill_the_window_and_no_more(document: Medium) -> None:
    size = prompts.measure(1000, [document, Medium(IMAGE)], {})
    for provider in PROVIDERS.values():
        assert size.tokens_max(provider, "any", WINDOW) == WINDOW


def test_a_prompt_is_never_above_the_window() -> None:
    assert prompts.PromptSize(10**7).tokens_max(PROVIDERS["openai"], "gpt-4o", WINDOW) == WINDOW


def test_tools_and_formats_count_what_their_provider_says_of_them() -> None:
    plain = prompts.measure(100, [], {"messages": []})
    explained = prompts.measure(100, [], {"messages": [], "tools": []})
    anthropic = PROVIDERS["anthropic"]
    difference = explained.tokens_max(anthropic, "m", WINDOW) - plain.tokens_max(
        anthropic, "m", WINDOW
    )
    assert difference == anthropic.explanation_tokens_max


def test_an_estimate_is_about_what_a_prompt_has_and_never_nothing() -> None:
    assert prompts.measure(0, [], {}).tokens_estimate() == 1
    assert prompts.measure(4000 + SIZE, [Medium(IMAGE, SIZE)], {}).tokens_estimate() == 2000
    # A document of a megabyte, whose bound is the window.
    assert prompts.measure(2**20, [Medium(DOCUMENT, 2**20)], {}).tokens_estimate() < 25_000


async def test_a_call_with_an_image_is_held_for_the_image_and_not_for_its_base64(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    for parts in ("hello", [image_url(URL)], [image_url(PNG)], [file(file_data=PDF)]):
        message = {"role": "user", "content": parts}
        assert (await api.chat(messages=[message])).status == 200
    held = [
        record.held_nanos async for record in UsageRecord.objects.order_by("started_at", "call_id")
    ]
    output = 100 * 10_000
    text, remote, inline_image, document = (nanos - output for nanos in held)
    assert text < 300 * 2_500
    for image in (remote, inline_image):
        assert 1_445 * 2_500 < image < (1_445 + 400) * 2_500
    assert document == 8_192 * 2_500
