# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""This balancer: its settings, its interface, its connections, and whether an address may come here."""

from __future__ import annotations

import ipaddress
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core import files
from ..core.config import Settings, load
from ..core.errors import Problem
from ..core.run import run
from ..core.systemd import is_active

CONFIG = pathlib.Path("/etc/webstack/vip.json")
RUN = pathlib.Path("/run/webstack/vip")
#: The service that runs the command of the hook engine for as long as this host is master.
MOVE = "webstack-vip-move.service"
#: RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR: the kernel tells of each address that comes or goes.
ADDRESS_NEWS = 0x10 | 0x100
#: The longest that a question to the kernel or to nginx may take.
SECONDS = 10
#: Connections in these states need forwarding. In fin-wait-2 the server is done, and a client may stay for ever.
OPEN_STATES = ("established", "syn-recv", "fin-wait-1", "close-wait", "last-ack", "closing")
#: A client is gone when a segment was repeated this often: after 0.2, 0.4, 0.8 s and so on, 6 s in all.
REPEATS_OF_THE_LOST = 5
#: The same for a handshake, which is repeated after 1 and 3 s.
REPEATS_OF_A_LOST_HANDSHAKE = 2


def flag(name: str) -> bool:
    """Say whether this flag is raised. keepalived tracks its file and gives the addresses up while it is."""
    try:
        return (RUN / name).read_text().strip() not in ("", "0")
    except FileNotFoundError:
        return False


def set_flag(name: str, value: bool) -> None:
    files.folder(RUN)
    # In place: keepalived watches this very file.
    (RUN / name).write_text(f"{int(value)}\n")


class Link(NamedTuple):
    """The interface: its MAC address and what it carries."""

    mac: str
    addresses: tuple[str, ...]
    address6: str


def parse_link(entry: Mapping[str, Any], virtual: Sequence[str]) -> Link:
    """Read one entry of `ip -json address`. `address6` is best the link-local address, which never moves."""
    found = [item["local"] for item in entry["addr_info"]]
    own6 = [a for a in found if ":" in a and a not in virtual]
    own6.sort(key=lambda a: not ipaddress.ip_address(a).is_link_local)
    return Link(entry["address"], tuple(a for a in virtual if a in found), own6[0] if own6 else "")


class Host:
    """This balancer."""

    def __init__(self, config: Settings) -> None:
        self.name = config.text("host")
        self.engine = config.text("engine")
        self.interface = config.text("interface")
        self.own = config.text("own")
        self.addresses = [str(ipaddress.ip_interface(text).ip) for text in config.words("addresses")]
        self.peers = {peer.text("name"): peer.text("address") for peer in config.tables("peers")}
        self.port = config.whole("port")
        self.service = config.text("service")
        self.check = config.words("check")
        self.drain_seconds = config.number("drain_seconds")
        self.doctor_seconds = config.number("doctor_seconds")
        self.metrics_file = config.text("metrics_file")
        self.alarm = config.words("alarm")
        self.hook = config.table("hook")

    @classmethod
    def load(cls) -> Host:
        """Read what the role wrote."""
        return cls(load(CONFIG, "vip_failover"))

    def link(self) -> Link:
        shown = run("ip", "-json", "address", "show", "dev", self.interface, seconds=SECONDS).out
        return parse_link(json.loads(shown)[0], self.addresses)

    def owned(self) -> list[str]:
        """Return the virtual addresses that this host owns. Their copies on the loopback do not count."""
        if self.engine == "hook":
            return self.addresses if is_active(MOVE) else []
        return list(self.link().addresses)

    def is_master(self) -> bool:
        """Say whether keepalived made this host the master of the hook engine: it has an address of its own then."""
        shown = run("ip", "-json", "address", "show", "dev", "lo", seconds=SECONDS).out
        sign = self.hook.text("master_address")
        return any(item["local"] == sign for entry in json.loads(shown) for item in entry["addr_info"])

    def unfit(self) -> str:
        """Say why no address should come here; empty when one may."""
        if flag("maintenance"):
            return "it is in maintenance"
        if self.engine != "classic":
            # With classic no unit stops before the host does, so a `leaving` here was left by another engine.
            if flag("leaving"):
                return "it is being stopped"
            if not is_active("keepalived.service"):
                return "its keepalived does not run"
        if self.check and run(*self.check, seconds=SECONDS, check=False).code != 0:
            return "its web server does not answer"
        return ""

    def connections(self) -> int:
        """Count the TCP connections to the virtual addresses that still live here."""
        command = ["ss", "-Htno"]
        for state in OPEN_STATES:
            command += ["state", state]
        sources = " or ".join(f"src {a if ':' not in a else f'[{a}]'}" for a in self.addresses)
        return living(run(*command, f"( {sources} )", seconds=SECONDS).out)


def living(sockets: str) -> int:
    """Count the sockets that `ss -o` lists, without those of clients that are gone."""
    count = 0
    for line in sockets.splitlines():
        repeats = re.search(r" timer:\(\w+,[^,]*,(\d+)\)", line)
        limit = REPEATS_OF_A_LOST_HANDSHAKE if line.startswith("SYN-RECV") else REPEATS_OF_THE_LOST
        count += repeats is None or int(repeats[1]) < limit
    return count


def heard() -> int | None:
    """Return how many advertisements of peers came through the firewall of this host; None when nobody counts."""
    try:
        shown = run("nft", "--json", "list", "counter", "inet", "webstack_vrrp", "heard", seconds=SECONDS).out
    except Problem:
        return None
    listing = json.loads(shown)
    return next(int(item["counter"]["packets"]) for item in listing["nftables"] if "counter" in item)
