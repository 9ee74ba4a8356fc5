"""A person opens the deployed chat app in a real browser, talks to it, and finds the call."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.journeys.conftest import Platform, wait_for
from tests.journeys.test_deploy_to_first_token import deploy, redeployed

pytestmark = pytest.mark.browser

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ANSWER_MS_MAX = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


def test_a_message_is_answered_word_by_word_and_the_call_shows_in_the_console(
    platform: Platform, browser: Browser
) -> None:
    deploy_id = deploy(platform, "browser")
    platform.data_api("aigateway/provision", {"deployId": deploy_id}).raise_for_status()
    release_id = platform.data_api("deployments/redeploy", {"deployId": deploy_id}).json()[
        "releaseId"
    ]
    redeployed(platform, deploy_id, release_id)

    page = browser.new_page()
    page.goto(f"http://{deploy_id}.localhost:{platform.port}/")
    page.get_by_test_id("chat-input").fill("Tell me a story about a lighthouse.")
    page.get_by_test_id("chat-send").click()
    answer = page.get_by_test_id("message-assistant").last
    expect(answer).not_to_be_empty(timeout=ANSWER_MS_MAX)
    lengths = {len(answer.inner_text())}

    def has_grown_thrice() -> bool:
        lengths.add(len(answer.inner_text()))
        return len(lengths) >= 4

    wait_for(has_grown_thrice, seconds=60, what="the text to grow")
    expect(page.get_by_test_id("chat-send")).to_be_enabled(timeout=ANSWER_MS_MAX)
    assert page.get_by_test_id("chat-error").is_hidden()

    page.goto(platform.facts["console_url"])
    page.get_by_label("Email").fill(platform.facts["email"])
    page.get_by_label("Password", exact=True).fill(platform.facts["password"])
    page.get_by_role("button", name="Log in").click()
    page.goto(f"{platform.facts['api_url']}/console/demo/calls/")
    row = page.get_by_role("row").filter(has_text=deploy_id)
    expect(row.first).to_be_visible(timeout=15_000)
    expect(row.first).to_contain_text("smollm2-135m")
    expect(row.first).to_contain_text("$0.")
    page.close()
