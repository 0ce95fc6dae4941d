# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks the network who answers for an address, and tells it who does, by ARP and IPv6 neighbour discovery."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Callable

from .host import Host, Link
from .peers import TTL

BROADCAST = b"\xff" * 6


def arp(operation: int, mac: str, sender: str, target: str) -> bytes:
    own = bytes.fromhex(mac.replace(":", ""))
    return (
        struct.pack("!6s6sHHHBBH", BROADCAST, own, 0x0806, 1, 0x0800, 6, 4, operation)
        + own
        + socket.inet_aton(sender)
        + (BROADCAST if operation == 2 else bytes(6))
        + socket.inet_aton(target)
    )


def parse_arp(frame: bytes) -> tuple[str, str] | None:
    """Return the address and the MAC of the sender of an ARP frame."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x06":
        return None
    return socket.inet_ntoa(frame[28:32]), frame[22:28].hex(":")


def solicitation(mac: str, target: str) -> bytes:
    return (
        struct.pack("!BBHI", 135, 0, 0, 0)
        + socket.inet_pton(socket.AF_INET6, target)
        + b"\x01\x01"
        + bytes.fromhex(mac.replace(":", ""))
    )


def advertisement(mac: str, target: str) -> bytes:
    override = 0x20000000
    return (
        struct.pack("!BBHI", 136, 0, 0, override)
        + socket.inet_pton(socket.AF_INET6, target)
        + b"\x02\x01"
        + bytes.fromhex(mac.replace(":", ""))
    )


def parse_advertisement(packet: bytes) -> tuple[str, str] | None:
    """Return the address and the MAC in a neighbour advertisement."""
    if len(packet) < 32 or packet[0] != 136 or packet[24] != 2:
        return None
    return socket.inet_ntop(socket.AF_INET6, packet[8:24]), packet[26:32].hex(":")


def neighbour_socket(host: Host, own6: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    index = socket.if_nametoindex(host.interface)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, TTL)
    made.bind((own6, 0, 0, index))
    return made


def who_answers(host: Host, link: Link, seconds: float = 0.5) -> dict[str, set[str]]:
    """Ask the network for each address: address -> MACs that answered."""
    answers: dict[str, set[str]] = {address: set() for address in host.addresses}
    with contextlib.ExitStack() as stack:
        lines: list[tuple[socket.socket, Callable[[bytes], tuple[str, str] | None]]] = []
        four = [a for a in host.addresses if ":" not in a]
        if four and ":" not in host.own:
            raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)))
            raw.bind((host.interface, 0x0806))
            for address in four:
                raw.send(arp(1, link.mac, host.own, address))
            lines.append((raw, parse_arp))
        six = [a for a in host.addresses if ":" in a]
        if six and link.address6:
            line = stack.enter_context(neighbour_socket(host, link.address6))
            for address in six:
                group = "ff02::1:ff" + ipaddress.IPv6Address(address).exploded[-7:]
                line.sendto(solicitation(link.mac, address), (group, 0))
            lines.append((line, parse_advertisement))
        end = time.monotonic() + seconds
        for line, parse in lines:
            while True:
                line.settimeout(max(0.001, end - time.monotonic()))
                try:
                    told = parse(line.recv(2048))
                except TimeoutError:
                    break
                if told and told[0] in answers:
                    answers[told[0]].add(told[1])
                if time.monotonic() > end:
                    break
    return answers


def announce(host: Host) -> None:
    """Tell the network once more where the addresses of this host are."""
    link = host.link()
    for address in link.addresses:
        if ":" in address:
            with neighbour_socket(host, link.address6) as line:
                line.sendto(advertisement(link.mac, address), ("ff02::1", 0))
        else:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((host.interface, 0x0806))
                raw.send(arp(1, link.mac, address, address))
