# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts, restarts, hands over and retires servers, without losing data where that is possible."""

from __future__ import annotations

import json
import shutil
from typing import Any

from ..core.config import load
from ..core.errors import Problem
from ..core.files import read, write
from ..core.resp import Denied, Refusal, Unreachable, ask, session
from ..core.summary import document
from ..core.wait import turned
from .sentinel import inspect_sentinel, remembers_others
from .site import PROGRAMS, RUN, SITE, UNITS, Site, fingerprint, live_files
from .status import strangers, todo
from .units import active, systemctl
from .view import View, listed, role_of


def failover(site: Site, name: str) -> None:
    node = site.own(name)
    if node is None:
        raise Problem(f"{site.me} is not a node of shard {name}")
    if role_of(node, site.access)["role"] != "master":
        print(f"{name}: {site.me} is not the master, nothing to hand over")
        return
    hand_over(site, name, node)


def hand_over(site: Site, name: str, node: dict[str, Any]) -> None:
    """Hand the shard over while master and replica live, without losing a write.

    After a fail-over by Sentinel alone the old master still takes writes for some ten seconds, and they are lost. So
    we make writes wait, let the replica catch up, have it promoted, and make this server its replica at once.
    """
    view = View(site, name)
    witness = view.witness
    if witness is None:
        raise Problem(f"shard {name}: no sentinel answers, nobody can take over")
    if not role_of(node, site.access).get("replicas"):
        # Without this check writes would wait for seconds in vain.
        raise Problem(f"shard {name}: no replica follows {site.me}, nobody can take over")

    def caught_up() -> bool:
        _role, offset, replicas = ask(node, site.access, "ROLE")
        return any(int(replica[2]) >= offset for replica in replicas)

    def asked() -> bool:
        try:
            ask(witness, site.access, "SENTINEL", "FAILOVER", name)
        except Refusal as refusal:
            # Sentinel may not have seen a new replica yet; then try again. INPROG: another command has asked already.
            return "INPROG" in str(refusal)
        except Unreachable:
            return False
        return True

    def promoted() -> bool:
        nonlocal view
        view = View(site, name)
        return view.master is not None and not view.is_master(node)

    ask(node, site.access, "CLIENT", "PAUSE", "8000", "WRITE")
    try:
        turned(caught_up, 1, 0.02)
        if not turned(asked, 6, 0.3) or not turned(promoted, 6, 0.05):
            raise Problem(f"shard {name}: the sentinels did not move the master away from {site.me}")
        assert view.master is not None
        ask(node, site.access, "REPLICAOF", view.master["address"], str(view.master["port"]))
        # Clients that were waiting ask the sentinels again and write to the new master.
        ask(node, site.access, "CLIENT", "KILL", "TYPE", "normal")
    finally:
        ask(node, site.access, "CLIENT", "UNPAUSE")
    print(f"{name}: handed over")


def in_step(site: Site, node: dict[str, Any]) -> bool:
    try:
        state = role_of(node, site.access)
    except (Unreachable, Denied, Refusal):
        return False
    return bool(state["role"] == "master" or state["link"] == "connected")


def restart(site: Site, name: str) -> None:
    node = site.own(name)
    assert node is not None
    try:
        state = role_of(node, site.access)
        if state["role"] == "master" and state["replicas"] and site.sentinels:
            failover(site, name)
    except (Denied, Unreachable):
        # With another password, or TLS where there was none, no server can follow another until all have changed.
        systemctl("restart", site.program.unit(name))
        return
    except Refusal:
        pass
    systemctl("restart", site.program.unit(name))
    if site.engine != "redis_cluster" and not turned(lambda: in_step(site, node), 30):
        raise Problem(f"shard {name} on {site.me} is not back in step with its master 30 s after its restart")


def retire(site: Site, unit: str) -> None:
    """Remove a server whose shard has moved to other hosts. A master hands over to a listed server first."""
    program = next(item for item in PROGRAMS.values() if unit.startswith(f"{item.name}-"))
    if unit == program.sentinel_unit:
        systemctl("disable", "--now", unit)
        if not program.sentinel_static.exists():
            return  # the unit of the package, which we did not set up
        program.sentinel_static.unlink(missing_ok=True)
        program.remove(program.sentinel_file)
        shutil.rmtree(UNITS / f"{unit}.d", ignore_errors=True)
        systemctl("daemon-reload")
        return
    name = unit.removeprefix(program.unit("").removesuffix(".service")).removesuffix(".service")
    file = program.file(name)
    if name in site.shards and program is site.program and site.sentinels and active(unit):
        settings = dict(line.split(maxsplit=1) for line in (read(file) or "").splitlines() if " " in line)
        here = {"address": settings["bind"].split()[0], "port": int(settings.get("tls-port", settings["port"]))}
        nodes = site.shards[name]["nodes"]

        def heir() -> bool:
            return any(listed(nodes, replica) for replica in role_of(here, site.access)["replicas"])

        try:
            if role_of(here, site.access)["role"] == "master" and View(site, name).is_master(here):
                if not turned(heir, 30):
                    raise Problem(f"shard {name}: {site.me} left its list as the master, and no listed node follows it")
                hand_over(site, name, here)
        except (Unreachable, Denied) as error:
            print(f"{name}: nothing to hand over, {error}")
    systemctl("stop", unit)
    file.unlink(missing_ok=True)
    shutil.rmtree(UNITS / f"{unit}.d", ignore_errors=True)
    program.remove(program.state / name)
    systemctl("daemon-reload")


