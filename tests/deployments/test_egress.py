"""The proxy of functions: what it takes, whom it connects to, and what it says when it does not."""

import asyncio
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from deployments.runtime import addresses, egress
from deployments.runtime.addresses import Address
from deployments.runtime.egress import Egress, Policy, Refused, parse
from deployments.runtime.relay import Connection, Limits

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.8.8.8",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:93.184.215.14",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_somebodys_server_are_not_public(address: str) -> None:
    assert not addresses.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "172.32.0.1", "2606:4700::1111"])
def test_servers_on_the_internet_are_public(address: str) -> None:
    assert addresses.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "0",
        "api.0x1",
        "exa mple.com",
        "api.example.com/x",
        "a@b",
        "",
        "fe80::1%eth0 ",
        "x" * 254,
    ],
)
def test_disguised_addresses_are_no_hosts(host: str) -> None:
    with pytest.raises(addresses.NotAHost):
        addresses.literal(host)


@pytest.mark.parametrize("host", ["api.example.com", "api.example.com.", "localhost", "a-1_b.io"])
def test_names_are_names(host: str) -> None:
    assert addresses.literal(host) is None


def head(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_tunnel_is_asked_for_by_host_and_port() -> None:
    request = parse(head("CONNECT api.example.com:443 HTTP/1.1", "Host: other.example.com"))
    assert (request.host, request.port, request.head) == ("api.example.com", 443, b"")
    assert parse(head("CONNECT [2606:4700::1111]:443 HTTP/1.1")).host == "2606:4700::1111"


def test_a_whole_address_is_passed_on_as_a_request_of_its_own() -> None:
    request = parse(
        head(
            "POST http://api.example.com:8080/v1?x=1 HTTP/1.1",
            "Host: other.example.com",
            "Proxy-Authorization: Basic eA==",
            "Connection: keep-alive",
            "Content-Length: 2",
        )
    )
    assert (request.host, request.port) == ("api.example.com", 8080)
    assert request.head == head(
        "POST /v1?x=1 HTTP/1.1", "Host: api.example.com:8080", "Content-Length: 2",
        "Connection: close",
    )  # fmt: skip


@pytest.mark.parametrize(
    "first",
    [
        "GET / HTTP/1.1",
        "GET https://api.example.com/ HTTP/1.1",
        "GET ftp://api.example.com/ HTTP/1.1",
        "GET http://user:password@api.example.com/ HTTP/1.1",
        "GET http:///path HTTP/1.1",
        "GET http://api.example.com:99999/ HTTP/1.1",
        "CONNECT api.example.com HTTP/1.1",
        "CONNECT api.example.com:443/x HTTP/1.1",
        "CONNECT :443 HTTP/1.1",
        "CONNECT api.example.com:0 HTTP/1.1",
        "CONNECT api.example.com:443",
        "CONNECT api.example.com:443 HTTP/2",
        "nonsense",
        "",
    ],
)
def test_anything_else_is_told_what_this_is(first: str) -> None:
    with pytest.raises(Refused, match="this is an HTTP proxy: send CONNECT host:port") as raised:
        parse(head(first))
    assert raised.value.status == 400


class Proxy:
    """An egress on a socket; every public address is a server on it that echoes."""

    def __init__(self, folder: Path, policy: Policy = Policy.PUBLIC, **options: Limits) -> None:
        self.path = folder / "egress.sock"
        self.said: list[str] = []
        self.answers: list[list[str]] = []
        self.connected: list[str] = []
        self.egress = Egress(
            policy, "gateway.example.com", resolve=self.resolve, connect=self.connect, **options
        )

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        answer = self.answers.pop(0) if self.answers else [PUBLIC]
        return [ipaddress.ip_address(each) for each in answer]

    async def connect(
        self, address: Address, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connected.append(f"{address} {port}")
        return await asyncio.open_unix_connection(self.path.with_name("echo.sock"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self.egress.serve(1, Connection(reader, writer), self.said.append)

    async def ask(self, *lines: str) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(head(*lines))
        return (await reader.readline()).decode().strip(), reader, writer

    async def refusal(self, target: str) -> str:
        """The status line of a refused tunnel; nothing was connected to."""
        status, reader, writer = await self.ask(f"CONNECT {target} HTTP/1.1")
        await reader.read()
        writer.close()
        assert self.connected == []
        return status


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1024):
        writer.write(data)
    writer.close()


@pytest.fixture
async def make_proxy(short_folder: Path):
    servers = [await asyncio.start_unix_server(echo, short_folder / "echo.sock")]

    async def make(policy: Policy = Policy.PUBLIC, **options: Limits) -> Proxy:
        proxy = Proxy(short_folder, policy, **options)
        servers.append(
            await asyncio.start_unix_server(proxy.serve, proxy.path, limit=egress.HEAD_BYTES_MAX)
        )
        return proxy

    yield make
    for server in servers:
        server.close()


async def test_a_tunnel_carries_bytes_both_ways_and_ends_with_both_ends(make_proxy) -> None:
    proxy = await make_proxy()
    status, reader, writer = await proxy.ask("CONNECT api.example.com:443 HTTP/1.1")
    assert status == "HTTP/1.1 200 Connection established"
    assert await reader.readline() == b"\r\n"
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.write_eof()
    assert await reader.read() == b""
    assert proxy.connected == [f"{PUBLIC} 443"]


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("127.0.0.1:443", 403, "inside a private network or this machine"),
        ("[::1]:443", 403, "inside a private network or this machine"),
        ("[::ffff:127.0.0.1]:443", 403, "inside a private network or this machine"),
        ("169.254.169.254:80", 403, "inside a private network or this machine"),
        ("2130706433:443", 403, "neither a name nor an address"),
        ("gateway.example.com:443", 403, "connect to the gateway directly"),
        ("GATEWAY.example.com.:443", 403, "connect to the gateway directly"),
        ("api.example.com:25", 403, "mail is not sent from here"),
    ],
)
async def test_what_is_refused_says_why(make_proxy, target: str, status: int, reason: str) -> None:
    proxy = await make_proxy()
    assert (await proxy.refusal(target)).startswith(f"HTTP/1.1 {status} ")
    assert len(proxy.said) == 1
    assert reason in proxy.said[0]


async def test_a_name_that_changes_its_address_gains_nothing(make_proxy) -> None:
    proxy = await make_proxy()
    proxy.answers = [[PUBLIC], ["127.0.0.1"]]
    status, _, writer = await proxy.ask("CONNECT rebind.example.com:443 HTTP/1.1")
    assert "200" in status
    assert proxy.connected == [f"{PUBLIC} 443"]  # what was checked, without asking again
    writer.close()
    proxy.connected.clear()
    assert "403" in await proxy.refusal("rebind.example.com:443")


async def test_an_unknown_name_is_a_bad_gateway(make_proxy) -> None:
    proxy = await make_proxy()
    proxy.answers = [[]]
    assert "502" in await proxy.refusal("nowhere.example.com:443")
    assert "the name is not known" in proxy.said[0]


async def test_this_machines_own_public_address_is_refused(
    make_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress.addresses, "is_public", lambda address: True)
    proxy = await make_proxy()
    assert "403" in await proxy.refusal("127.0.0.1:443")  # whatever its range


async def test_a_head_that_is_too_large_is_refused(make_proxy) -> None:
    proxy = await make_proxy()
    status, _, writer = await proxy.ask("CONNECT a.example.com:443 HTTP/1.1", "X: " + "x" * 20_000)
    assert "431" in status
    writer.close()


async def test_a_deployment_has_only_so_many_connections(
    make_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "CONNECTIONS_MAX", 2)
    proxy = await make_proxy()
    opened = [await proxy.ask("CONNECT a.example.com:443 HTTP/1.1") for _ in range(3)]
    assert [status.split()[1] for status, *_ in opened] == ["200", "200", "429"]
    for _, _, writer in opened:
        writer.close()


@pytest.mark.parametrize("limits", [Limits(0.1, 60), Limits(60, 0.1)])
async def test_connections_end_when_they_are_idle_or_too_old(make_proxy, limits: Limits) -> None:
    proxy = await make_proxy(times=limits)
    _, reader, writer = await proxy.ask("CONNECT a.example.com:443 HTTP/1.1")
    await reader.readline()
    assert await reader.read() == b""
    writer.close()


async def test_egress_none_refuses_all(make_proxy) -> None:
    proxy = await make_proxy(Policy.NONE)
    assert "403" in await proxy.refusal("api.example.com:443")
    assert "FUNCTION_EGRESS=none" in proxy.said[0]
