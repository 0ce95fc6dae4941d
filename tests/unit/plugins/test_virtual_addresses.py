"""Addresses that move between hosts: what is refused, and by which words."""

from __future__ import annotations

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _virtual_addresses as core

PEERS = ["192.0.2.11", "192.0.2.12"]
CARRIED = ["192.0.2.11/24", "2001:db8::11/64", "fe80::1/64"]


def test_good_addresses_have_no_problem() -> None:
    virtual = ["192.0.2.100/24", "192.0.2.101/32", "2001:db8::100/64", "2001:db8::101/128"]
    assert core.address_problems(virtual, "192.0.2.11", PEERS) == []
    assert core.network_problems(virtual, CARRIED, "eth0") == []


@pytest.mark.parametrize(
    ("virtual", "words"),
    [
        ([], "vip_failover_addresses is empty"),
        (["192.0.2.100"], "needs address/prefix: 192.0.2.100"),
        (["192.0.2.100/33"], "needs address/prefix: 192.0.2.100/33"),
        (["192.0.2.100/255.255.255.0"], "needs address/prefix"),
        (["192.0.2.300/24"], "needs address/prefix"),
        (["192.0.2.11/24"], "own address of this host, 192.0.2.11"),
        (["192.0.2.12/24"], "own address of another balancer, 192.0.2.12"),
        (["2001:db8::1/64", "2001:DB8:0::1/64"], "holds 2001:db8::1 twice"),
    ],
)
def test_bad_addresses_are_named(virtual: list[str], words: str) -> None:
    assert any(words in problem for problem in core.address_problems(virtual, "192.0.2.11", PEERS))


@pytest.mark.parametrize(
    ("own", "peers", "words"),
    [
        ("", PEERS, "vip_failover_address is empty"),
        ("lb1", PEERS, "vip_failover_address is no IP address: 'lb1'"),
        ("192.0.2.11", [], "vip_failover_peers names no other balancer"),
        ("192.0.2.11", ["192.0.2.11"], "vip_failover_peers names no other balancer"),
        ("192.0.2.11", ["2001:db8::12"], "2001:db8::12 is IPv6, vip_failover_address is IPv4"),
        ("2001:db8::11", ["192.0.2.12"], "192.0.2.12 is IPv4, vip_failover_address is IPv6"),
        ("192.0.2.11", ["lb2"], "vip_failover_peers holds no IP address: 'lb2'"),
    ],
)
def test_bad_hosts_are_named(own: str, peers: list[str], words: str) -> None:
    assert any(words in problem for problem in core.address_problems(["192.0.2.100/24"], own, peers))


def test_a_single_balancer_may_be_allowed() -> None:
    assert core.address_problems(["192.0.2.100/24"], "192.0.2.11", [], allow_single=True) == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("198.51.100.1/24", "198.51.100.1/24 is outside of the networks of eth0: 192.0.2.0/24"),
        ("192.0.2.100/16", "192.0.2.100/16 has another prefix than eth0, which is in 192.0.2.0/24"),
        ("192.0.2.0/24", "the network's own or its broadcast address"),
        ("192.0.2.255/24", "the network's own or its broadcast address"),
        ("2001:db8:1::1/64", "is outside of the networks of eth0: 2001:db8::/64"),
        ("fe80::5/64", "fe80::5/64 is outside of the networks of eth0"),
    ],
)
def test_what_an_interface_cannot_carry(address: str, words: str) -> None:
    assert any(words in problem for problem in core.network_problems([address], CARRIED, "eth0"))


def test_a_family_that_an_interface_does_not_have() -> None:
    assert core.network_problems(["2001:db8::1/64"], ["192.0.2.11/24"], "eth0") == [
        "vip_failover_addresses: 2001:db8::1/64: eth0 has no IPv6 address"
    ]