def account_commands(text: str) -> list[list[str]]:
    """Turn the lines of an ACL file into commands. They keep clients logged in, which ACL LOAD does not."""
    return [
        ["ACL", "SETUSER", words[1], "reset", *words[2:]]
        for words in (line.split() for line in text.splitlines())
        if words[:1] == ["user"]
    ]


def reload(site: Site) -> int:
    """Read changed accounts and certificates without a restart, on every host before any host uses them."""
    program = site.program
    for unit in todo(site)["reload"]:
        sentinel = unit == program.sentinel_unit
        if sentinel:
            node, runtime = site.sentinel, RUN / "sentinel"
        else:
            name = next(name for name in site.mine if program.unit(name) == unit)
            node, runtime = site.own(name), program.runtime(name)
        assert node is not None
        loaded = fingerprint(*live_files(program, sentinel))
        try:
            with session(node, site.access) as command:
                for words in account_commands(read(program.accounts(sentinel)) or ""):
                    command(*words)
                if site.access.tls and not sentinel:
                    # The names are the same, but Redis reads the files again whenever they are set.
                    authority, certificate, key = map(str, program.certificates())
                    command(
                        *("CONFIG", "SET", "tls-cert-file", certificate),
                        *("tls-key-file", key, "tls-ca-cert-file", authority),
                    )
        except (Denied, Unreachable):
            # It still has another password, or no TLS. The restart that follows brings both.
            print(f"{unit}: restarts, for it accepts none of the passwords")
            program.remove(runtime / "started-with")
            continue
        if sentinel and site.access.tls:
            # Sentinel reads a certificate only when it starts. So let it restart, which costs nothing.
            program.remove(runtime / "started-with")
        program.write(runtime / "loaded", loaded)
        print(f"{unit}: reads its accounts and its certificate again")
    return 0


def retire_strangers(site: Site) -> list[str]:
    # Sentinels come last, for a hand-over needs them.
    units = sorted(strangers(site), key=lambda item: "-sentinel." in item)
    for unit in units:
        retire(site, unit)
    return units


def prepare(site: Site) -> int:
    """Stop old servers before new ones start, for a new server may get the port of an old one.

    A sentinel that remembers the old server would make the new one follow the old one's master. So on all hosts the
    old servers stop, and the sentinels forget them, before any host starts a new one.
    """
    work = {"retire": retire_strangers(site), "restart": []}
    unit = site.program.sentinel_unit
    if site.sentinel and active(unit) and remembers_others(site):
        systemctl("daemon-reload")
        systemctl("restart", unit)
        work["restart"].append(unit)
    print(json.dumps(document({}, any(work.values()), **work), sort_keys=True))
    return 0


def settle(site: Site) -> int:
    work = todo(site)
    program = site.program
    systemctl("daemon-reload")
    # Retire first: a new server may need the port of an old one.
    retire_strangers(site)
    for unit in work["start"]:
        systemctl("start", unit)
    # Sentinel first, for a hand-over needs it, and its restart costs nothing.
    for unit in sorted(work["restart"], key=lambda item: item != program.sentinel_unit):
        if unit == program.sentinel_unit:
            systemctl("restart", unit)
            turned(lambda: bool(inspect_sentinel(site)), 10)
        else:
            restart(site, next(name for name in site.mine if program.unit(name) == unit))
    print(json.dumps(document({}, any(work.values()), **work), sort_keys=True))
    return 0


def leave(site: Site, gone: list[str]) -> int:
    """Stop all that the role placed here. The inventory no longer lists this host in the cache."""
    shards = {name: {**shard, "nodes": site.peers(name)} for name, shard in site.shards.items() if name not in gone}
    site.shards = shards
    site.sentinels = [sentinel for sentinel in site.sentinels if sentinel["name"] != site.me]
    content = {**load(SITE, "redis_shard"), "shards": list(shards.values()), "sentinels": site.sentinels}
    write(SITE, json.dumps(content, indent=2, sort_keys=True), 0o600)
    code = settle(site)
    systemctl("disable", "webstack-cache.target")
    return code


def leave_sentinels(site: Site) -> int:
    """Retire the sentinels of a host that leaves, before servers move. Nobody would tell them where those are now."""
    units = [program.sentinel_unit for program in PROGRAMS.values() if program.sentinel_static.exists()]
    for unit in units:
        retire(site, unit)
    print(json.dumps(document({}, bool(units), retire=units)))
    return 0
