# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares what this host runs with what it should run, and says what is wrong."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

from ..core.errors import DEGRADED, GOOD
from ..core.resp import Denied, Refusal, Unreachable, ask
from ..core.summary import Finding, Summary, document
from .cluster import inspect_cluster
from .site import PROGRAMS, RUN, Program, Site, fingerprint, live_files
from .units import active, enabled
from .view import View, role_of


def strangers(site: Site) -> list[str]:
    """Return the units that the role once made here and no longer lists for this host."""
    found = []
    for program in PROGRAMS.values():
        current = program is site.program
        found += [program.unit(name) for name in program.placed() if not (current and name in site.mine)]
        # The packages of redis and valkey enable their sentinels under an alias that both use.
        ours = program.sentinel_static.exists() or (not current and enabled(program.sentinel_unit))
        if ours and not (current and site.sentinel):
            found.append(program.sentinel_unit)
    return found


def stale(program: Program, path: pathlib.Path, files: list[pathlib.Path]) -> bool:
    return program.read(path) != fingerprint(*files)


def todo(site: Site) -> dict[str, list[str]]:
    work: dict[str, list[str]] = {"reload": [], "start": [], "restart": [], "retire": strangers(site)}
    program = site.program
    places = [(program.unit(name), program.runtime(name), program.instance_files(name), False) for name in site.mine]
    if site.sentinel:
        places.append((program.sentinel_unit, RUN / "sentinel", program.sentinel_files(), True))
    for unit, runtime, files, sentinel in places:
        if not active(unit):
            work["start"].append(unit)
            continue
        if stale(program, runtime / "loaded", live_files(program, sentinel)):
            work["reload"].append(unit)
        if stale(program, runtime / "started-with", files):
            work["restart"].append(unit)
    return work


def inspect(site: Site) -> tuple[dict[str, Any], list[str]]:
    """Return the roles of this host's servers, and what is wrong with them."""
    roles: dict[str, Any] = {}
    problems: list[str] = []
    for name in site.mine:
        node = site.own(name)
        assert node is not None
        where = f"shard {name} on {site.me}"
        try:
            state = role_of(node, site.access)
        except Denied as error:
            problems.append(f"{where}: the password is not accepted ({error})")
            continue
        except (Unreachable, Refusal) as error:
            problems.append(f"{where}: no answer at {node['address']}:{node['port']} ({error})")
            continue
        roles[name] = state["role"]
        view = View(site, name)
        if state["role"] == "slave" and state["link"] != "connected":
            leader = "{address}:{port}".format(**state["master"])
            problems.append(f"{where}: no link to its master {leader} ({state['link']})")
        if view.master is not None and view.is_master(node) != (state["role"] == "master"):
            leader = "{address}:{port}".format(**view.master)
            problems.append(f"{where}: it is {state['role']} while the sentinels name {leader} as master")
        if site.sentinels and view.master is None and not view.denied:
            problems.append(f"{where}: no sentinel knows it")
    if site.sentinel:
        for name in site.shards:
            try:
                ask(site.sentinel, site.access, "SENTINEL", "CKQUORUM", name)
            except Denied as error:
                problems.append(f"sentinel on {site.me}: the password is not accepted ({error})")
                break
            except (Unreachable, Refusal) as error:
                problems.append(f"sentinel on {site.me}, shard {name}: {error}")
    return roles, problems


def look(site: Site) -> tuple[dict[str, list[str]], dict[str, Any], list[str]]:
    """Return what is to be done, the roles, and what is wrong."""
    return todo(site), *(inspect_cluster(site) if site.engine == "redis_cluster" else inspect(site))


def settled(site: Site) -> int:
    """Say by the exit code whether anything is left to do."""
    work, roles, problems = look(site)
    show(site, work, roles, problems)
    return DEGRADED if problems or any(work.values()) else GOOD


def status(site: Site) -> int:
    deadline = time.monotonic() + 20
    while True:
        work, roles, problems = look(site)
        # Work is left to `settle`, so do not wait. If there is none, what is wrong may still get well by itself.
        if any(work.values()) or not problems or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    show(site, work, roles, problems)
    return GOOD


def show(site: Site, work: dict[str, list[str]], roles: dict[str, Any], problems: list[str]) -> None:
    wrong = Summary("", [Finding("server", problem) for problem in problems])
    print(json.dumps(document({"cache": wrong}, node=site.me, roles=roles, todo=work), sort_keys=True))
