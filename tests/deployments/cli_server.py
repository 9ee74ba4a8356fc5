"""A small real HTTP server that speaks the deploy protocol, for tests of the client.

Keeps what it was sent, as it was sent; checks nothing by itself, so that a test says what matters.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from click.testing import CliRunner, Result

from deployments.cli.commands import main

TOKEN = "wst_for-tests"
DEPLOY_ID = "shop-0123456789"
SECRET = f"aig_{DEPLOY_ID}_thesecretpartofthekeythatnobodymaysee_x"

Answer = tuple[int, Any]


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ProtocolServer:
    """`answers` maps a path to `(status, body)` or to a function of the request giving one."""

    url: str
    received: list[Received] = field(default_factory=list)
    answers: dict[str, Answer | Callable[[Received], Answer]] = field(default_factory=dict)

    def calls(self, path: str) -> list[Received]:
        return [request for request in self.received if request.path == path]

    def answer(self, request: Received) -> Answer:
        answer = self.answers.get(request.path, (404, {"error": {"message": "Not found."}}))
        return answer(request) if callable(answer) else answer


def happy_answers(url: str) -> dict[str, Answer | Callable[[Received], Answer]]:
    site = f"http://{DEPLOY_ID}.localhost:8000"
    polls = iter(["pending", "active"])
    return {
        "/api/data/aws/get-upload-url": (
            200,
            {"deployId": DEPLOY_ID, "uploadUrl": f"{url}/uploads/signed"},
        ),
        "/uploads/signed": (200, ""),
        "/api/data/aws/deploy": (
            200,
            {"deployId": DEPLOY_ID, "url": site, "status": "deployed"},
        ),
        "/api/data/aws/get-deployment": (
            200,
            {
                "exists": True,
                "url": site,
                "deployId": DEPLOY_ID,
                "status": "deployed",
                "mode": "ssr",
                "deployedAt": "2026-01-31T12:00:00Z",
            },
        ),
        "/api/data/aws/delete-site": (200, {"message": f"Deleted {DEPLOY_ID}."}),
        "/api/data/aws/get-logs": (
            200,
            {
                "deployId": DEPLOY_ID,
                "mode": "ssr",
                "functionName": "chat",
                "entries": [{"timestamp": "2026-01-31T12:00:00.5Z", "message": "hello\x1b[2J"}],
                "hasMore": False,
            },
        ),
        "/api/data/aigateway/provision": (
            200,
            {
                "deployId": DEPLOY_ID,
                "apiKey": SECRET,
                "baseUrl": f"{url}/api/ai",
                "isNew": True,
                "models": [],
            },
        ),
        "/api/data/aigateway/info": (
            200,
            {"exists": True, "deployId": DEPLOY_ID, "keyPrefix": f"aig_{DEPLOY_ID}_thes"},
        ),
        "/api/data/aigateway/rotate": (
            200,
            {
                "deployId": DEPLOY_ID,
                "apiKey": SECRET,
                "baseUrl": f"{url}/api/ai",
                "isNew": True,
                "warnings": ["OPENAI_API_KEY is set by hand."],
            },
        ),
        "/api/data/aigateway/revoke": (200, {"deployId": DEPLOY_ID, "revoked": True}),
        "/api/data/deployments/get-env": (
            200,
            {
                "deployId": DEPLOY_ID,
                "environment": {"GREETING": "he…", "OPENAI_API_KEY": "ai…"},
                "sources": {"GREETING": "user", "OPENAI_API_KEY": "gateway"},
                "bundle": ["FROM_BUNDLE", "GREETING"],
            },
        ),
        "/api/data/deployments/update-env": lambda request: (
            200,
            {
                "deployId": DEPLOY_ID,
                "environment": sorted(
                    name for name, value in request.json["environment"].items() if value is not None
                ),
                "appliesOn": "next deploy",
                **({"releaseId": "rel_2"} if request.json["redeploy"] else {}),
            },
        ),
        "/api/data/deployments/rollback": (
            200,
            {
                "deployId": DEPLOY_ID,
                "url": site,
                "status": "deployed",
                "mode": "ssr",
                "releaseId": "rel_1",
            },
        ),
        "/api/data/deployments/redeploy": (
            200,
            {"deployId": DEPLOY_ID, "releaseId": "rel_2", "status": "pending"},
        ),
        "/api/data/deployments/releases": lambda request: (
            200,
            {
                "deployId": DEPLOY_ID,
                "releases": [
                    {"releaseId": "rel_2", "status": next(polls)},
                    {"releaseId": "rel_1", "status": "active"},
                ],
            },
        ),
    }


@contextmanager
def serve() -> Iterator[ProtocolServer]:
    """The server on a loopback port, in a thread, until the block ends."""
    protocol = ProtocolServer(url="")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(self.command, self.path, headers, body)
            protocol.received.append(request)
            status, answer = protocol.answer(request)
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = _answer
        do_PUT = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        protocol.url = f"http://127.0.0.1:{server.server_address[1]}"
        protocol.answers = happy_answers(protocol.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield protocol
        finally:
            server.shutdown()
            thread.join()


def run(server: ProtocolServer, *arguments: str, columns: int = 200, **options: Any) -> Result:
    """The client with these arguments in a window so wide, talking to this server."""
    environ = {"API_URL": server.url, "AUTH_TOKEN": TOKEN, "COLUMNS": str(columns)}
    return CliRunner().invoke(main, arguments, env=environ, **options)
