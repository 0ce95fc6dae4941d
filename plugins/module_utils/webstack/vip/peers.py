# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Questions between the balancers, one datagram each."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from ..core.say import say
from ..core.summary import newer
from .host import Host, heard

#: Only a datagram from the same network arrives with this much: each router on the way takes one off.
TTL = 255
HEARTBEAT = 0.2
ANSWER_SECONDS = 1.0
#: The format of questions and answers. During an upgrade balancers of two versions talk to each other.
FORMAT = 1


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
    """Send a peer one question; None when it does not answer in time. An answer in a newer format is a refusal."""
    target = (host.peers[peer], host.port)
    end = time.monotonic() + ANSWER_SECONDS
    with datagram_socket(host.own) as line:
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                line.settimeout(max(0.05, min(0.3, end - time.monotonic())))
                line.sendto(json.dumps({"format": FORMAT, **question}).encode(), target)
                data, sender = line.recvfrom(8192)
                if sender[0] == target[0]:
                    answer: dict[str, Any] = json.loads(data)
                    if problem := newer(answer, FORMAT):
                        say(f"{peer} {problem}")
                        return {"refused": problem}
                    return answer
    return None


def ask_state(host: Host, peer: str) -> dict[str, Any] | None:
    """Return what a peer says of itself; None when it does not answer. One that cannot tell is not fit to take over."""
    answer = ask(host, peer, {"ask": "state"})
    if answer is not None and "unfit" not in answer:
        return {"host": peer, "owns": [], "mac": "", "heard": None, "unfit": str(answer.get("refused") or answer)}
    return answer


def state(host: Host) -> dict[str, Any]:
    return {
        "host": host.name,
        "owns": host.owned(),
        "mac": host.link().mac,
        "unfit": host.unfit(),
        "heard": heard(),
    }
