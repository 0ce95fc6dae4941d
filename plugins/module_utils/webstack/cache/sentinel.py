# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the file that Sentinel starts with: the role's settings together with what Sentinel has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.files import read
from ..core.resp import Denied, Refusal, Unreachable, ask
from ..core.wait import turned
from .site import RUN, Program, Site, fingerprint, live_files
from .view import View, listed, same

LEARNED = ("config-epoch", "leader-epoch", "known-replica", "known-sentinel")


def learned_master(program: Program, name: str) -> dict[str, Any] | None:
    """Return the master in the file of this host's sentinel, as it was when the sentinel last wrote it."""
    return learned(program.read(program.sentinel_file) or "").get(name, {}).get("master")


def sentinel_lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0].lower() == "sentinel":
            yield ["sentinel", *words[1:]]


def learned(text: str) -> dict[str, dict[str, Any]]:
    """Return what Sentinel wrote about each shard: master, epochs, replicas and other sentinels."""
    found: dict[str, dict[str, Any]] = {}
    for words in sentinel_lines(text):
        shard = found.setdefault(words[2], {"lines": []})
        if words[1] == "monitor" and len(words) >= 5:
            shard["master"] = {"address": words[3], "port": int(words[4])}
        elif len(words) > (4 if words[1].startswith("known-") else 3) and words[1] in LEARNED:
            shard["lines"].append(words)
            if words[1] == "config-epoch":
                shard["epoch"] = int(words[3])
    return found


def replicas_of(memory: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"address": words[3], "port": words[4]} for words in memory.get("lines", []) if words[1] == "known-replica"]


def merge(static: str, dynamic: str, site: Site, views: dict[str, tuple[dict[str, Any], int]]) -> str:
    """Join the role's static file with what Sentinel learned. Leave out what the role no longer lists.

    `views` holds for each shard the master and the epoch that the other sentinels name. So a sentinel that is new, or
    was away during a fail-over, starts with their knowledge.
    """
    known = learned(dynamic)
    lines: list[str] = []
    masters: dict[str, dict[str, Any]] = {}
    for line in static.splitlines():
        words = line.split()
        if words[:2] != ["sentinel", "monitor"]:
            lines.append(line)
            continue
        name, quorum = words[2], words[5]
        nodes = site.shards[name]["nodes"]
        memory = known.get(name, {})
        master, epoch = memory.get("master"), memory.get("epoch", 0)
        if name in views and (master is None or views[name][1] > epoch):
            master, epoch = views[name]
        if master is None or not (listed(nodes, master) or any(listed(nodes, item) for item in replicas_of(memory))):
            # A master that the role no longer lists stays until a listed replica has taken over from it. Here there
            # is none, so start with the first listed server.
            master = nodes[0]
        masters[name] = master
        lines.append(f"sentinel monitor {name} {master['address']} {master['port']} {quorum}")
        if epoch:
            lines.append(f"sentinel config-epoch {name} {epoch}")
    for name, master in masters.items():
        memory = known.get(name, {"lines": []})
        replicas = replicas_of(memory) + ([memory["master"]] if "master" in memory else [])
        for words in memory["lines"]:
            if words[1] == "leader-epoch" or (
                words[1] == "known-sentinel" and listed(site.sentinels, {"address": words[3], "port": words[4]})
            ):
                lines.append(" ".join(words))
        # An old file may list the master among the replicas. Sentinel would make it a replica of itself.
        for node in site.shards[name]["nodes"]:
            if not same(node, master) and listed(replicas, node):
                lines.append(f"sentinel known-replica {name} {node['address']} {node['port']}")
    # Keep Sentinel's identity and its last vote. With a new identity the others would count it twice.
    lines += [
        line for line in dynamic.splitlines() if line.lower().startswith(("sentinel myid ", "sentinel current-epoch "))
    ]
    return "\n".join(lines) + "\n"


def prepare_sentinel(site: Site) -> None:
    program = site.program
    dynamic = program.read(program.sentinel_file) or ""
    views = {}
    for name in site.shards:
        view = View(site, name)
        if view.master is not None:
            views[name] = (view.master, view.epoch)
    program.write(program.sentinel_file, merge(read(program.sentinel_static) or "", dynamic, site, views), 0o640)
    program.write(RUN / "sentinel/started-with", fingerprint(*program.sentinel_files()))
    program.write(RUN / "sentinel/loaded", fingerprint(*live_files(program, sentinel=True)))


def tune(site: Site) -> None:
    """Let Sentinel look more often than once a second. Only a command can set this, no file."""
    assert site.sentinel is not None
    words = [word for name, value in site.timing.items() for word in (f"{name}-period", str(value))]
    sentinel = site.sentinel

    def done() -> bool:
        try:
            ask(sentinel, site.access, "SENTINEL", "DEBUG", *words)
        except Refusal as refusal:
            print(f"Sentinel keeps its own timing: {refusal}")
        except (Unreachable, Denied):
            return False
        return True

    if words and not turned(done, 5):
        print("Sentinel keeps its own timing: it does not answer")


def remembers_others(site: Site) -> bool:
    """Say whether this host's sentinel watches shards or servers that the role does not list."""
    known = learned(site.program.read(site.program.sentinel_file) or "")
    return known.keys() != site.shards.keys() or any(
        not listed(site.shards[name]["nodes"], node) for name, memory in known.items() for node in replicas_of(memory)
    )


def inspect_sentinel(site: Site) -> bool:
    assert site.sentinel is not None
    try:
        for name in site.shards:
            ask(site.sentinel, site.access, "SENTINEL", "CKQUORUM", name)
    except (Unreachable, Refusal, Denied):
        return False
    return True
