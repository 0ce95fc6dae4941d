# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decides before a server starts whether it is master or replica, and looks after it when it has started."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from ..core.errors import Problem
from ..core.resp import Denied, Refusal, Unreachable, ask
from .sentinel import learned_master
from .site import SITE, Site, fingerprint, live_files
from .view import View, has_data, role_of, same, serves

PATIENCE = 12.0


def decide(site: Site, name: str, known: bool) -> dict[str, Any] | None:
    """Return the server to follow, or None if this one shall be master.

    `known` says that a sentinel has known the shard before, so it is worth waiting for one now.
    """
    own = site.own(name)
    if own is None:
        raise Problem(f"{site.me} is not a node of shard {name} in {SITE}")
    view = View(site, name)
    if known and site.sentinels:
        # If all hosts start at once, the sentinels are still starting too. A single one may have missed a fail-over.
        deadline = time.monotonic() + PATIENCE
        majority = len(site.sentinels) // 2 + 1
        while view.answers < majority and view.denied == 0 and time.monotonic() < deadline:
            time.sleep(0.3)
            view = View(site, name)
    if view.master is not None:
        if not view.is_master(own):
            return view.master
        if site.persistent or not any(has_data(peer, name, site.access) for peer in site.peers(name)):
            return None
        # This server would come back as an empty master, and its replica would delete its data. So the replica takes
        # over at once and this server follows it.
        deadline = time.monotonic() + PATIENCE
        while view.is_master(own) and view.witness is not None and time.monotonic() < deadline:
            try:
                ask(view.witness, site.access, "SENTINEL", "FAILOVER", name)
            except Refusal as refusal:
                if "NOGOODSLAVE" in str(refusal):
                    return None
            except (Unreachable, Denied):
                pass
            time.sleep(0.2)
            view = View(site, name)
        return None if view.master is None or view.is_master(own) else view.master
    for peer in site.peers(name):
        try:
            if not serves(peer, name, site.access):
                continue
            state = role_of(peer, site.access)
        except (Unreachable, Denied, Refusal):
            continue
        if state["role"] == "master":
            return peer
        return None if same(state["master"], own) else state["master"]
    written = learned_master(site.program, name)
    if written is not None:
        return None if same(written, own) else written
    first = site.shards[name]["nodes"][0]
    return None if same(first, own) else first


def guard(site: Site, name: str) -> None:
    if site.overcommit and not pathlib.Path("/run/systemd/container").exists():
        try:
            pathlib.Path("/proc/sys/vm/overcommit_memory").write_text("1\n")
        except OSError as error:
            print(f"vm.overcommit_memory stays as it is: {error}")
    program, runtime = site.program, site.program.runtime(name)
    marker = program.state / name / "known"
    known = program.read(marker) is not None
    # The servers of a Redis Cluster agree among themselves which of them leads.
    leader = decide(site, name, known) if site.engine != "redis_cluster" else None
    line = f"replicaof {leader['address']} {leader['port']}" if leader else "# master: no replicaof"
    print(f"{name} starts as {'replica of {address} {port}'.format(**leader) if leader else 'master'}")
    program.write(runtime / "role.conf", line + "\n")
    program.write(runtime / "started-with", fingerprint(*program.instance_files(name)))
    program.write(runtime / "loaded", fingerprint(*live_files(program)))
    if site.sentinels and not known and View(site, name).master is not None:
        program.write(marker, "")


def follow(site: Site, name: str) -> None:
    """Wait until a replica that has just started is linked to a master. Ask again whom to follow until it is.

    If all hosts start at once, two servers may hear different sentinels and follow each other. Sentinel does not
    repair that, for it promotes no replica whose link has been down for long.
    """
    node = site.own(name)
    if node is None or site.program.read(site.program.state / name / "known") is None:
        return
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            state = role_of(node, site.access)
            if state["role"] == "master" or state["link"] == "connected":
                return
            if state["link"] in ("connect", "connecting"):
                view = View(site, name)
                if view.is_master(node):
                    print(f"{name}: the sentinels name this host as master, and nobody else is")
                    ask(node, site.access, "REPLICAOF", "NO", "ONE")
                elif view.master is not None and not same(view.master, state["master"]):
                    print(f"{name}: the sentinels name {view.master['address']}:{view.master['port']} now")
                    ask(node, site.access, "REPLICAOF", view.master["address"], str(view.master["port"]))
        except (Unreachable, Denied, Refusal):
            pass
        time.sleep(0.5)
    print(f"{name}: still no link to a master")
