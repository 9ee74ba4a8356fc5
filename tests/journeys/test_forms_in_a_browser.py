"""Forms of the console as a person uses them: with Enter, with mistakes, and to the end of what
they began.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.journeys.conftest import Platform
from tests.stripe_server import StripeServer

pytestmark = pytest.mark.browser


@pytest.fixture
def console(browser: Browser, platform: Platform) -> Iterator[Page]:
    """The console on a phone."""
    context = browser.new_context(viewport={"width": 390, "height": 700})
    page = context.new_page()
    page.goto(f"{platform.facts['api_url']}/accounts/login/")
    page.get_by_label("Email").fill(platform.facts["email"])
    page.get_by_label("Password").fill(platform.facts["password"])
    page.get_by_label("Password").press("Enter")
    page.wait_for_url("**/console/demo/")
    yield page
    context.close()


@pytest.fixture
def credit(console: Page) -> Page:
    """Its credit page."""
    console.goto(f"{console.url}credit/")
    return console


def test_enter_buys_the_amount_that_was_typed(credit: Page, stripe: StripeServer) -> None:
    credit.get_by_label("Other amount, in US dollars").fill("321")
    credit.get_by_label("Other amount, in US dollars").press("Enter")
    credit.wait_for_url(f"{stripe.url}/pay/*")
    assert "32100" in str(stripe.sessions[credit.url.rsplit("/", 1)[1]])


@pytest.mark.parametrize(
    ("amount", "problem"),
    [("ten", "'ten' is not an amount of dollars."), ("1", "The monthly limit must be at least")],
)
def test_a_mistake_in_the_last_form_of_a_page_is_in_sight(
    credit: Page, amount: str, problem: str
) -> None:
    """One beside its field, and one of the whole form."""
    form = credit.locator("form[action$='/agent-top-up/']")
    form.get_by_label("At most per month").fill(amount)
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_text(problem)).to_be_in_viewport()
    assert credit.evaluate("document.activeElement.closest('form').action").endswith(
        "agent-top-up/"
    )


def test_a_redeploy_is_seen_to_its_end_without_a_reload(console: Page) -> None:
    console.goto(f"{console.url}deployments/")
    console.get_by_role("link", name="playground", exact=True).click()
    console.get_by_role("button", name="Redeploy").click()
    console.get_by_role("dialog").get_by_role("button", name="Redeploy").click()
    expect(console.get_by_text("Redeploying as")).to_be_visible()
    newest = console.locator("#releases-card tbody tr").first
    expect(newest.locator(".pill")).to_have_text("Live", timeout=30_000)
    expect(console.locator("#releases-card")).not_to_have_attribute("data-live", "")


def test_opening_pages_prints_no_warnings(console: Page, platform: Platform) -> None:
    """Style sheet and scripts included."""
    console.goto(f"{console.url}calls/", wait_until="networkidle")
    assert "Warning" not in (platform.data_dir / "serve.log").read_text()
