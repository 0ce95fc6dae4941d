# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Forwarding: segments of TCP connections that live at another balancer are sent to it.

A connection lives where it began. After the address has moved, its segments arrive at the new owner, which does not
know it. The new owner forwards them to the balancer that does.
"""

from __future__ import annotations

import ipaddress
import json
import pathlib
import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ..core.errors import Problem
from ..core.files import write
from ..core.run import run
from ..core.say import say
from ..core.summary import newer
from .host import RUN, SECONDS, Host, flag
from .peers import FORMAT, HEARTBEAT, ask, state

CONNTRACK = pathlib.Path("/proc/sys/net/netfilter")
#: Forwarding to a peer ends when it has said nothing for this long.
DRAIN_SILENCE = 1.0


def ended_seconds() -> int:
    """Return for how many seconds conntrack remembers a connection that has ended.

    0 when nothing is tracked, or when a connection that goes on may be remembered for as short a time.
    """

    def limit(name: str) -> int:
        return int((CONNTRACK / f"nf_conntrack_tcp_timeout_{name}").read_text())

    try:
        ended = max(limit("time_wait"), limit("close"))
        return ended if ended < min(limit("established"), limit("unacknowledged")) else 0
    except FileNotFoundError:
        return 0


def forwarding_rules(
    addresses: Iterable[str], interface: str, mac: str, peer4: str, peer6: str, *, ended: int = 0
) -> str:
    """Return the nftables rules that forward segments of connections unknown here to a peer."""
    if not re.fullmatch(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
        raise Problem(f"{mac!r} is no MAC address")
    text = ""
    moved = [str(ipaddress.ip_address(a)) for a in addresses]
    for family, peer in (("ip", peer4), ("ip6", peer6)):
        mine = [a for a in moved if (":" in a) == (family == "ip6")]
        if not mine or not peer:
            continue
        # A client whose connection here has ended may have used its port again for one that lives at the peer.
        again = f"ct state established ct expiration <= {ended}s goto only_back" if ended else ""
        text += f"""table {family} webstack_drain {{
    chain back {{
        counter dup to {ipaddress.ip_address(peer)} device "{interface}"
    }}
    chain only_back {{
        jump back
        drop
    }}
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
        meta l4proto != tcp accept
        {family} daddr != {{ {", ".join(mine)} }} accept
        # What the peer sends is never sent back.
        ether saddr {mac} accept
        # A connection that lives here, also one that is older than connection tracking on this host.
        socket wildcard 0 accept
        # Unknown. It may be a handshake that began here before tracking did: so both hosts get it.
        ct state invalid goto back
        # In the middle of a connection, although tracking takes it for a new one: it lives at the peer.
        ct state new tcp flags & syn == 0 goto only_back
        {again}
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        # The kernel would reset a connection that it does not know.
        tcp flags & (rst | ack) == rst {family} saddr {{ {", ".join(mine)} }} drop
    }}
}}
"""
    return text


#: Takes the rules away, also those that an earlier agent left. Only a table that exists can be deleted, so add it.
NO_RULES = "".join(f"table {family} webstack_drain\ndelete table {family} webstack_drain\n" for family in ("ip", "ip6"))


class Forwarder:
    """Forwards to one peer, until that peer says that it is done or says nothing any more."""

    #: Otherwise conntrack takes any segment for a connection of its own, and a late segment for an unknown one.
    SETTINGS: ClassVar = {"nf_conntrack_tcp_loose": "0", "nf_conntrack_tcp_be_liberal": "1"}

    def __init__(self) -> None:
        self.peer = ""
        self.addresses: set[str] = set()
        self.until = 0.0
        self.saved = RUN / "conntrack.json"
        #: Two threads use it: the one that answers the peers, and the one that asks them (`share`).
        self.lock = threading.RLock()

    def start(self, host: Host, peer: str, request: Mapping[str, Any]) -> None:
        """Begin, or go on for another second. Addresses of the request are added to those from before."""
        with self.lock:
            before = self.addresses if self.peer == peer else set()
            wanted = before | {a for a in request["addresses"] if a in host.addresses}
            if wanted != before:
                rules = forwarding_rules(
                    sorted(wanted),
                    host.interface,
                    request["mac"],
                    host.peers[peer] if ":" not in host.peers[peer] else "",
                    host.peers[peer] if ":" in host.peers[peer] else request.get("address6", ""),
                    ended=ended_seconds(),
                )
                self.set_up(rules)
                self.peer, self.addresses = peer, wanted
                say(f"{peer} has connections: their segments go back to it")
            self.until = time.monotonic() + DRAIN_SILENCE

    def set_up(self, rules: str) -> None:
        run("nft", "--file", "-", text=NO_RULES + rules, seconds=SECONDS)
        if not self.saved.exists():
            write(self.saved, json.dumps({name: (CONNTRACK / name).read_text().strip() for name in self.SETTINGS}))
        for name, value in self.SETTINGS.items():
            (CONNTRACK / name).write_text(value)

    def take_down(self) -> None:
        run("nft", "--file", "-", text=NO_RULES, seconds=SECONDS)
        if self.saved.exists():
            for name, value in json.loads(self.saved.read_text()).items():
                (CONNTRACK / name).write_text(value)
            self.saved.unlink()

    def stop(self, reason: str = "") -> None:
        with self.lock:
            self.take_down()
            if self.peer:
                say(f"{self.peer} {reason}: nothing goes back to it any more")
            self.peer, self.addresses = "", set()

    def tick(self) -> None:
        with self.lock:
            if self.peer and time.monotonic() > self.until:
                self.stop("is silent")


def serve(host: Host, forwarder: Forwarder, peer: str, question: Mapping[str, Any]) -> dict[str, Any] | None:
    """Answer one question of a peer."""
    if problem := newer(question, FORMAT):
        say(f"{peer} {problem}")
        return {"refused": f"{peer} {problem}"}
    match question.get("ask"):
        case "state":
            return state(host)
        case "drain":
            # Before a planned move a peer asks whether this host could take over. Later questions only keep the
            # forwarding alive. Without a plan the address is here already.
            reason = host.unfit() if question.get("planned", True) and forwarder.peer != peer else ""
            if not reason:
                forwarder.start(host, peer, question)
            return {"refused": reason}
        case "drained":
            forwarder.stop("is done")
            return {}
        case "share":
            mine = shareable(host)
            both = [a for a in mine["addresses"] if a in question["addresses"]]
            if both and forwarder.peer in ("", peer):
                forwarder.start(host, peer, {**question, "addresses": both})
            return {**mine, "addresses": both}
    return None


def shareable(host: Host) -> dict[str, Any]:
    """Return the addresses that this host owns and means to keep, and where others reach it."""
    link = host.link()
    leaves = flag("maintenance") or flag("leaving")
    return {"addresses": [] if leaves else list(link.addresses), "mac": link.mac, "address6": link.address6}


def share(host: Host, forwarder: Forwarder) -> None:
    """If two balancers own an address and can hear each other, each forwards the other's connections.

    This happens when only VRRP is lost between them, for example in a firewall. Clients send to whoever announced the
    address last, so segments of a connection may arrive at the wrong owner. Asking five times a second is often enough:
    TCP repeats a lost segment after 0.2 s. A peer that is dead or out of reach does not answer.
    """
    try:
        shared = True
        while shared:
            mine = shareable(host)
            shared = False
            for peer in host.peers if mine["addresses"] else ():
                theirs = ask(host, peer, {"ask": "share", **mine})
                if theirs and theirs.get("refused"):
                    raise Problem(f"{peer}: {theirs['refused']}")
                # A segment can be forwarded to one peer only, so the first one that shares an address gets it.
                if theirs and theirs["addresses"] and forwarder.peer in ("", peer):
                    forwarder.start(host, peer, theirs)
                    shared = True
            time.sleep(HEARTBEAT)
    except (Problem, OSError, KeyError) as problem:
        say(f"connections of another owner cannot be forwarded to it: {problem}")
