"""The live log in a browser: lines arrive, are filtered and paused, and survive a lost socket."""

import re
import shutil
from collections.abc import Iterator

import pytest
from django.conf import settings as django_settings
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, Page, WebSocketRoute, expect, sync_playwright

from deployments import deploying, logs
from deployments.models import Deployment, Release
from orgs.models import User, Workspace
from tests import factories
from tests.deployments.live_server import LiveServer, serve
from tests.journeys.conftest import CHROMIUM_ARGUMENTS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    # WhiteNoise's files, served in this process.
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning"),
]


@pytest.fixture(scope="module")
def _django_beside_playwright() -> Iterator[None]:
    """Playwright's loop runs in this thread; Django would refuse to ask the database in it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        yield


@pytest.fixture(scope="module")
def browser(_django_beside_playwright: None) -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    deployment = factories.make_deployment(workspace=workspace, prefix="chat")
    assert deployment.active_release is not None
    Release.objects.filter(pk=deployment.active_release.pk).update(
        mode=Release.Mode.SSR, manifest={"functions": {"api": {}, "chat": {}}}
    )
    return deployment


@pytest.fixture
def server(deployment: Deployment) -> Iterator[LiveServer]:
    with serve() as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: LiveServer, owner: User) -> Iterator[Page]:
    client = Client()
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    context = browser.new_context(color_scheme="dark")
    name = django_settings.SESSION_COOKIE_NAME
    cookie = {"name": name, "value": client.cookies[name].value}
    context.add_cookies([{**cookie, "url": f"http://localhost:{server.port}"}])
    yield context.new_page()
    context.close()


def write(deployment: Deployment, *messages: str, request_id: str = "", function: str = "") -> None:
    now = timezone.now()
    logs.append_many(
        [logs.LogLine(deployment.pk, function, request_id, message, now) for message in messages]
    )


def open_page(page: Page, server: LiveServer, deployment: Deployment) -> None:
    slug = deployment.workspace.organization.slug
    page.goto(f"http://localhost:{server.port}/console/{slug}/deployments/{deployment.deploy_id}/")


def expect_lines(page: Page, *messages: str) -> None:
    expect(page.locator("ol.log li > span")).to_have_text(list(messages))


def test_lines_appear_as_they_are_printed(
    page: Page, server: LiveServer, deployment: Deployment
) -> None:
    open_page(page, server, deployment)
    expect(page.get_by_text("Nothing was printed in the last 60 minutes.")).to_be_visible()
    expect(page.get_by_text("Live", exact=True).last).to_be_visible()
    write(deployment, "first", "<b>second</b>")
    expect_lines(page, "first", "<b>second</b>")
    expect(page.get_by_text("Nothing was printed")).to_be_hidden()
    page.reload()
    write(deployment, "third")
    expect_lines(page, "first", "<b>second</b>", "third")


def test_a_request_or_function_is_singled_out(
    page: Page, server: LiveServer, deployment: Deployment
) -> None:
    write(deployment, "one", request_id="11111111-a", function="chat")
    write(deployment, "two", request_id="22222222-b", function="api")
    open_page(page, server, deployment)
    page.get_by_role("button", name="11111111").click()
    expect_lines(page, "one")
    write(deployment, "other", request_id="22222222-b", function="api")
    write(deployment, "one again", request_id="11111111-a", function="chat")
    expect_lines(page, "one", "one again")
    page.get_by_label("Only lines of this request id").fill("")
    page.get_by_label("Only lines of this function").select_option("api")
    expect_lines(page, "two", "other")
    page.get_by_label("Only lines of this request id").fill("nothing-of-this")
    expect(page.get_by_text("No line matches.")).to_be_visible()


def test_what_was_printed_during_a_pause_comes_when_it_ends(
    page: Page, server: LiveServer, deployment: Deployment
) -> None:
    write(deployment, "before")
    open_page(page, server, deployment)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused")).to_be_visible()
    write(deployment, "meanwhile 1", "meanwhile 2")
    expect_lines(page, "before")
    page.get_by_role("button", name="Resume").click()
    expect_lines(page, "before", "meanwhile 1", "meanwhile 2")


def test_a_lost_connection_is_told_and_loses_no_line(
    page: Page, server: LiveServer, deployment: Deployment
) -> None:
    sockets: list[WebSocketRoute] = []
    refused = False

    def relay(socket: WebSocketRoute) -> None:
        if refused:
            socket.close(code=1012)
            return
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket(re.compile("live-logs"), relay)
    open_page(page, server, deployment)
    write(deployment, "before")
    expect_lines(page, "before")
    refused = True
    sockets[-1].close(code=1012)
    expect(page.get_by_role("alert")).to_contain_text("Connection lost. Trying again")
    write(deployment, "meanwhile")
    refused = False
    expect_lines(page, "before", "meanwhile")
    expect(page.get_by_role("alert")).to_be_hidden()
    write(deployment, "after")
    expect_lines(page, "before", "meanwhile", "after")


def test_it_scrolls_along_until_the_reader_scrolls_up(
    page: Page, server: LiveServer, deployment: Deployment
) -> None:
    write(deployment, *(f"line {number}" for number in range(200)))
    open_page(page, server, deployment)
    page.get_by_role("log").evaluate("log => log.scrollIntoView()")
    expect(page.get_by_text("line 199")).to_be_in_viewport()
    write(deployment, *(f"more {number}" for number in range(40)))
    expect(page.get_by_text("more 39")).to_be_in_viewport()
    page.get_by_role("log").evaluate("log => { log.scrollTop = 0; }")
    expect(page.get_by_text("line 0", exact=True)).to_be_in_viewport()
    write(deployment, "the newest")
    jump = page.get_by_role("button", name="1 new below")
    expect(jump).to_be_visible()
    expect(page.get_by_text("line 0", exact=True)).to_be_in_viewport()
    jump.click()
    expect(page.get_by_text("the newest")).to_be_in_viewport()
    expect(page.locator("[data-logs-jump]")).to_be_hidden()


def test_a_deleted_deployment_ends_it_for_good(
    page: Page, server: LiveServer, deployment: Deployment
) -> None:
    open_page(page, server, deployment)
    expect(page.get_by_text("Live", exact=True).last).to_be_visible()
    deploying.delete(deployment, at=timezone.now())
    expect(page.get_by_role("alert")).to_contain_text("was deleted", timeout=20_000)
    expect(page.get_by_text("Ended")).to_be_visible()
