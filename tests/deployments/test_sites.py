"""Visitors of a deployed site get its files and functions, and friendly pages otherwise."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from deployments import releases, sites, staticindex, storage
from deployments.models import Deployment, LogEntry, Release
from deployments.runtime import drivers
from orgs import vault
from orgs.models import Workspace
from tests import factories
from tests.deployments.releasing import deploy
from tests.deployments.waiting import until
from tests.deployments.zips import static_site

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("functions_end"),
]

FILESYSTEM = {"handle": "filesystem"}
TO_FUNCTION = {"src": "^/.*$", "dest": "/functions/api"}
ECHO = "export const handler = async (event) => ({statusCode: 200, body: JSON.stringify(event)})"


@pytest.fixture
def publish(settings: Any) -> Callable[..., Release]:
    """A function (deployment, ...) -> the deployment's new active release, with its files."""

    def publish(
        deployment: Deployment,
        *,
        routes: list[Any] | None = None,
        files: dict[str, str] | None = None,
        functions: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Release:
        functions = functions or {}
        release = Release(
            deployment=deployment,
            bundle_sha256="0" * 64,
            status=Release.Status.ACTIVE,
            activated_at=timezone.now(),
            manifest={
                "version": 1,
                "mode": "ssr" if functions else "static",
                "routes": routes if routes is not None else [FILESYSTEM],
                "functions": {
                    name: {"folder": f"functions/{name}.func", "entry": "index.mjs"}
                    for name in functions
                },
                "static": bool(files),
            },
        )
        context = f"deployments.Release:{release.public_id}:environment"
        release.environment_sealed = vault.encrypt(json.dumps(environment or {}), context=context)
        release.save()
        folder: Path = settings.RELEASES_DIR / release.public_id
        (folder / "static").mkdir(parents=True)
        contents = {f"static/{name}": text for name, text in (files or {}).items()}
        contents |= {f"functions/{name}.func/index.mjs": code for name, code in functions.items()}
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        staticindex.write(folder)
        deployment.active_release = release
        deployment.deployed_at = timezone.now()
        deployment.save()
        return release

    return publish


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace, deployed=False)


class Visit:
    """One request, driven by hand: what the site sends is seen message by message."""

    def __init__(
        self,
        deploy_id: str,
        path: str = "/",
        *,
        method: str = "GET",
        query: str = "",
        headers: dict[str, str] | None = None,
        body: list[bytes] | None = None,
    ) -> None:
        self.deploy_id = deploy_id
        self.messages: list[Any] = []
        self.left = asyncio.Event()
        self._body = list(body or [b""])
        self.scope = {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [
                (name.encode(), value.encode())
                for name, value in {"host": f"{deploy_id}.localhost", **(headers or {})}.items()
            ],
            "client": ("192.0.2.1", 1234),
            "scheme": "http",
            "http_version": "1.1",
        }
        self.on_message: Callable[[Any], None] = lambda _: None

    async def _receive(self) -> Any:
        if self._body:
            data = self._body.pop(0)
            return {"type": "http.request", "body": data, "more_body": bool(self._body)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.messages.append(message)
        self.on_message(message)

    async def run(self) -> "Visit":
        await sites.site_app(self.scope, self._receive, self._send, self.deploy_id)
        return self

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message["body"] for message in self.messages[1:]).decode()

    @property
    def is_complete(self) -> bool:
        return not self.messages[-1].get("more_body", False) and len(self.messages) > 1


async def visit(deployment: Deployment, path: str = "/", **options: Any) -> Visit:
    return await Visit(deployment.deploy_id, path, **options).run()


in_thread = sync_to_async


async def test_an_unknown_address_says_so_kindly() -> None:
    answer = await Visit("nobody-0000000000").run()
    assert answer.status == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "No site here" in answer.text


async def test_a_deleted_deployment_is_gone(deployment: Deployment, publish: Any) -> None:
    await in_thread(publish)(deployment, files={"index.html": "hi"})
    deployment.deleted_at = timezone.now()
    await deployment.asave()
    assert (await visit(deployment)).status == 404


async def test_a_deployment_without_a_release_says_what_is_missing(
    deployment: Deployment,
) -> None:
    answer = await visit(deployment)
    assert answer.status == 503
    assert "nothing has been deployed" in answer.text


