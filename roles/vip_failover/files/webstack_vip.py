#!/usr/bin/python3
"""The virtual addresses as this balancer sees them, and how they are handed over.

  webstack-vip status [--json]    who owns what, and what the doctor finds
  webstack-vip doctor             the same findings; exit code 1 when there are any
  webstack-vip switchover         hand every address over, let running connections end here, stay out
  webstack-vip rejoin             be a candidate again; the addresses stay where they are

What units call: `agent` answers the other balancers and is the doctor's clock, `leave` and `arrive` frame each stop
of the web server, of keepalived and of the host, `move` runs the command of the hook engine.

A switchover keeps running connections: the new owner sends segments of TCP connections that it has never seen to the
old one, which has the addresses on its loopback and answers. It does so only while the old owner says, several times a
second, that it is draining: after a crash an old connection gets its reset soon. Two that own an address while they
hear each other do so for one another.

Settings: /etc/webstack-vip/config.json
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

CONFIG = pathlib.Path("/etc/webstack-vip/config.json")
RUN = pathlib.Path("/run/webstack-vip")
CONNTRACK = pathlib.Path("/proc/sys/net/netfilter")
#: Datagrams from further away than the link arrive with less.
TTL = 255
#: A peer that is silent for as long as this no longer drains.
DRAIN_SILENCE = 1.0
HEARTBEAT = 0.2
ANSWER_SECONDS = 1.0
#: As long as an engine needs to move an address; classic looks once in its interval.
MOVE_SECONDS = {"keepalived": 5, "hook": 60, "classic": 130}
BROADCAST = b"\xff" * 6
#: Ends of connections that need the forwarding, too; a client that never closes its half (fin-wait-2) does not.
OPEN_STATES = ("established", "syn-recv", "fin-wait-1", "close-wait", "last-ack", "closing")

#: RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR: the kernel tells of each address that comes or goes.
ADDRESS_NEWS = 0x10 | 0x100

#: TCP repeats a segment after 0.2, 0.4, 0.8 s and so on: five times are 6 s.
REPEATS_OF_THE_LOST = 5
#: It repeats its half of a handshake after 1 and 3 s.
REPEATS_OF_A_LOST_HANDSHAKE = 2


class VipError(Exception):
    """Something that the operator can act on; its text is all that is printed."""


def say(text: str) -> None:
    print(f"webstack-vip: {text}", file=sys.stderr, flush=True)


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VipError(f"{' '.join(command[:3])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def flag(name: str) -> bool:
    """Say whether one of the files that keepalived tracks keeps this host from owning an address."""
    try:
        return (RUN / name).read_text().strip() not in ("", "0")
    except FileNotFoundError:
        return False


def set_flag(name: str, value: bool) -> None:
    RUN.mkdir(exist_ok=True)
    (RUN / name).write_text(f"{int(value)}\n")


# --- This host ------------------------------------------------------------------------------------------


class Link(NamedTuple):
    """The interface: its MAC address and what it carries."""

    mac: str
    addresses: tuple[str, ...]
    address6: str


def parse_link(entry: Mapping[str, Any], virtual: Sequence[str]) -> Link:
    """Read one entry of `ip -json address`. The own IPv6 address is the link-local one, which never moves."""
    found = [item["local"] for item in entry["addr_info"]]
    own6 = [a for a in found if ":" in a and a not in virtual]
    own6.sort(key=lambda a: not ipaddress.ip_address(a).is_link_local)
    return Link(entry["address"], tuple(a for a in virtual if a in found), own6[0] if own6 else "")


class Host:
    """This balancer."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.name: str = config["host"]
        self.engine: str = config["engine"]
        self.interface: str = config["interface"]
        self.own: str = config["own"]
        self.addresses = [str(ipaddress.ip_interface(text).ip) for text in config["addresses"]]
        self.peers: dict[str, str] = {peer["name"]: peer["address"] for peer in config["peers"]}
        self.port: int = config["port"]
        self.service: str = config["service"]
        self.check: list[str] = config["check"]
        self.drain_seconds: float = config["drain_seconds"]
        self.doctor_seconds: float = config["doctor_seconds"]
        self.metrics_file: str = config["metrics_file"]
        self.alarm: list[str] = config["alarm"]
        self.hook: dict[str, Any] = config["hook"]

    def link(self) -> Link:
        return parse_link(json.loads(run("ip", "-json", "address", "show", "dev", self.interface))[0], self.addresses)

    def owned(self) -> list[str]:
        """Return the addresses that this host answers for; the copies on the loopback do not count."""
        if self.engine == "hook":
            return self.addresses if active("webstack-vip-move.service") else []
        return list(self.link().addresses)

    def unfit(self) -> str:
        """Say why no address should come here; empty when one may."""
        if flag("maintenance"):
            return "it is in maintenance"
        if self.engine != "classic":
            # classic has no unit that stops before the host; another engine may have left its flag.
            if flag("leaving"):
                return "it is being stopped"
            if not active("keepalived.service"):
                return "its keepalived does not run"
        if self.check and subprocess.run(self.check, capture_output=True, check=False).returncode != 0:
            return "its web server does not answer"
        return ""

    def connections(self) -> int:
        """Count the TCP connections to the virtual addresses that still live here."""
        command = ["ss", "-Htno"]
        for state in OPEN_STATES:
            command += ["state", state]
        sources = " or ".join(f"src {a if ':' not in a else f'[{a}]'}" for a in self.addresses)
        return living(run(*command, f"( {sources} )"))


