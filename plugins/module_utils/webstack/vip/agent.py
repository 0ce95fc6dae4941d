# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service on each balancer: it answers the other balancers, and lets the doctor look at regular times."""

from __future__ import annotations

import json
import signal
import sys
import threading

from ..core.agent import Version
from ..core.errors import Problem
from ..core.say import say
from .doctor import doctor_loop
from .forward import Forwarder, serve
from .handover import keep_loop
from .hook import follow_loop
from .host import CONFIG, Host
from .peers import FORMAT, HEARTBEAT, datagram_socket


def agent(host: Host) -> int:
    """Answer until program or settings change. Then end: systemd starts the new one."""
    forwarder = Forwarder()
    forwarder.stop()
    version = Version(CONFIG)
    names = {address: name for name, address in host.peers.items()}
    threading.Thread(target=doctor_loop, args=(host,), daemon=True).start()
    if host.engine == "keepalived":
        threading.Thread(target=keep_loop, args=(host, forwarder), daemon=True).start()
    if host.engine == "hook":
        threading.Thread(target=follow_loop, args=(host,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with datagram_socket(host.own, host.port) as line:
        line.settimeout(HEARTBEAT)
        try:
            while True:
                forwarder.tick()
                if not forwarder.peer and version.changed():
                    return 0  # systemd starts the new one
                try:
                    data, sender = line.recvfrom(8192)
                except TimeoutError:
                    continue
                if sender[0] not in names:
                    continue
                try:
                    answer = serve(host, forwarder, names[sender[0]], json.loads(data))
                except (ValueError, KeyError, TypeError, AttributeError, Problem, OSError) as problem:
                    say(f"a question of {names[sender[0]]} failed: {problem}")
                    answer = {"refused": str(problem)}
                if answer is not None:
                    line.sendto(json.dumps({"format": FORMAT, **answer}).encode(), sender)
        finally:
            forwarder.stop("may still need forwarding, but this agent ends")
