"""Stripe on loopback: localstripe as a real server, and a door in front of it.

The door passes everything on and adds what localstripe lacks: Checkout sessions (in the shape that
the stripe library reads), idempotency keys (the same key and body get the first answer, another
body is refused), and faults on demand: answers that get lost after the work was done, and outages.
"""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import httpx
import stripe

API_KEY = "sk_test_0123456789abcdefghijklmn"
WEBHOOK_SECRET = "whsec_0123456789abcdefghijklmn"
GOOD_CARD = "4242424242424242"
DECLINED_CARD = "4000000000000341"  # can be saved, cannot be charged
AUTHENTICATION_CARD = "4000002500003155"  # wants its owner to confirm
RUN = """
import sys
from aiohttp import web
from localstripe.server import app
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


@dataclass
class StripeServer:
    """A running Stripe, and what a test may do to it."""

    url: str
    upstream: str
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, tuple[str, bytes, int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    is_down: bool = False
    answers_to_lose: int = 0
    webhook_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget_everything(self) -> None:
        """As if just started."""
        self.sessions.clear()
        self.answers.clear()
        self.requests.clear()
        self.is_down, self.answers_to_lose, self.webhook_url = False, 0, ""
        assert httpx.delete(f"{self.upstream}/_config/data", timeout=20).status_code == 200

    # --- What a customer or their bank does -----------------------------------------------------
    def call(self, method: str, path: str, **data: Any) -> Any:
        """A request of localstripe itself, past the door."""
        answer = httpx.request(
            method, self.upstream + path, json=data or None, auth=(API_KEY, ""), timeout=20
        )
        return answer.json() if answer.status_code < 400 else {"failed": answer.json()["error"]}

    def save_card(self, customer_id: str, number: str = GOOD_CARD) -> str:
        """A payment method of the customer; its id."""
        card = {"number": number, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
        method = self.call("POST", "/v1/payment_methods", type="card", card=card)
        self.call("POST", f"/v1/payment_methods/{method['id']}/attach", customer=customer_id)
        return str(method["id"])

    def pay(self, session_id: str, number: str = GOOD_CARD) -> dict[str, Any]:
        """The person pays on the Checkout page; the session afterwards."""
        session = self.sessions[session_id]
        intent = self.call(
            "POST",
            "/v1/payment_intents",
            amount=session["amount_total"],
            currency=session["currency"],
            customer=session["customer"],
            payment_method=self.save_card(session["customer"], number),
            metadata=session["intent_metadata"],
            confirm=True,
        )
        if "failed" in intent:
            return session
        session |= {"payment_intent": intent["id"], "status": "complete", "payment_status": "paid"}
        if self.webhook_url:
            self.deliver(event("checkout.session.completed", session))
        return session

    def intents(self) -> list[dict[str, Any]]:
        """Every payment that was ever made there."""
        return list(self.call("GET", "/v1/payment_intents?limit=100")["data"])

    def refunds(self) -> list[dict[str, Any]]:
        """Every refund."""
        return list(self.call("GET", "/v1/refunds?limit=100")["data"])

    # --- Webhooks -------------------------------------------------------------------------------
    def send_webhooks_to(self, url: str) -> None:
        """From now on localstripe sends its signed events there, and so do Checkout sessions."""
        self.webhook_url = url
        answer = httpx.post(
            f"{self.upstream}/_config/webhooks/platform",
            json={"url": url, "secret": WEBHOOK_SECRET},
            timeout=20,
        )
        assert answer.status_code == 200

    def deliver(self, body: str, **changes: str) -> httpx.Response:
        """Post a signed event to the platform."""
        headers = {"Stripe-Signature": signature(body), "Content-Type": "application/json"}
        return httpx.post(self.webhook_url, content=body, headers=headers | changes, timeout=20)


def event(kind: str, data: dict[str, Any], *, id: str = "") -> str:
    """The body of an event as Stripe sends it."""
    made = {
        "id": id or f"evt_{time.time_ns()}",
        "object": "event",
        "type": kind,
        "created": int(time.time()),
        "data": {"object": data},
    }
    return json.dumps(made)


def signature(body: str, secret: str = WEBHOOK_SECRET, *, age_seconds: int = 0) -> str:
    """The signature header that goes with a body."""
    return stripe.WebhookSignature.generate_signature_header(
        body, secret, timestamp=int(time.time()) - age_seconds
    )


def _nested(form: bytes) -> dict[str, Any]:
    """`a[b][0][c]=d` as objects; lists stay objects with numbers as keys."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(form.decode(), keep_blank_values=True):
        *path, last = re.findall(r"[^\[\]]+", name)
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


