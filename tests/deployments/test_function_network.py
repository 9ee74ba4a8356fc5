"""What sandboxed functions reach: the gateway at its URL, public addresses by policy, else nothing.

Names are resolved, and connections made, by functions of the test: nothing leaves this machine.
"""

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deployments.runtime import launchers
from deployments.runtime.addresses import Address
from deployments.runtime.driver import FunctionSpec
from deployments.runtime.egress import Egress, Policy
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.network import Gateway, Network
from deployments.runtime.pool import Pool
from tests.deployments import functions
from tests.deployments.functions import Lines, body_of, invoke

pytestmark = [
    pytest.mark.functions,
    pytest.mark.skipif(not launchers.can_isolate(), reason="bubblewrap is not installed"),
]

ASK = """
import http from 'node:http';
import https from 'node:https';
const ways = {
  fetch: async (url) => { const r = await fetch(url); return [r.status, await r.text()]; },
  request: (url) => new Promise((resolve, reject) => {
    (url.startsWith('https:') ? https : http).get(url, (r) => {
      let text = ''; r.on('data', (d) => text += d).on('end', () => resolve([r.statusCode, text]));
    }).on('error', reject);
  }),
};
export const handler = async ({way, url}) => {
  try { return await ways[way](url); }
  catch (error) { return ['error', `${error.message} ${error.cause?.message ?? ''}`]; }
};
"""


class World:
    """A gateway and a server on the internet, both on the loopback, and where names lead."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {"api.example.com": ["93.184.215.14"]}
        self.connected: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.ports: dict[int, int] = {}  # of the internet's server: as asked -> on the loopback

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        return [ipaddress.ip_address(each) for each in self.names.get(host, [])]

    async def connect(
        self, address: Address, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connected.append((str(address), port))
        return await asyncio.open_connection("127.0.0.1", self.ports[port])


def _certificate(folder: Path) -> ssl.SSLContext:
    """A server's TLS context with a certificate it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def _serve(stack: AsyncExitStack, name: str, tls: ssl.SSLContext | None = None) -> int:
    """A server that answers with its name, the host and the path it was asked for; its port."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(text=f"{name} {request.host} {request.path_qs} {len(body)}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    return int(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]


class Stage:
    """A pool of sandboxes with the ways out, for one function that asks for URLs."""

    def __init__(self, pool: Pool, spec: FunctionSpec, lines: Lines, world: World) -> None:
        self.pool, self.spec, self.lines, self.world = pool, spec, lines, world

    async def ask(self, url: str, way: str = "fetch") -> tuple[Any, str]:
        """Status and text of the answer; or ("error", its messages)."""
        items = await invoke(self.pool, self.spec, {"way": way, "url": url})
        status, text = json.loads(body_of(items))
        return status, text


MakeStage = Callable[..., Any]


@pytest.fixture
async def make_stage(short_folder: Path, tmp_path: Path) -> AsyncIterator[MakeStage]:
    async with AsyncExitStack() as stack:
        world, lines = World(), Lines()
        tls = _certificate(tmp_path)
        world.ports = {80: await _serve(stack, "internet"), 443: await _serve(stack, "tls", tls)}
        world.ports[8443] = world.ports[443]
        plain, secure = await _serve(stack, "gateway"), await _serve(stack, "gateway over tls", tls)
        write = partial(functions.write_function, tmp_path / "code")

        def make(url: str = "http://localhost:{port}", policy: Policy = Policy.PUBLIC) -> Stage:
            url = url.format(port=plain)
            there = secure if url.startswith("https") else plain
            gateway = Gateway.at(url, f"127.0.0.1:{there}")
            egress = Egress(policy, gateway.host, resolve=world.resolve, connect=world.connect)
            pool = Pool(LocalBwrap(), short_folder / "run", lines, network=Network(gateway, egress))
            stack.push_async_callback(pool.close)
            spec = write(ASK, environment={"NODE_TLS_REJECT_UNAUTHORIZED": "0", "BASE_URL": url})
            return Stage(pool, spec, lines, world)

        yield make


WAYS = pytest.mark.parametrize("way", ["fetch", "request"])


# --- The gateway -------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://localhost:{port}", "gateway"),
        ("http://127.0.0.1:{port}", "gateway"),
        ("http://gateway.example.com", "gateway"),
        ("https://gateway.example.com", "gateway over tls"),
    ],
)
async def test_the_gateway_answers_at_the_very_url_functions_are_given(
    make_stage: MakeStage, way: str, url: str, name: str
) -> None:
    stage = make_stage(url, policy=Policy.NONE)
    base = stage.spec.environment["BASE_URL"]
    host = base.partition("//")[2]
    status, text = await stage.ask(f"{base}/api/ai/v1/models?limit=1", way)
    assert (status, text) == (200, f"{name} {host} /api/ai/v1/models?limit=1 0")


async def test_localhost_answers_over_ipv6_too(make_stage: MakeStage) -> None:
    stage = make_stage()
    port = stage.spec.environment["BASE_URL"].rpartition(":")[2]
    assert await stage.ask(f"http://[::1]:{port}/v1") == (200, f"gateway [::1]:{port} /v1 0")


async def test_another_port_of_this_machine_does_not_answer(make_stage: MakeStage) -> None:
    stage = make_stage()
    other = stage.world.ports[80]
    status, text = await stage.ask(f"http://localhost:{other}/")
    assert status == "error"
    assert "ECONNREFUSED" in text


# --- The internet ------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(("scheme", "name"), [("http", "internet"), ("https", "tls")])
async def test_public_servers_are_reached_at_the_address_that_was_checked(
    make_stage: MakeStage, way: str, scheme: str, name: str
) -> None:
    stage = make_stage()
    answer = await stage.ask(f"{scheme}://api.example.com/v1?x=1", way)
    assert answer == (200, f"{name} api.example.com /v1?x=1 0")
    assert stage.world.asked == ["api.example.com"]  # once, and there it goes
    assert stage.world.connected == [("93.184.215.14", 443 if scheme == "https" else 80)]


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://internal.example.com/",
        "https://mixed.example.com/",
    ],
)
async def test_private_addresses_are_refused_and_the_log_says_so(
    make_stage: MakeStage, url: str
) -> None:
    stage = make_stage()
    stage.world.names["internal.example.com"] = ["192.168.1.1"]
    stage.world.names["mixed.example.com"] = ["93.184.215.14", "127.0.0.1"]
    status, _ = await stage.ask(url)
    assert status == "error"
    host = url.split("/")[2]
    assert stage.world.connected == []
    assert (
        f"The connection to {host}:443 was refused: it is inside a private network or this "
        "machine; functions reach public addresses only." in stage.lines.text
    )
    assert stage.lines.rows[-1].request_id == "r1"


async def test_a_refusal_of_plain_http_is_an_answer_with_the_reason(make_stage: MakeStage) -> None:
    stage = make_stage()
    status, text = await stage.ask("http://192.168.1.1/", "request")
    assert status == 403
    assert "inside a private network" in text


async def test_without_egress_nothing_but_the_gateway_is_reached(make_stage: MakeStage) -> None:
    stage = make_stage(policy=Policy.NONE)
    status, _ = await stage.ask("https://api.example.com/")
    assert status == "error"
    assert (stage.world.asked, stage.world.connected) == ([], [])
    assert "FUNCTION_EGRESS=none" in stage.lines.text