async def test_a_release_whose_files_and_bundle_are_lost_is_unavailable(
    workspace: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await in_thread(factories.make_deployment)(workspace=workspace)
    answer = await visit(lost)
    assert answer.status == 503
    assert "bundle" not in answer.text
    assert "no longer kept" in caplog.text
    # Nobody who reloads the page makes the server try again and again.
    monkeypatch.setattr(releases, "restore", None)
    assert (await visit(lost)).status == 503


async def test_a_release_that_is_not_on_this_host_is_unpacked_from_its_bundle_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = await in_thread(factories.make_deployment)(workspace=workspace, deployed=False)
    release = await in_thread(deploy)(deployment, static_site("from the bundle"))
    before = staticindex.read(storage.release_folder(release))
    await in_thread(storage.remove_release)(release)
    restored: list[str] = []
    restore = releases.restore

    def counted(release: Release) -> None:
        restored.append(release.public_id)
        restore(release)

    monkeypatch.setattr(releases, "restore", counted)
    answers = await asyncio.gather(*(visit(deployment) for _ in range(5)))
    assert {answer.text for answer in answers} == {"from the bundle"}
    assert restored == [release.public_id]
    assert staticindex.read(storage.release_folder(release)) == before


async def test_half_a_folder_is_replaced_by_the_whole_release(workspace: Workspace) -> None:
    deployment = await in_thread(factories.make_deployment)(workspace=workspace, deployed=False)
    release = await in_thread(deploy)(deployment, static_site("whole"))
    folder = storage.release_folder(release)
    (folder / staticindex.FOLDER / staticindex.INDEX).unlink()
    (folder / "static" / "index.html").write_text("half")
    assert (await visit(deployment)).text == "whole"


async def test_static_files_and_the_sites_own_not_found_page(
    deployment: Deployment, publish: Any
) -> None:
    files = {"index.html": "home", "docs/index.html": "docs", "404.html": "own page"}
    await in_thread(publish)(deployment, files=files)
    assert (await visit(deployment)).text == "home"
    assert (await visit(deployment, "/docs")).text == "docs"
    missing = await visit(deployment, "/missing")
    assert (missing.status, missing.text) == (404, "own page")


async def test_a_missing_page_without_an_own_page(deployment: Deployment, publish: Any) -> None:
    await in_thread(publish)(deployment, files={"index.html": "home"})
    answer = await visit(deployment, "/missing")
    assert answer.status == 404
    assert "no page at this address" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/../config.json",
        "/%2e%2e/config.json",
        "/..%2fconfig.json",
        "/docs%2findex.html",
        "/docs%5cindex.html",
        "/index.html%00",
        "//etc/passwd",
        "/docs/../../functions/api.func/index.mjs",
    ],
)
async def test_no_path_leads_out_of_the_static_folder(
    deployment: Deployment, publish: Any, settings: Any, path: str
) -> None:
    files = {"index.html": "home", "docs/index.html": "docs"}
    release = await in_thread(publish)(deployment, files=files, functions={"api": "secret code"})
    (settings.RELEASES_DIR / release.public_id / "config.json").write_text("secret config")
    answer = await visit(deployment, path)
    assert answer.status == 404
    assert "secret" not in answer.text


