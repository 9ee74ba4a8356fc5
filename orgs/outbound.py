"""Posting to an address that a customer named: never into our own network, never for long.

Owns the guard: https only, every address of the host must be public, and the connection goes to
the very address that was checked, so that a name cannot point elsewhere a moment later. Redirects
are not followed, the answer's body is not read. Loopback and http are for a machine of one's own
(settings.WEBHOOKS_TO_LOOPBACK). Must not know what is posted.
"""

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import httpx
from django.conf import settings

SECONDS_MAX = 10.0
URL_CHARACTERS_MAX = 500

# All IPv6 addresses that are somewhere in the world (RFC 4291); 64:ff9b::/96 outside of it is a
# gateway to any IPv4 address, private ones included.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class UnableToPost(Exception):
    """Nothing was delivered; the message says why in words for the customer."""


def check_url(url: str) -> SplitResult:
    """The parsed address, if it is one we may post to; resolves nothing. Raises UnableToPost."""
    try:
        parts = urlsplit(url)
        port = parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise UnableToPost("This is no address.") from None
    if any(character.isspace() for character in url):
        raise UnableToPost("Leave spaces out of the address.")
    schemes = ("https", "http") if settings.WEBHOOKS_TO_LOOPBACK else ("https",)
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise UnableToPost("Give an address that begins with https:// and names a host.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise UnableToPost("Leave user names, passwords and # out of the address.")
    if len(url) > URL_CHARACTERS_MAX:
        raise UnableToPost(f"The address may have at most {URL_CHARACTERS_MAX} characters.")
    return parts


def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Post once; the answer's status, whatever it is. Raises UnableToPost."""
    parts = check_url(url)
    host = _ascii(parts.hostname or "")
    address = _checked_address(host, parts.port or (443 if parts.scheme == "https" else 80))
    literal = f"[{address}]" if address.version == 6 else str(address)
    port = f":{parts.port}" if parts.port else ""
    target = parts._replace(netloc=f"{literal}{port}").geturl()
    sent = {**headers, "host": f"{host}{port}"}
    try:
        with (
            httpx.Client(timeout=SECONDS_MAX, follow_redirects=False, trust_env=False) as client,
            # The certificate must be the host's, although we connect to its address.
            client.stream(
                "POST", target, content=body, headers=sent, extensions={"sni_hostname": host}
            ) as response,
        ):
            return response.status_code
    except httpx.TimeoutException:
        raise UnableToPost(f"No answer within {SECONDS_MAX:.0f} seconds.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnableToPost(f"The connection failed ({type(error).__name__}).") from None


def _ascii(host: str) -> str:
    """The host as headers and certificates name it. Raises UnableToPost."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        raise UnableToPost(f"The host {host[:100]} is no name.") from None


def _checked_address(host: str, port: int) -> Address:
    """An address of the host, if all of them are public. Raises UnableToPost."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnableToPost(f"The host {host[:100]} is not known.") from None
    addresses = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in found]
    if not addresses or not all(_is_allowed(address) for address in addresses):
        raise UnableToPost("The host is inside a private network, where nothing is posted to.")
    return addresses[0]


def _is_allowed(address: Address) -> bool:
    if settings.WEBHOOKS_TO_LOOPBACK and address.is_loopback:
        return True
    if address.version == 6:
        # An IPv4 address may hide in an IPv6 one: 6to4 and Teredo are inside 2000::/3.
        is_tunnel = address.sixtofour is not None or address.teredo is not None
        return address in GLOBAL_UNICAST and address.is_global and not is_tunnel
    return address.is_global and not address.is_multicast
