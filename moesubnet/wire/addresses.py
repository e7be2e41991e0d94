"""Which addresses from the chain may be connected to. They are strangers' words."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from moesubnet.errors import ConfigError, PeerUnavailable
from moesubnet.types import Axon

# Services that a forged axon would most like us to talk to.
_DENIED_PORTS = frozenset({2375, 2376, 2379, 3306, 5432, 6379, 9200, 9933, 9944, 11211, 27017})
_NAT64 = IPv6Network("64:ff9b::/96")
_RELAY_ANYCAST = IPv4Network("192.88.99.0/24")

AddrInfo = tuple[  # as socket.getaddrinfo gives it
    int | socket.AddressFamily,
    int | socket.SocketKind,
    int,
    str,
    tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
]


def check_axon(axon: Axon, *, allow_private: bool) -> None:
    """Raises PeerUnavailable unless `axon` is a public literal address and a plausible port.

    `allow_private` (local networks) lets loopback and private ranges through, and any port; never
    link-local (clouds keep credentials there), multicast or unspecified addresses.
    """
    try:
        address = ip_address(axon.ip)
    except ValueError:
        raise PeerUnavailable("the address is not an IP address") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise PeerUnavailable("the address names one of our interfaces")
    inner = _embedded(address)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified:
        raise PeerUnavailable("the address cannot be connected to")
    if not 1 <= axon.port <= 65_535:
        raise PeerUnavailable("the port is out of range")
    if allow_private:
        return
    site_local = isinstance(inner, IPv6Address) and inner.is_site_local
    if not inner.is_global or inner.is_reserved or site_local or inner in _RELAY_ANYCAST:
        raise PeerUnavailable("the address is not public (--allow-private is for local networks)")
    if (axon.port < 1024 and axon.port not in (80, 443)) or axon.port in _DENIED_PORTS:
        raise PeerUnavailable("the port belongs to another kind of service")


def checked_sockets(*, allow_private: bool) -> Callable[[AddrInfo], socket.socket]:
    """A socket factory (aiohttp's `TCPConnector`) that refuses what `check_axon` refuses.

    It sees each address that is about to be connected to, so a name may resolve to what it likes.
    """

    def open_socket(target: AddrInfo) -> socket.socket:
        family, kind, protocol, _, (ip, port, *_) = target
        try:
            check_axon(Axon(str(ip), int(port)), allow_private=allow_private)
        except PeerUnavailable as error:
            # The name's next address may do.
            raise PermissionError(errno.EACCES, str(error)) from None
        return socket.socket(family, kind, protocol)

    return open_socket


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside a mapped, 6to4, Teredo or NAT64 one; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.teredo:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def published_ip(external_ip: str | None, host: str) -> str:
    """The address that goes on chain; ConfigError if nobody could connect to it."""
    address = external_ip or host
    try:
        unusable = ip_address(address).is_unspecified
    except ValueError:
        unusable = True
    if unusable:
        raise ConfigError(
            f"{address} cannot be published: the chain needs an IP address that others can reach. "
            "Pass it as --external-ip"
        )
    return address


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def names_loopback(url: str) -> bool:
    """Whether a URL, or `//HOST:PORT`, is of this machine."""
    return is_loopback(split_url(url).hostname or "")


def may_be_public(url: str) -> bool:
    """Whether others might reach a URL: its host is a public address, or a name of some machine."""
    host = split_url(url).hostname or ""
    try:
        return ip_address(host).is_global
    except ValueError:
        return not is_loopback(host)


def split_url(url: str) -> SplitResult:
    """A stranger's URL in parts: without scheme and host where it is none, as `http://[`."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", url, "", "")
