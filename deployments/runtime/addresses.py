"""Which addresses on the network functions may connect to: those of others, on the internet.

Pure. Owns the ranges; must not know who asks or how names are resolved.
"""

import contextlib
import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# All IPv6 addresses that are somewhere in the world (RFC 4291). Outside of it lie addresses that
# stand for IPv4 ones: mapped, compatible, and 64:ff9b::/96 (NAT64, RFC 6052).
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Inside of public ranges, but not somebody's server on the internet.
SPECIAL = (
    ipaddress.ip_network("192.0.0.0/24"),  # of protocols (RFC 6890); metadata at Oracle's cloud
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4 (RFC 7526)
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's platform, from inside its machines
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637)
)
# inet_aton(3) takes 2130706433, 0x7f.1 and 0177.0.0.1 for 127.0.0.1: no name ends in a number.
NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)*[a-z0-9_-]{1,63}\.?", re.I)


class NotAHost(Exception):
    """What stands for a host is neither a name nor an address as people write them."""


def literal(host: str) -> Address | None:
    """The address that `host` is, None for a name. Raises NotAHost."""
    if "%" not in host:  # which would name an interface of this machine
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host)
    if not NAME.fullmatch(host) or NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise NotAHost(f"{host[:100]!r} is neither a name nor an address")
    return None


def is_public(address: Address) -> bool:
    """Whether the address is a server's on the internet.

    Not public: loopback, private, link-local (169.254.169.254 answers with a machine's own
    credentials in clouds), carrier-grade NAT, multicast, reserved, unspecified, documentation, and
    IPv6 addresses that stand for IPv4 ones.
    """
    if any(address in network for network in SPECIAL if network.version == address.version):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        is_tunnel = address.sixtofour is not None or address.teredo is not None
        return address in GLOBAL_UNICAST and address.is_global and not is_tunnel
    return address.is_global and not address.is_multicast
