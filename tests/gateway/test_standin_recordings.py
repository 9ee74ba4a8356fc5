"""Real traffic is right: the stand-ins take what was taken and refuse what was refused."""

import re
from typing import Any

import pytest

from gateway.standin import strict_anthropic, strict_gemini, strict_openai, strict_responses
from gateway.standin.rejections import Asked, Rejection, Rule, apply
from tests.recordings import Recording, of_folder

# Signatures of the real services are not the stand-ins', who refuse them.
ABOUT_SIGNATURES = {
    strict_anthropic.check_signatures,
    strict_responses.check_encrypted,
    strict_gemini.check_thought_signatures,
}
OFFICIAL = re.compile(
    r"https://(api\.openai\.com/v1/(chat/completions|responses)$|api\.anthropic\.com/v1/messages"
    r"|generativelanguage\.googleapis\.com/v1beta/models/[^:]+:\w*[gG]enerateContent)"
)
# What depends on more than the body: the key, quota, a file's content, a text that was cut out of
# the recording.
BEYOND_RULES = re.compile(r"auth_error|context_length|direct-url-audio|openllmetry__vision\.2")


def read_asked(recording: Recording) -> tuple[Asked, tuple[Rule, ...]]:
    url, body = recording.content["url"], recording.request or {}
    headers = {"anthropic-version": "2023-06-01"}
    if "beta" in url:
        headers["anthropic-beta"] = "some"
    if "/models/" in url:
        return Asked(headers, body, re.split("[/:]", url)[-2]), strict_gemini.RULES
    asked = Asked(headers, body, str(body.get("model")))
    if "count_tokens" in url:
        return asked, strict_anthropic.RULES_TO_COUNT
    if "anthropic" in url:
        return asked, strict_anthropic.RULES
    is_chat = url.endswith("completions")
    return asked, strict_openai.RULES if is_chat else strict_responses.RULES


def ask(recording: Recording) -> Any:
    """The error body the rules give; None where they let the request through."""
    asked, rules = read_asked(recording)
    try:
        apply([rule for rule in rules if rule not in ABOUT_SIGNATURES], asked)
    except Rejection as rejection:
        return rejection.status, rejection.body["error"]
    return None


def recordings(*, refused: bool) -> list[Any]:
    return [
        pytest.param(one, id=one.name)
        for folder in ("anthropic", "errors", "gemini", "openai-chat", "openai-responses")
        for one in of_folder(folder)
        if isinstance(one.request, dict)
        and OFFICIAL.match(one.content.get("url") or "")
        and (one.content["status"] != 200) == refused
        and not (refused and BEYOND_RULES.search(one.name))
    ]


@pytest.mark.parametrize("recording", recordings(refused=False))
def test_what_a_real_service_answered_a_stand_in_answers(recording: Recording) -> None:
    assert ask(recording) is None


@pytest.mark.parametrize("recording", recordings(refused=True))
def test_what_a_real_service_refused_a_stand_in_refuses_in_the_same_words(
    recording: Recording,
) -> None:
    status, error = ask(recording)
    assert status == recording.content["status"]
    assert error == recording.answer["error"]


def test_there_are_recordings_of_both_kinds() -> None:
    assert len(recordings(refused=False)) > 150
    assert len(recordings(refused=True)) >= 8
