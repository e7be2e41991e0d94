"""Addresses on the chain are strangers' words."""

from __future__ import annotations

import pytest

from moesubnet.errors import ConfigError, PeerUnavailable
from moesubnet.types import Axon
from moesubnet.wire.addresses import check_axon, may_be_public, published_ip


@pytest.mark.parametrize(
    "ip", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2002:808:808::1", "64:ff9b::808:808"]
)
@pytest.mark.parametrize("port", [80, 443, 1024, 8091, 65_535])
def test_public_addresses_pass(ip: str, port: int) -> None:
    check_axon(Axon(ip, port), allow_private=False)


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1",
        "127.8.8.8", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1",
        "192.0.2.1", "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "fc00::1",
        "fd00::1", "fe80::1", "ff02::1", "2001:db8::1", "::127.0.0.1", "fec0::1",
        "64:ff9b:1::1", "100::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(ip: str) -> None:
    with pytest.raises(PeerUnavailable):
        check_axon(Axon(ip, 8091), allow_private=False)


@pytest.mark.parametrize(
    "ip",
    [
        "", "localhost", "example.org", "8.8.8.8:80", "8.8.8.8@127.0.0.1", "08.8.8.8",
        "0x8080808", "134744072", "8.8.8.8/", "fe80::1%eth0", "2606:4700::1%eth0", "[::1]",
        "8.8.8.8#", " 8.8.8.8",
    ],
)  # fmt: skip
@pytest.mark.parametrize("allow_private", [False, True])
def test_only_literal_addresses_are_addresses(ip: str, allow_private: bool) -> None:
    with pytest.raises(PeerUnavailable):
        check_axon(Axon(ip, 8091), allow_private=allow_private)


@pytest.mark.parametrize("port", [-1, 0, 1, 22, 25, 81, 1023, 6379, 9944, 11211, 27017, 65_536])
def test_ports_of_other_services_are_refused(port: int) -> None:
    with pytest.raises(PeerUnavailable):
        check_axon(Axon("8.8.8.8", port), allow_private=False)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "::ffff:127.0.0.1"])
def test_local_networks_are_allowed_on_request(ip: str) -> None:
    check_axon(Axon(ip, 9944), allow_private=True)


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "224.0.0.1",
        "0.0.0.0",
        "::",
    ],
)
def test_link_local_multicast_and_unspecified_are_never_allowed(ip: str) -> None:
    with pytest.raises(PeerUnavailable):
        check_axon(Axon(ip, 8091), allow_private=True)


def test_an_address_that_nobody_can_connect_to_is_not_published() -> None:
    assert published_ip(None, "127.0.0.1") == "127.0.0.1"
    assert published_ip("203.0.113.7", "0.0.0.0") == "203.0.113.7"
    for host in ("0.0.0.0", "::", "localhost", "example.org"):
        with pytest.raises(ConfigError, match="external-ip"):
            published_ip(None, host)


@pytest.mark.parametrize(
    ("url", "is_so"),
    [
        ("https://example.org/spec", True),
        ("http://8.8.8.8:8300", True),
        ("http://127.0.0.1:8300", False),
        ("http://localhost:8300", False),
        ("http://192.168.1.5/spec", False),
        ("http://[::1]:8300", False),
    ],
)
def test_what_others_cannot_reach_is_seen_by_its_url(url: str, is_so: bool) -> None:
    assert may_be_public(url) is is_so