async def test_a_function_gets_the_request_and_its_environment(
    deployment: Deployment, publish: Any
) -> None:
    code = (
        "export const handler = async (event) => ({statusCode: 201, headers: {'X-App': '1'},"
        " cookies: ['a=1; Domain=localhost'], body: JSON.stringify({event, key: process.env.KEY})})"
    )
    await in_thread(publish)(
        deployment,
        routes=[{"src": "^/.*$", "headers": {"x-site": "yes", "x-app": "no"}}, TO_FUNCTION],
        functions={"api": code},
        environment={"KEY": "value"},
    )
    answer = await visit(
        deployment,
        "/a%20b",
        method="POST",
        query="q=1",
        headers={"cookie": "sessionid=secret; theme=dark", "content-type": "text/plain"},
        body=[b"two ", b"parts"],
    )
    assert answer.status == 201
    assert answer.headers["x-site"] == "yes"
    assert answer.headers["x-app"] == "1"
    assert answer.headers["set-cookie"] == "a=1"
    assert answer.headers["content-length"] == str(len(answer.text.encode()))
    seen = json.loads(answer.text)
    assert seen["key"] == "value"
    assert seen["event"]["rawPath"] == "/a%20b"
    assert seen["event"]["rawQueryString"] == "q=1"
    assert seen["event"]["body"] == "two parts"
    assert seen["event"]["cookies"] == ["theme=dark"]
    assert seen["event"]["requestContext"]["requestId"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


async def test_head_runs_the_function_without_a_body(deployment: Deployment, publish: Any) -> None:
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": ECHO})
    answer = await visit(deployment, method="HEAD")
    assert (answer.status, answer.text) == (200, "")
    assert answer.is_complete


async def test_a_stream_reaches_the_visitor_chunk_by_chunk(
    deployment: Deployment, publish: Any, tmp_path: Path
) -> None:
    code = (
        "import fs from 'node:fs';"
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  stream = awslambda.HttpResponseStream.from(stream,"
        "    {statusCode: 200, headers: {'content-type': 'text/event-stream'}});"
        "  stream.write('data: first\\n\\n');"
        "  while (!fs.existsSync(event.rawQueryString))"
        "    await new Promise((go) => setTimeout(go, 5));"
        "  stream.end('data: last\\n\\n'); });"
    )
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": code})
    gate = tmp_path / "gate"
    request = Visit(deployment.deploy_id, query=str(gate))
    # The function writes its last chunk only after the first has reached the visitor.
    request.on_message = lambda message: message.get("body") and gate.touch()
    answer = await request.run()
    assert answer.headers["content-type"] == "text/event-stream"
    assert "content-length" not in answer.headers
    assert [message["body"] for message in answer.messages[1:]] == [
        b"data: first\n\n",
        b"data: last\n\n",
        b"",
    ]
    assert answer.is_complete


async def test_a_stream_that_breaks_is_not_completed(deployment: Deployment, publish: Any) -> None:
    code = (
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        " stream.write('half'); setTimeout(() => process.exit(1), 1000);"
        " await new Promise(() => {}); });"
    )
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": code})
    answer = await visit(deployment)
    assert answer.text == "half"
    assert not answer.is_complete


async def test_a_visitor_who_leaves_ends_the_stream(
    deployment: Deployment, publish: Any, tmp_path: Path
) -> None:
    code = (
        "import fs from 'node:fs';"
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  stream.on('close', () => fs.writeFileSync(event.rawQueryString, 'closed'));"
        "  while (!stream.destroyed) {"
        "    stream.write('x'); await new Promise((go) => setTimeout(go, 5)); } });"
    )
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": code})
    told = tmp_path / "told"
    request = Visit(deployment.deploy_id, query=str(told))
    request.on_message = lambda message: message.get("body") and request.left.set()
    await request.run()
    await until(told.exists)


async def test_a_failing_function_answers_502_and_explains_itself_in_the_log(
    deployment: Deployment, publish: Any
) -> None:
    code = "export const handler = async () => { throw new Error('the database said no'); }"
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": code})
    answer = await visit(deployment)
    assert answer.status == 502
    error = json.loads(answer.text)["error"]
    assert error["code"] == "function_handler"
    assert "database" not in answer.text
    await drivers.shutdown()
    entry = await LogEntry.objects.aget(deployment=deployment)
    assert entry.request_id == error["requestId"] == answer.headers["x-request-id"]
    assert entry.function_name == "api"
    assert "the database said no" in entry.message


async def test_a_function_over_its_time_answers_504(
    deployment: Deployment, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "FUNCTION_SECONDS_MAX", 0.5)
    code = "export const handler = () => new Promise(() => {})"
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": code})
    answer = await visit(deployment)
    assert answer.status == 504
    assert json.loads(answer.text)["error"]["code"] == "function_timeout"


async def test_a_body_over_six_megabytes_is_refused(deployment: Deployment, publish: Any) -> None:
    await in_thread(publish)(deployment, routes=[TO_FUNCTION], functions={"api": ECHO})
    answer = await visit(deployment, method="POST", body=[b"x" * 1024 * 1024] * 7)
    assert answer.status == 413
    assert json.loads(answer.text)["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("name", ["other", "..%2f..%2frel_x%2ffunctions%2fapi", ""])
async def test_only_the_releases_own_functions_are_reachable(
    deployment: Deployment, other_workspace: Workspace, publish: Any, name: str
) -> None:
    theirs = await in_thread(factories.make_deployment)(
        workspace=other_workspace, prefix="theirs", deployed=False
    )
    await in_thread(publish)(theirs, functions={"other": ECHO})
    routes = [{"src": "^/call/(.*)$", "dest": "/functions/$1"}]
    await in_thread(publish)(deployment, routes=routes, functions={"api": ECHO})
    answer = await visit(deployment, f"/call/{name}")
    assert answer.status == 404
    assert json.loads(answer.text)["error"]["code"] == "function_not_found"


async def test_a_new_release_takes_over_once_the_look_up_is_stale(
    deployment: Deployment, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(publish)(deployment, files={"index.html": "one"})
    assert (await visit(deployment)).text == "one"
    monkeypatch.setattr(sites, "FRESH_SECONDS", 0)
    await in_thread(publish)(deployment, files={"index.html": "two"})
    assert (await visit(deployment)).text == "two"


async def test_an_environment_sealed_for_another_release_is_not_used(
    deployment: Deployment, publish: Any
) -> None:
    release = await in_thread(publish)(deployment, files={"index.html": "home"})
    release.environment_sealed = vault.encrypt("{}", context="deployments.Release:x:environment")
    await release.asave()
    assert (await visit(deployment)).status == 503


async def test_header_injection_through_a_redirect_is_impossible(
    deployment: Deployment, publish: Any
) -> None:
    routes = [{"src": r"^/old/((?s:.*))$", "status": 307, "headers": {"Location": "/new/$1"}}]
    await in_thread(publish)(deployment, routes=routes)
    answer = await visit(deployment, "/old/a%0d%0aSet-Cookie:b=1")
    assert answer.status == 307
    assert answer.headers["location"] == "/new/a%0D%0ASet-Cookie%3Ab%3D1"


@pytest.mark.parametrize("path", ["/", "/old/Domain", "/gone"])
async def test_routes_set_cookies_for_the_sites_own_host_alone(
    deployment: Deployment, publish: Any, path: str
) -> None:
    cookie = {"set-cookie": "a=1; Domain=localhost; Path=/"}
    routes = [
        {"src": "^/old/(.*)$", "status": 302, "headers": {"location": "/", **cookie}},
        {"src": "^/.*$", "headers": cookie},
        FILESYSTEM,
    ]
    await in_thread(publish)(deployment, routes=routes, files={"index.html": "home"})
    assert (await visit(deployment, path)).headers["set-cookie"] == "a=1; Path=/"


async def test_a_capture_cannot_make_an_attribute_of_a_cookie(
    deployment: Deployment, publish: Any
) -> None:
    routes = [
        {"src": "^/(.*)$", "headers": {"set-cookie": "a=1; $1=localhost"}},
        {"src": "^/.*$", "headers": {"x-site": "yes"}},
        FILESYSTEM,
    ]
    await in_thread(publish)(deployment, routes=routes, files={"Domain": "x"})
    assert (await visit(deployment, "/Domain")).headers["set-cookie"] == "a=1"


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/old/a", "q=1&r=%20", "/new/a?q=1&r=%20"),
        ("/old/a", "", "/new/a"),
        ("/own", "q=1", "/new?x=2"),
        ("/part", "q=1", "/new?q=1#part"),
        ("/go//evil.example", "", "/evil.example"),
    ],
)
async def test_a_redirect_passes_the_query_on_and_stays_on_its_host(
    deployment: Deployment, publish: Any, path: str, query: str, location: str
) -> None:
    routes = [
        {"src": "^/old/(.*)$", "status": 301, "headers": {"location": "/new/$1"}},
        {"src": "^/own$", "status": 301, "headers": {"location": "/new?x=2"}},
        {"src": "^/part$", "status": 301, "headers": {"location": "/new#part"}},
        {"src": "^/go/(.*)$", "status": 301, "headers": {"location": "/$1"}},
    ]
    await in_thread(publish)(deployment, routes=routes)
    assert (await visit(deployment, path, query=query)).headers["location"] == location


async def test_websockets_are_refused(deployment: Deployment) -> None:
    request = Visit(deployment.deploy_id)
    request.scope["type"] = "websocket"
    await request.run()
    assert request.messages == [{"type": "websocket.close", "code": 1000}]
