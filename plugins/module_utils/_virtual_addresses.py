# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must hold for addresses that move between hosts: no Ansible import, no I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence


def parse(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    """Read address/prefix; the prefix has to be a number."""
    try:
        prefix = text.split("/")[1:]
        return ipaddress.ip_interface(text) if prefix and prefix[0].isdigit() else None
    except ValueError:
        return None


def address_problems(virtual: Sequence[str], own: str, peers: Iterable[str], allow_single: bool = False) -> list[str]:
    """Return what is wrong with the virtual addresses, the own address and those of the balancers."""
    problems = [] if virtual else ["vip_failover_addresses is empty"]
    unreadable = [text for text in virtual if parse(text) is None]
    if unreadable:
        problems.append(f"vip_failover_addresses needs address/prefix: {', '.join(unreadable)}")
    found = [interface.ip for text in virtual if (interface := parse(text)) is not None]
    for address in sorted({a for a in found if found.count(a) > 1}, key=str):
        problems.append(f"vip_failover_addresses holds {address} twice")
    try:
        mine = ipaddress.ip_address(own)
    except ValueError:
        return [
            *problems,
            f"vip_failover_address is no IP address: {own!r}" if own else "vip_failover_address is empty",
        ]
    if mine in found:
        problems.append(f"vip_failover_addresses holds the own address of this host, {own}")
    others = 0
    for text in peers:
        try:
            peer = ipaddress.ip_address(text)
        except ValueError:
            problems.append(f"vip_failover_peers holds no IP address: {text!r}")
            continue
        others += peer != mine
        if peer.version != mine.version:
            problems.append(
                f"vip_failover_peers: {peer} is IPv{peer.version}, vip_failover_address is IPv{mine.version}"
            )
        if peer != mine and peer in found:
            problems.append(f"vip_failover_addresses holds the own address of another balancer, {peer}")
    if not others and not allow_single:
        problems.append(
            "vip_failover_peers names no other balancer; vip_failover_allow_single lets a single one through"
        )
    return problems


def network_problems(virtual: Sequence[str], carried: Sequence[str], name: str) -> list[str]:
    """Return which virtual addresses the networks of an interface cannot carry."""
    own = [interface for text in carried if (interface := parse(text)) is not None]
    networks = [address.network for address in own if not address.ip.is_link_local]
    problems = []
    for text in virtual:
        wanted = parse(text)
        if wanted is None:
            continue
        same = [network for network in networks if network.version == wanted.version]
        home = [network for network in same if wanted.ip in network]
        if not same:
            problems.append(f"vip_failover_addresses: {wanted}: {name} has no IPv{wanted.version} address")
        elif not home:
            listed = ", ".join(map(str, same))
            problems.append(f"vip_failover_addresses: {wanted} is outside of the networks of {name}: {listed}")
        elif wanted.network.prefixlen not in (wanted.max_prefixlen, *(network.prefixlen for network in home)):
            problems.append(f"vip_failover_addresses: {wanted} has another prefix than {name}, which is in {home[0]}")
        elif home[0].num_addresses > 2 and wanted.version == 4 and wanted.ip in (home[0][0], home[0][-1]):
            problems.append(f"vip_failover_addresses: {wanted} is the network's own or its broadcast address")
    return problems