def living(sockets: str) -> int:
    """Count the sockets that `ss -o` lists, but not those of clients that left one segment unanswered too often."""
    count = 0
    for line in sockets.splitlines():
        repeats = re.search(r" timer:\(\w+,[^,]*,(\d+)\)", line)
        limit = REPEATS_OF_A_LOST_HANDSHAKE if line.startswith("SYN-RECV") else REPEATS_OF_THE_LOST
        count += repeats is None or int(repeats[1]) < limit
    return count


def active(unit: str) -> bool:
    return subprocess.run(["systemctl", "--quiet", "is-active", unit], check=False).returncode == 0


def heard() -> int | None:
    """Return how many advertisements of peers passed the firewalls of this host; nothing where nobody counts."""
    try:
        listing = json.loads(run("nft", "--json", "list", "counter", "inet", "webstack_vrrp", "heard"))
    except VipError:
        return None
    return next(int(item["counter"]["packets"]) for item in listing["nftables"] if "counter" in item)


# --- Talk between the balancers -------------------------------------------------------------------------


def datagram_socket(address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        made.setsockopt(socket.IPPROTO_IPV6, 73, TTL)  # IPV6_MINHOPCOUNT
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        made.setsockopt(socket.IPPROTO_IP, 21, TTL)  # IP_MINTTL
    made.bind((address, port))
    return made


def ask(host: Host, peer: str, question: Mapping[str, Any]) -> dict[str, Any] | None:
    """Send a peer one question; nothing when it does not answer in time."""
    target = (host.peers[peer], host.port)
    end = time.monotonic() + ANSWER_SECONDS
    with datagram_socket(host.own) as line:
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                line.settimeout(max(0.05, min(0.3, end - time.monotonic())))
                line.sendto(json.dumps(question).encode(), target)
                data, sender = line.recvfrom(8192)
                if sender[0] == target[0]:
                    answer: dict[str, Any] = json.loads(data)
                    return answer
    return None


def state(host: Host) -> dict[str, Any]:
    return {
        "host": host.name,
        "owns": host.owned(),
        "mac": host.link().mac,
        "unfit": host.unfit(),
        "heard": heard(),
    }


# --- Drain: the side that takes over --------------------------------------------------------------------


def ended_seconds() -> int:
    """Return how long conntrack remembers a connection that ended; 0 when that is no sign, or nothing is tracked."""

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
    """Return the nftables rules that send segments of connections unknown here to the peer that drains."""
    if not re.fullmatch(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
        raise VipError(f"{mac!r} is no MAC address")
    text = ""
    moved = [str(ipaddress.ip_address(a)) for a in addresses]
    for family, peer in (("ip", peer4), ("ip6", peer6)):
        mine = [a for a in moved if (":" in a) == (family == "ip6")]
        if not mine or not peer:
            continue
        # A client that was here two minutes ago may use its port again, for a connection that lives at the peer.
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
        # A connection that lives here, also one from before somebody tracked connections.
        socket wildcard 0 accept
        # A handshake that began here before somebody tracked connections looks unknown, too: so it goes both ways.
        ct state invalid goto back
        # Somebody tracked connections before: its first segment, in the middle of a connection, made it a known one.
        ct state new tcp flags & syn == 0 goto only_back
        {again}
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        # The kernel's answer to a segment that it does not know.
        tcp flags & (rst | ack) == rst {family} saddr {{ {", ".join(mine)} }} drop
    }}
}}
"""
    return text


#: Takes the rules away, also those that an agent before this one left: `add` first, since what is not there stays.
NO_RULES = "".join(f"table {family} webstack_drain\ndelete table {family} webstack_drain\n" for family in ("ip", "ip6"))


class Forwarder:
    """Forwards to one peer that drains, or that owns an address too; ends when that peer is done, or silent."""

    #: Without them conntrack takes any segment for a connection, or a late one for a stranger.
    SETTINGS: ClassVar = {"nf_conntrack_tcp_loose": "0", "nf_conntrack_tcp_be_liberal": "1"}

    def __init__(self) -> None:
        self.peer = ""
        self.addresses: set[str] = set()
        self.until = 0.0
        self.saved = RUN / "conntrack.json"
        #: Both who answers the peers and who shares an address with one use it.
        self.lock = threading.RLock()

    def start(self, host: Host, peer: str, request: Mapping[str, Any]) -> None:
        """Begin or go on, for the addresses of the request and those from before."""
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
        run("nft", "--file", "-", text=NO_RULES + rules)
        if not self.saved.exists():
            self.saved.write_text(json.dumps({name: (CONNTRACK / name).read_text().strip() for name in self.SETTINGS}))
        for name, value in self.SETTINGS.items():
            (CONNTRACK / name).write_text(value)

    def take_down(self) -> None:
        run("nft", "--file", "-", text=NO_RULES)
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
    match question.get("ask"):
        case "state":
            return state(host)
        case "drain":
            # Only the first of a planned drain has to be answered by somebody fit: the others keep it alive. In one
            # that nobody planned the address is here already.
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


# --- An address that two own ----------------------------------------------------------------------------


def shareable(host: Host) -> dict[str, Any]:
    """Return the addresses that live here and are to stay, and where this host is."""
    link = host.link()
    leaves = flag("maintenance") or flag("leaving")
    return {"addresses": [] if leaves else list(link.addresses), "mac": link.mac, "address6": link.address6}


def share(host: Host, forwarder: Forwarder) -> None:
    """While a peer owns an address of this host, too, each sends the other what it does not know.

    That is a partition in which only the advertisements are lost, as behind a firewall. Clients follow the last
    announcement, and what they began at one goes on at the other. In time for the second try of a segment, which TCP
    sends after 0.2 s. A peer that is dead or out of reach does not answer.
    """
    try:
        shared = True
        while shared:
            mine = shareable(host)
            shared = False
            for peer in host.peers if mine["addresses"] else ():
                theirs = ask(host, peer, {"ask": "share", **mine})
                # Of several only one: each segment can be sent to one.
                if theirs and theirs["addresses"] and forwarder.peer in ("", peer):
                    forwarder.start(host, peer, theirs)
                    shared = True
            time.sleep(HEARTBEAT)
    except (VipError, OSError, KeyError) as problem:
        say(f"what another owner knows cannot be sent to it: {problem}")


def versions() -> list[int]:
    """Return what changes when the settings or this program change."""
    return [path.stat().st_mtime_ns for path in (CONFIG, pathlib.Path(__file__)) if path.exists()]


def agent(host: Host) -> int:
    forwarder = Forwarder()
    forwarder.stop()
    started_as = versions()
    names = {address: name for name, address in host.peers.items()}
    threading.Thread(target=doctor_loop, args=(host,), daemon=True).start()
    if host.engine == "keepalived":
        threading.Thread(target=keep_loop, args=(host, forwarder), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with datagram_socket(host.own, host.port) as line:
        line.settimeout(HEARTBEAT)
        try:
            while True:
                forwarder.tick()
                if not forwarder.peer and versions() != started_as:
                    return 0  # systemd starts the new one
                try:
                    data, sender = line.recvfrom(8192)
                except TimeoutError:
                    continue
                if sender[0] not in names:
                    continue
                try:
                    answer = serve(host, forwarder, names[sender[0]], json.loads(data))
                except (ValueError, KeyError, TypeError, AttributeError, VipError, OSError) as problem:
                    say(f"a question of {names[sender[0]]} failed: {problem}")
                    answer = {"refused": str(problem)}
                if answer is not None:
                    line.sendto(json.dumps(answer).encode(), sender)
        finally:
            forwarder.stop("may still drain, this agent ends")


# --- Drain: the side that hands over --------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def successors(host: Host) -> list[str]:
    """Return the peers that could own the addresses."""
    reasons, found = [], []
    for name in host.peers:
        answer = ask(host, name, {"ask": "state"})
        if answer is not None and not answer["unfit"]:
            found.append(name)
        reasons.append(f"{name}: {answer['unfit'] if answer else 'no answer'}")
    if not found:
        raise VipError(f"no balancer can take over ({'; '.join(reasons) or 'there is no other'})")
    return found


class Drain:
    """Connections that go on here after the addresses went, because the peers send their segments back."""

    def __init__(self, host: Host, peers: Iterable[str], addresses: Iterable[str], planned: bool) -> None:
        self.host, self.peers = host, list(peers)
        link = host.link()
        self.question = {
            "addresses": list(addresses),
            "mac": link.mac,
            "address6": link.address6,
            "planned": planned,
        }

    def tell(self, word: str) -> list[str]:
        """Tell the peers about it; return why some refuse."""
        answers = {peer: ask(self.host, peer, {"ask": word, **self.question}) for peer in self.peers}
        refused = {peer: answer.get("refused") if answer else "no answer" for peer, answer in answers.items()}
        return [f"{peer}: {reason}" for peer, reason in refused.items() if reason]

    def last(self, seconds: float, close_after: float, wanted: Callable[[], bool] = lambda: True) -> str:
        """Keep it up while connections live and it is wanted, at most `seconds`; end them after `close_after`."""
        started = time.monotonic()
        first = left = self.host.connections()
        closing = False
        while left and wanted() and time.monotonic() < started + seconds:
            if not closing and time.monotonic() > started + close_after:
                # Its old workers end what runs and close what is idle. A signal, since a job would upset the stop of
                # the service that this may be part of.
                run("systemctl", "kill", "--signal=HUP", "--kill-whom=main", self.host.service)
                closing = True
            self.tell("drain")
            time.sleep(HEARTBEAT)
            left = self.host.connections()
        return f"{first} connections at first, {left} left after {time.monotonic() - started:.1f} s"


def hand_over(host: Host, file: str, seconds: float, close_after: float) -> str:
    """Leave by the tracked file; keep connections alive for `seconds`, ask for their end after `close_after`."""
    mine = host.owned()
    if not mine:
        set_flag(file, True)
        return "owned nothing; stays out"
    peers = successors(host)
    keeps = host.engine == "keepalived" and seconds > 0
    drain = Drain(host, peers if keeps else [], mine, planned=True)

    def moved() -> bool:
        drain.tell("drain")
        return not host.owned()

    refusals = drain.tell("drain")
    if refusals:
        raise VipError(f"no hand-over to {'; '.join(refusals)}")
    set_flag(file, True)
    try:
        if not wait_until(moved, MOVE_SECONDS[host.engine]):
            set_flag(file, False)
            raise VipError(f"{', '.join(host.owned())} did not move; this host stays a candidate")
        said = f"; {drain.last(seconds, close_after)}" if keeps else ""
    finally:
        drain.tell("drained")
    return f"handed over {', '.join(mine)}{said}"


def keep(host: Host, newer: threading.Event) -> None:
    """After a loss that nobody planned, as when a partition heals: what runs here goes on, as in a planned move.

    In time for the second try of a segment that the new owner did not know, which TCP sends after 0.2 s: so the peers
    are told first, and whether this host is any good is asked then. A newer loss takes over from this one.
    """
    if flag("maintenance") or flag("leaving"):
        return
    owned = host.owned()
    lost = [address for address in host.addresses if address not in owned]
    if not lost or not host.connections():
        return
    drain = Drain(host, host.peers, lost, planned=False)
    try:
        if len(drain.tell("drain")) == len(drain.peers) or host.unfit():
            return
        say(f"lost {', '.join(lost)}; what runs here goes on")
        seconds = host.drain_seconds
        said = drain.last(seconds, seconds / 2, lambda: not newer.is_set() and not set(lost) & set(host.owned()))
        say(f"since the loss: {said}")
    except VipError as problem:
        say(f"connections are not kept: {problem}")
    finally:
        if not newer.is_set():
            drain.tell("drained")


def keep_loop(host: Host, forwarder: Forwarder) -> None:
    """Hear from the kernel of each address that comes or goes, and keep what runs elsewhere or here."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
        news.bind((0, ADDRESS_NEWS))
        before, newer = set(host.owned()), threading.Event()
        threading.Thread(target=share, args=(host, forwarder), daemon=True).start()
        while True:
            with contextlib.suppress(OSError):  # too many at once are news, too
                news.recv(65536)
            time.sleep(0.005)  # both families, and all addresses
            try:
                now = set(host.owned())
            except VipError as problem:  # the interface is gone
                say(f"cannot tell what this host owns: {problem}")
                continue
            if before - now:
                newer.set()
                newer = threading.Event()
                threading.Thread(target=keep, args=(host, newer), daemon=True).start()
            if now - before:
                threading.Thread(target=share, args=(host, forwarder), daemon=True).start()
            before = now


