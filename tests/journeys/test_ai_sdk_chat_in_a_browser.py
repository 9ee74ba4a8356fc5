"""The whole story of an app with AI, from a folder to a bill, with a person at a real browser."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.journeys.conftest import ROOT, Platform
from tests.journeys.test_chat_in_a_browser import (
    ANSWER_MS_MAX,
    call_of,
    lengths_seen,
    log_in,
    watch_lengths,
)
from tests.journeys.test_deploy_to_first_token import SHORT_ANSWERS, deploy, redeployed

pytestmark = pytest.mark.browser

APP = str(ROOT / "examples" / "ai-sdk-chat")
CLOCK = '[[tool clock {"timeZone": "Asia/Tokyo"}]] [[then]] [[say It is late in Tokyo.]]'


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh visitor, whose page may not fail."""
    page = browser.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    page.close()
    assert failures == []


def open_chat(page: Page, platform: Platform, deploy_id: str) -> None:
    page.goto(f"http://{deploy_id}.localhost:{platform.port}/")
    expect(page.get_by_text("Ask any model")).to_be_visible()
    expect(page.get_by_test_id("model-select")).to_be_enabled(timeout=ANSWER_MS_MAX)


def say(page: Page, text: str) -> None:
    page.get_by_test_id("chat-input").fill(text)
    page.get_by_test_id("chat-send").click()


def expect_complete(page: Page) -> None:
    """The answer has ended, and well."""
    expect(page.get_by_test_id("chat-send")).to_be_visible(timeout=ANSWER_MS_MAX)
    expect(page.get_by_test_id("chat-error")).not_to_be_attached()


def test_from_a_folder_to_streamed_answers_and_their_cost(platform: Platform, page: Page) -> None:
    checked = platform.command("-m", "deployments.cli", "validate", APP)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    deploy_id = deploy(platform, "mission", APP)

    made = platform.data_api("aigateway/provision", {"deployId": deploy_id}).json()
    assert made["apiKey"].startswith(f"aig_{deploy_id}_")
    changed = platform.data_api(
        "deployments/update-env",
        {
            "deployId": deploy_id,
            "environment": {
                "OPENAI_API_KEY": made["apiKey"],
                "OPENAI_BASE_URL": f"{made['baseUrl']}/v1",
                "DEFAULT_MODEL": "claude-sonnet-4.5",
                **SHORT_ANSWERS,
            },
            "redeploy": True,
        },
    ).json()
    redeployed(platform, deploy_id, changed["releaseId"])

    open_chat(page, platform, deploy_id)
    models = page.get_by_test_id("model-select")
    expect(models).to_have_value("claude-sonnet-4.5")
    models.select_option("smollm2-135m")
    watch_lengths(page)
    say(page, "Tell me a story about a lighthouse.")
    answers = page.get_by_test_id("message-assistant")
    expect(answers.first).to_contain_text("smollm2-135m, ", timeout=ANSWER_MS_MAX)
    expect_complete(page)
    assert lengths_seen(page) >= 4, "the answer came at once"

    # The same conversation goes on with another model, which calls a tool.
    models.select_option("claude-sonnet-4.5")
    say(page, CLOCK)
    expect(answers).to_have_count(2, timeout=ANSWER_MS_MAX)
    expect(answers.last).to_contain_text("It is late in Tokyo.", timeout=ANSWER_MS_MAX)
    expect(page.get_by_test_id("tool-call")).to_contain_text("Asia/Tokyo")
    expect_complete(page)

    log_in(page, platform)
    expect(call_of(page, platform, deploy_id, "smollm2-135m")).to_contain_text("$0.")
    expect(call_of(page, platform, deploy_id, "claude-sonnet-4.5")).to_contain_text("$0.")
    usage = platform.data_api("aigateway/usage", {"deployId": deploy_id, "groupBy": "model"}).json()
    assert usage["total"]["calls"] == 3, "an answer, and a tool's two steps"
    assert all(row["costNanos"] > 0 for row in usage["rows"]), json.dumps(usage)


@pytest.fixture(scope="module")
def chat(platform: Platform) -> str:
    return deploy(platform, "ai-sdk-browser", APP, "--provision")


def test_a_stopped_answer_stays_and_the_conversation_goes_on(
    platform: Platform, page: Page, chat: str
) -> None:
    open_chat(page, platform, chat)
    page.get_by_test_id("model-select").select_option("gpt-4o")
    say(page, "[[say One two three four five.]] [[silence]]")
    answers = page.get_by_test_id("message-assistant")
    expect(answers.first).to_contain_text("One", timeout=ANSWER_MS_MAX)
    page.get_by_test_id("chat-stop").click()
    expect_complete(page)
    expect(answers.first).to_contain_text("One")
    say(page, "[[say Six.]]")
    expect(answers.last).to_contain_text("Six.", timeout=ANSWER_MS_MAX)
    expect_complete(page)


def test_a_failure_is_shown_and_can_be_tried_again(
    platform: Platform, page: Page, chat: str
) -> None:
    open_chat(page, platform, chat)
    page.get_by_test_id("model-select").select_option("claude-sonnet-4.5")
    say(page, "[[say One two three.]] [[midstream_error]]")
    error = page.get_by_test_id("chat-error")
    expect(error).to_contain_text("failed to answer", timeout=ANSWER_MS_MAX)
    with page.expect_request("**/api/chat") as request:
        page.get_by_test_id("chat-retry").click()
    assert len(request.value.post_data_json["messages"]) == 1, "the half answer is not sent"
    expect(error).to_contain_text("failed to answer", timeout=ANSWER_MS_MAX)
    page.get_by_test_id("chat-reset").click()
    expect(page.get_by_text("Ask any model")).to_be_visible()
    expect(error).not_to_be_attached()


def test_a_suggestion_is_sent_at_a_click(platform: Platform, page: Page, chat: str) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    open_chat(page, platform, chat)
    with page.expect_request("**/api/chat") as request:
        page.get_by_role("button", name="Write a haiku about the sea").click()
    assert request.value.post_data_json["model"] == "smollm2-135m"
    expect(page.get_by_test_id("message-user")).to_have_text("Write a haiku about the sea")
    overflow = "document.documentElement.scrollWidth > innerWidth"
    assert page.evaluate(overflow) is False, "the page is wider than a phone"
