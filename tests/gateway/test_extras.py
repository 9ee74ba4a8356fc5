"""What a forwarded request may not ask of a provider."""

from typing import Any

import pytest

from gateway.dialects import extras
from gateway.refusals import Refusal

GOOGLES_FILE = "https://generativelanguage.googleapis.com/v1beta/files/abc"


@pytest.mark.parametrize(
    ("dialect", "body", "param"),
    [
        ("openai_chat", {"web_search_options": {"a": 1}}, "web_search_options"),
        ("openai_chat", {"service_tier": "priority"}, "service_tier"),
        ("openai_chat", {"service_tier": ["priority"]}, "service_tier"),
        ("openai_responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (
            "openai_responses",
            {"tools": [{"type": "function", "name": "f"}, {"type": "file_search"}]},
            "tools[1].type",
        ),
        (
            "openai_responses",
            {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]},
            "tools[0].environment",
        ),
        (
            "openai_responses",
            {
                "input": [
                    {"role": "user", "content": "Hi"},
                    {"type": "additional_tools", "tools": [{"type": "web_search"}]},
                ]
            },
            "input[1].tools[0].type",
        ),
        (
            "openai_responses",
            {"input": [{"type": "tool_search_output", "tools": [{"type": "code_interpreter"}]}]},
            "input[0].tools[0].type",
        ),
        ("openai_responses", {"conversation": "conv_1"}, "conversation"),
        ("openai_responses", {"background": True}, "background"),
        ("openai_responses", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("anthropic", {"tools": [{"type": "web_search_20250305"}]}, "tools[0].type"),
        ("anthropic", {"tools": [{"type": "code_execution_20250825"}]}, "tools[0].type"),
        ("anthropic", {"container": "c_1"}, "container"),
        ("anthropic", {"speed": "fast"}, "speed"),
        ("anthropic", {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ("gemini", {"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ("gemini", {"cachedContent": "cachedContents/1"}, "cachedContent"),
        ("gemini", {"serviceTier": "priority"}, "serviceTier"),
        (
            "openai_chat",
            {"messages": ["odd", {"content": [{"file": {"file_id": "file-1"}}]}]},
            "messages[1].content[0].file.file_id",
        ),
        (
            "anthropic",
            {"messages": [{"content": [{"source": {"type": "file", "file_id": "file_1"}}]}]},
            "messages.0.content.0.source.file_id",
        ),
        (
            "anthropic",
            {"messages": [{"content": [{"content": [{"source": {"file_id": "file_1"}}]}]}]},
            "messages.0.content.0.content.0.source.file_id",
        ),
        (
            "anthropic",
            {"messages": [{"content": [{"type": "container_upload", "file_id": "file_1"}]}]},
            "messages.0.content.0.file_id",
        ),
        (
            "gemini",
            {"contents": [{"parts": [{"text": "x"}, {"fileData": {"fileUri": GOOGLES_FILE}}]}]},
            "contents[0].parts[1].fileData.fileUri",
        ),
        (
            "gemini",
            {"contents": [{"parts": [{"file_data": {"file_uri": "gs://bucket/a.pdf"}}]}]},
            "contents[0].parts[0].file_data.file_uri",
        ),
    ],
)
def test_what_cannot_be_billed_or_kept_apart_is_a_400_that_names_it(
    dialect: str, body: Any, param: str
) -> None:
    with pytest.raises(Refusal) as refused:
        extras.refuse_unpriced(dialect, body)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("openai_chat", {"service_tier": "auto", "made_up": {"kept": True}, "tools": []}),
        ("openai_chat", {"web_search_options": None, "service_tier": None}),
        ("openai_responses", {"tools": [{"type": "function"}, {"type": "custom"}]}),
        ("openai_responses", {"background": False, "conversation": None}),
        ("openai_responses", {"tools": [{"type": "shell", "environment": {"type": "local"}}]}),
        (
            "openai_responses",
            {"input": [{"type": "additional_tools", "tools": [{"type": "shell"}]}]},
        ),
        ("openai_responses", {"input": "additional_tools", "tools": None}),
        ("anthropic", {"tools": [{"name": "f"}, {"type": "custom"}, {"type": "bash_20250124"}]}),
        ("gemini", {"tools": [{"functionDeclarations": []}], "safetySettings": []}),
        ("gemini", {"tools": "nonsense is the provider's to refuse"}),
        ("unheard_of", {"service_tier": "priority"}),
        ("openai_chat", {"messages": [{"content": [{"file": {"file_data": "x"}}, {"file": 1}]}]}),
        ("anthropic", {"messages": [{"content": [{"source": {"type": "base64"}}, "x"]}, 1]}),
        ("gemini", {"contents": [{"parts": [{"fileData": {"fileUri": "https://youtu.be/x"}}]}]}),
        ("gemini", {"contents": [{"parts": [{"fileData": "x"}, {"fileData": {}}]}]}),
    ],
)
def test_everything_else_goes_through(dialect: str, body: Any) -> None:
    extras.refuse_unpriced(dialect, body)