def switchover(host: Host, seconds: float | None) -> int:
    limit = host.drain_seconds if seconds is None else seconds
    print(hand_over(host, "maintenance", limit, limit / 2))
    return 0


def leave(host: Host) -> int:
    """Before the web server, keepalived or the host stops: its last chance to hand over without a loss."""
    if not active("keepalived.service"):
        # It died and nobody asked for a stop: whatever happens to the addresses has happened.
        return 0
    try:
        say(hand_over(host, "leaving", host.drain_seconds, 0))
    except VipError as problem:
        # A stop is not to be stopped.
        say(f"leaves without a hand-over: {problem}")
    return 0


# --- Doctor ---------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What one look saw."""

    mac: str
    owned: Sequence[str]
    answers: Mapping[str, set[str]]
    peers: Mapping[str, Mapping[str, Any] | None]
    heard_more: Mapping[str, bool]


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: str
    text: str


KINDS = ("both", "none", "stranger", "peer_silent", "peer_deaf", "peer_unfit")


def judge(view: View, addresses: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the addresses and the peers."""
    found = []
    macs = {answer["mac"]: name for name, answer in view.peers.items() if answer}
    for address in addresses:
        others = {name for name, answer in view.peers.items() if answer and address in answer["owns"]}
        seen = view.answers.get(address, set()) - {view.mac}
        others |= {macs[mac] for mac in seen if mac in macs}
        strangers = sorted(seen - macs.keys())
        # While a peer is silent, a MAC that is not known may be its own.
        unknown_peer = any(answer is None for answer in view.peers.values())
        owners = sorted(others) + (["this host"] if address in view.owned else [])
        if unknown_peer and strangers:
            owners.append(f"the host at {strangers.pop(0)}")
        if strangers:
            found.append(Finding("stranger", f"{address}: {', '.join(strangers)} answers for it, which is no balancer"))
        if len(owners) > 1:
            found.append(Finding("both", f"{address}: owned by {' and '.join(owners)}"))
        elif not owners:
            found.append(Finding("none", f"{address}: no host owns it"))
    for name, answer in sorted(view.peers.items()):
        if answer is None:
            found.append(Finding("peer_silent", f"{name}: does not answer"))
        elif answer["unfit"]:
            found.append(Finding("peer_unfit", f"{name}: could not take over: {answer['unfit']}"))
        elif view.owned and not view.heard_more.get(name, True):
            found.append(Finding("peer_deaf", f"{name}: does not hear the advertisements of this host"))
    return found


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
    """Return address and MAC of who sent an ARP frame."""
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
    """Return address and MAC that a neighbour advertisement tells."""
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


def look(host: Host) -> View:
    peers = {name: ask(host, name, {"ask": "state"}) for name in host.peers}
    link = host.link()
    # The time that the answers take is the time in which a peer should hear several advertisements.
    answers = {} if host.engine == "hook" else who_answers(host, link)
    again = {name: ask(host, name, {"ask": "state"}) for name, answer in peers.items() if answer}
    heard_more = {
        name: answer["heard"] is None or answer["heard"] != (peers[name] or {}).get("heard")
        for name, answer in again.items()
        if answer
    }
    return View(link.mac, host.owned(), answers, {**peers, **again}, heard_more)


def findings(host: Host) -> tuple[View, list[Finding]]:
    """Look; look again where something is wrong, since an address on its way is no finding."""
    view = look(host)
    found = judge(view, host.addresses)
    if found:
        time.sleep(0.5)
        view = look(host)
        kinds = {(f.kind, f.text) for f in found}
        found = [f for f in judge(view, host.addresses) if (f.kind, f.text) in kinds]
    return view, found


def metrics(host: Host, view: View, found: Sequence[Finding]) -> str:
    kinds = {finding.kind for finding in found}
    lines = ["# HELP webstack_vip_owner Whether this balancer owns the address.", "# TYPE webstack_vip_owner gauge"]
    lines += [f'webstack_vip_owner{{address="{a}"}} {int(a in view.owned)}' for a in host.addresses]
    lines += ["# HELP webstack_vip_finding What the doctor finds wrong.", "# TYPE webstack_vip_finding gauge"]
    lines += [f'webstack_vip_finding{{kind="{kind}"}} {int(kind in kinds)}' for kind in KINDS]
    lines += [
        "# HELP webstack_vip_maintenance Whether this balancer stays out.",
        "# TYPE webstack_vip_maintenance gauge",
    ]
    lines += [f"webstack_vip_maintenance {int(flag('maintenance'))}"]
    return "\n".join(lines) + "\n"


def alarm(host: Host, kind: str, text: str) -> None:
    """Run the operator's command; it is told by its environment."""
    if not host.alarm:
        return
    environment = {**os.environ, "HOST": host.name, "FINDING": kind, "TEXT": text}
    try:
        subprocess.run(host.alarm, env=environment, stdin=subprocess.DEVNULL, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        say(f"the alarm command failed: {problem}")


def compare(before: Sequence[Finding], now: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return what is new and what is over."""
    return [f for f in now if f not in before], [f for f in before if f not in now]


def doctor_loop(host: Host) -> None:
    known: list[Finding] = []
    while True:
        try:
            view, found = findings(host)
            new, over = compare(known, found)
            for finding in new:
                say(f"found: {finding.text}")
                alarm(host, finding.kind, finding.text)
            for finding in over:
                say(f"over: {finding.text}")
                alarm(host, "over", finding.text)
            if any(finding.kind in ("both", "stranger", "peer_silent") for finding in over):
                heal(host)
            known = found
            write_metrics(pathlib.Path(host.metrics_file), metrics(host, view, found))
        except (VipError, OSError) as problem:
            say(f"could not look: {problem}")
        time.sleep(host.doctor_seconds)


def write_metrics(path: pathlib.Path, text: str) -> None:
    """Replace the file. The new one has a name that nobody can guess: the directory may belong to another account."""
    handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        os.fchmod(handle, 0o644)
        file.write(text)
    os.replace(fresh, path)


def heal(host: Host) -> None:
    """After two owned an address: what others learned may be wrong."""
    if not host.owned():
        return
    if host.engine == "hook":
        run("systemctl", "restart", "--no-block", "webstack-vip-move.service")
    else:
        announce(host)
        say("announced the addresses once more")


def status(host: Host, as_json: bool, only_findings: bool = False) -> int:
    view, found = findings(host)
    if as_json:
        document = {
            "host": host.name,
            "engine": host.engine,
            "owns": list(view.owned),
            "unfit": host.unfit(),
            "maintenance": flag("maintenance"),
            "connections": host.connections(),
            "peers": view.peers,
            "findings": [finding._asdict() for finding in found],
        }
        print(json.dumps(document, indent=2))
        return int(bool(found))
    if not only_findings:
        for address in host.addresses:
            owners = [n for n, answer in view.peers.items() if answer and address in answer["owns"]]
            owners += [host.name] if address in view.owned else []
            print(f"{address:<24} {' and '.join(owners) or 'nobody'}")
        print(f"{host.name:<24} {host.unfit() or 'could own an address'}")
        for name, answer in view.peers.items():
            print(f"{name:<24} {'does not answer' if answer is None else answer['unfit'] or 'could own an address'}")
    for finding in found:
        print(f"{finding.kind}: {finding.text}")
    if not found:
        print("the doctor finds nothing wrong")
    return int(bool(found))


# --- Hook engine ----------------------------------------------------------------------------------------


def delays(first: float = 0.5, most: float = 30) -> Iterable[float]:
    """Yield the pauses between tries: they double up to a limit."""
    pause = first
    while True:
        yield pause
        pause = min(most, pause * 2)


def try_hook(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """Run the command once; return why it failed. It and its children end with the time limit."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = (said.strip().splitlines() or [""])[-1]
    return "" if process.returncode == 0 else f"exit code {process.returncode}: {last}"


def move(host: Host) -> int:
    """While this host is master: run the command for each address until it succeeds, and again now and then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    path = RUN / "hook.json"
    reason = "master"
    while True:
        done: dict[str, Any] = {}
        for address in host.addresses:
            environment = {
                **os.environ,
                "ADDRESS": address,
                "HOST": host.name,
                "HOST_ADDRESS": host.own,
                "STATE": reason,
            }
            for tries, pause in enumerate(delays(), 1):
                error = try_hook(host.hook["command"], {**environment, "TRY": str(tries)}, host.hook["timeout_seconds"])
                done[address] = {"moved": not error, "tries": tries, "error": error, "at": int(time.time())}
                path.write_text(json.dumps(done))
                if not error:
                    break
                say(f"{address}: try {tries} failed ({error}); again in {pause:g} s")
                time.sleep(pause)
            if reason == "master" or tries > 1:
                say(f"{address}: moved here, try {tries}")
        reason = "refresh"
        time.sleep(host.hook["refresh_seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="who owns what").add_argument("--json", action="store_true")
    commands.add_parser("doctor", help="what is wrong")
    sub = commands.add_parser("switchover", help="hand the addresses over and stay out")
    sub.add_argument("--seconds", type=float, help="how long running connections may go on; 0 cuts them")
    commands.add_parser("rejoin", help="be a candidate again")
    for name in ("agent", "leave", "arrive", "move"):
        commands.add_parser(name, help="for units")
    options = parser.parse_args()
    os.umask(0o022)  # whoever calls: the metrics are for others to read
    try:
        host = Host(json.loads(CONFIG.read_text()))
        match options.command:
            case "status":
                return status(host, options.json)
            case "doctor":
                return status(host, as_json=False, only_findings=True)
            case "switchover":
                return switchover(host, options.seconds)
            case "rejoin":
                set_flag("maintenance", False)
            case "arrive":
                set_flag("leaving", False)
            case "agent":
                return agent(host)
            case "leave":
                return leave(host)
            case "move":
                return move(host)
    except (VipError, OSError) as problem:
        say(str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
