"""A person opens the deployed chat app in a real browser, talks to it, and finds the call."""

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.journeys.conftest import Platform, wait_for
from tests.journeys.test_deploy_to_first_token import deploy, shorten_answers

pytestmark = pytest.mark.browser

ANSWER_MS_MAX = 60_000


def log_in(page: Page, platform: Platform) -> None:
    """The page in the console, as the demo's owner."""
    page.goto(platform.facts["console_url"])
    page.get_by_label("Email").fill(platform.facts["email"])
    page.get_by_label("Password", exact=True).fill(platform.facts["password"])
    page.get_by_role("button", name="Log in").click()


def call_of(page: Page, platform: Platform, deploy_id: str, model: str) -> Locator:
    """The row of the deployment's latest call of a model, in the console."""

    def find() -> Locator | None:
        page.goto(f"{platform.facts['api_url']}/console/demo/calls/")
        row = page.get_by_role("row").filter(has_text=deploy_id).filter(has_text=model).first
        return row if row.count() else None

    row: Locator = wait_for(find, what=f"the call of {model}")
    return row


def watch_lengths(page: Page) -> None:
    """Have the page note every length that the text of an answer has, however fast it grows."""
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const note = () => {
                const answer = document.querySelector("[data-testid=message-assistant]");
                if (answer?.textContent) window.lengths.add(answer.textContent.length);
            };
            const changes = { subtree: true, childList: true, characterData: true };
            new MutationObserver(note).observe(document.body, changes);
        }"""
    )


def lengths_seen(page: Page) -> int:
    """How many lengths the answer has had since `watch_lengths`."""
    return int(page.evaluate("window.lengths.size"))


def test_a_message_is_answered_word_by_word_and_the_call_shows_in_the_console(
    platform: Platform, browser: Browser
) -> None:
    deploy_id = deploy(platform, "browser")
    platform.data_api("aigateway/provision", {"deployId": deploy_id}).raise_for_status()
    shorten_answers(platform, deploy_id)

    page = browser.new_page()
    page.goto(f"http://{deploy_id}.localhost:{platform.port}/")
    watch_lengths(page)
    page.get_by_test_id("chat-input").fill("Tell me a story about a lighthouse.")
    page.get_by_test_id("chat-send").click()
    expect(page.get_by_test_id("message-assistant")).not_to_be_empty(timeout=ANSWER_MS_MAX)
    expect(page.get_by_test_id("chat-send")).to_be_enabled(timeout=ANSWER_MS_MAX)
    assert lengths_seen(page) >= 4, "the answer came at once"
    assert page.get_by_test_id("chat-error").is_hidden()

    log_in(page, platform)
    expect(call_of(page, platform, deploy_id, "smollm2-135m")).to_contain_text("$0.")
    page.close()