class _Door(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tests say what matters."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        state = self.server.state
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        state.requests.append((self.command, self.path, headers))
        if state.is_down:
            return self._answer(503, b'{"error": {"type": "api_error"}}')
        if f"Bearer {API_KEY}" != headers.get("authorization"):
            return self._answer(401, b'{"error": {"type": "invalid_request_error"}}')
        with state.lock:
            status, text = self._once(headers.get("idempotency-key", ""), body)
            if state.answers_to_lose:
                state.answers_to_lose -= 1
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
        return self._answer(status, text)

    def _once(self, key: str, body: bytes) -> tuple[int, bytes]:
        """The first answer to this key, or the answer of now."""
        known = self.server.state.answers.get(key)
        if known is not None:
            path, first_body, status, text = known
            if (path, first_body) == (self.path, body):
                return status, text
            return 400, b'{"error": {"type": "idempotency_error", "message": "Key reused."}}'
        status, text = self._work(body)
        if key and self.command == "POST":
            self.server.state.answers[key] = (self.path, body, status, text)
        return status, text

    def _work(self, body: bytes) -> tuple[int, bytes]:
        state = self.server.state
        if self.path == "/v1/checkout/sessions":
            return 200, json.dumps(self._open_session(_nested(body))).encode()
        if match := re.fullmatch(r"/v1/checkout/sessions/(\w+)", self.path):
            session = state.sessions.get(match.group(1))
            return (200, json.dumps(session).encode()) if session else (404, b"{}")
        answer = httpx.request(
            self.command,
            state.upstream + self.path,
            content=body,
            headers={
                "Authorization": self.headers["Authorization"],
                "Content-Type": "application/x-www-form-urlencoded",
            },
            timeout=20,
        )
        return answer.status_code, self._typed(answer)

    def _typed(self, answer: httpx.Response) -> bytes:
        """A decline is a card_error at Stripe; localstripe calls every error invalid."""
        if answer.status_code != 402:
            return answer.content
        error = answer.json()
        error["error"]["type"] = "card_error"
        return json.dumps(error).encode()

    def _open_session(self, asked: dict[str, Any]) -> dict[str, Any]:
        state = self.server.state
        price = asked["line_items"]["0"]["price_data"]
        session_id = f"cs_test_{len(state.sessions)}{time.time_ns()}"
        intent = asked["payment_intent_data"]
        state.sessions[session_id] = {
            "id": session_id,
            "object": "checkout.session",
            "mode": asked["mode"],
            "status": "open",
            "payment_status": "unpaid",
            "payment_intent": None,
            "amount_total": int(price["unit_amount"]),
            "currency": price["currency"],
            "customer": asked["customer"],
            "client_reference_id": asked["client_reference_id"],
            "metadata": asked["metadata"],
            "url": f"{state.url}/pay/{session_id}",
            "success_url": asked["success_url"],
            # Not Stripe's: what the payment of this session is made with.
            "intent_metadata": intent["metadata"],
            "setup_future_usage": intent.get("setup_future_usage"),
        }
        return state.sessions[session_id]

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: StripeServer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "localstripe has ended"
        try:
            httpx.get(f"{url}/v1/customers", auth=(API_KEY, ""), timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("localstripe does not answer.")


@contextmanager
def running() -> Iterator[StripeServer]:
    """Both servers, until the block ends."""
    port = _free_port()
    upstream = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(port)])
    try:
        _wait_until_it_answers(upstream, process)
        door = _Server(("127.0.0.1", 0), _Door)
        door.state = StripeServer(f"http://127.0.0.1:{door.server_port}", upstream)
        thread = threading.Thread(target=door.serve_forever, daemon=True)
        thread.start()
        try:
            yield door.state
        finally:
            door.shutdown()
            door.server_close()
            thread.join()
    finally:
        process.terminate()
        process.wait(timeout=20)
