# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hand the addresses over to another balancer, and let the connections that run here go on until they end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable

from ..core import systemd
from ..core.errors import Problem
from ..core.say import say
from ..core.systemd import is_active
from ..core.wait import turned
from .forward import Forwarder, share
from .host import ADDRESS_NEWS, SECONDS, Host, flag, set_flag
from .peers import HEARTBEAT, ask, ask_state

#: How long an engine may need to move an address. The classic script looks only once in its interval.
MOVE_SECONDS = {"keepalived": 5, "hook": 60, "classic": 130}


def successors(host: Host) -> list[str]:
    """Return the peers that could own the addresses."""
    reasons, found = [], []
    for name in host.peers:
        answer = ask_state(host, name)
        if answer is not None and not answer["unfit"]:
            found.append(name)
        reasons.append(f"{name}: {answer['unfit'] if answer else 'no answer'}")
    if not found:
        raise Problem(f"no balancer can take over ({'; '.join(reasons) or 'there is no other'})")
    return found


class Drain:
    """A time after a move in which connections go on here, because the peers forward their segments to this host."""

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
        """Send all peers the same word; return who refuses it and why."""
        answers = {peer: ask(self.host, peer, {"ask": word, **self.question}) for peer in self.peers}
        refused = {peer: answer.get("refused") if answer else "no answer" for peer, answer in answers.items()}
        return [f"{peer}: {reason}" for peer, reason in refused.items() if reason]

    def last(self, seconds: float, close_after: float, wanted: Callable[[], bool] = lambda: True) -> str:
        """Wait until no connection is left, at most `seconds`, or until it is no longer wanted.

        After `close_after` seconds the web server is asked to end what is idle.
        """
        started = time.monotonic()
        first = left = self.host.connections()
        closing = False
        while left and wanted() and time.monotonic() < started + seconds:
            if not closing and time.monotonic() > started + close_after:
                # It reloads: its old workers finish what runs and close what is idle. This is a signal and no systemd
                # job, because we may run inside a stop of that same service.
                systemd.tell("kill", "--signal=HUP", "--kill-whom=main", self.host.service, seconds=SECONDS)
                closing = True
            self.tell("drain")
            time.sleep(HEARTBEAT)
            left = self.host.connections()
        return f"{first} connections at first, {left} left after {time.monotonic() - started:.1f} s"


def hand_over(host: Host, file: str, seconds: float, close_after: float) -> str:
    """Ask the peers, raise the flag that makes the engine give the addresses up, and wait for the connections to end.

    They may go on for `seconds`; after `close_after` idle ones are closed. `file` is the flag's name.
    """
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
        raise Problem(f"no hand-over to {'; '.join(refusals)}")
    set_flag(file, True)
    try:
        if not turned(moved, MOVE_SECONDS[host.engine], every=0.02):
            set_flag(file, False)
            raise Problem(f"{', '.join(host.owned())} did not move; this host stays a candidate")
        said = f"; {drain.last(seconds, close_after)}" if keeps else ""
    finally:
        drain.tell("drained")
    return f"handed over {', '.join(mine)}{said}"


def keep(host: Host, newer: threading.Event) -> None:
    """This host has lost an address without a plan, for example when a partition healed: keep its connections alive.

    The new owner has to forward before TCP repeats the first lost segment, after 0.2 s. So tell the peers first, and
    check only then whether the web server here is well. `newer` is set when this host loses another address: that loss
    then goes on for both.
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
    except Problem as problem:
        say(f"connections are not kept: {problem}")
    finally:
        if not newer.is_set():
            drain.tell("drained")


def keep_loop(host: Host, forwarder: Forwarder) -> None:
    """Wait for the kernel to tell that an address came or went: then `share` or `keep` connections."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
        news.bind((0, ADDRESS_NEWS))
        before, newer = set(host.owned()), threading.Event()
        threading.Thread(target=share, args=(host, forwarder), daemon=True).start()
        while True:
            with contextlib.suppress(OSError):  # when messages were lost, something has changed, too
                news.recv(65536)
            time.sleep(0.005)  # the addresses of both families come within a moment
            try:
                now = set(host.owned())
            except Problem as problem:  # the interface is gone
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
    """Hand over before the web server, keepalived or the host stops."""
    if not is_active("keepalived.service"):
        # keepalived has died. The addresses have moved already, or nothing here can move them.
        return 0
    try:
        say(hand_over(host, "leaving", host.drain_seconds, 0))
    except Problem as problem:
        # Say so, and let the stop go on.
        say(f"leaves without a hand-over: {problem}")
    return 0
