#!/usr/bin/python3
"""Start, check and change the shards of this host the way Sentinel wants them.

The role owns the static files. Who is master is never written there: it is asked from the sentinels whenever
an instance starts, so neither a re-run of the role nor a reboot undoes a fail-over.

  redis-shard status           what this host runs, what it should run and what is wrong, as JSON
  redis-shard settle           start, restart and retire what status lists, without losing data where possible
  redis-shard failover SHARD   hand the shard over to its replica and wait for it
  redis-shard guard SHARD      (systemd, before an instance starts) write the file that says replica or master
  redis-shard follow SHARD     (systemd, after an instance started) see that a replica finds its master
  redis-shard sentinel         (systemd, before Sentinel starts) join its static file with what Sentinel learned
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

CONFIGURATION = pathlib.Path("/etc/redis")
SITE = CONFIGURATION / "shards.json"
SENTINEL_STATIC = CONFIGURATION / "sentinel-shards.conf"
STATE = pathlib.Path("/var/lib/redis")
SENTINEL_FILE = STATE / "sentinel.conf"
RUN = pathlib.Path("/run")
UNITS = pathlib.Path("/etc/systemd/system")
SENTINEL_UNIT = "redis-sentinel.service"
LEARNED = ("config-epoch", "leader-epoch", "known-replica", "known-sentinel")
MARK = "# Written by the role redis_shard"
# Seconds. Connections stay inside one network; a dead host must not hold up a start.
CONNECT = 0.5
PATIENCE = 12.0


class Unreachable(Exception):
    """Nobody answers at this address."""


class Denied(Exception):
    """The server answers and does not accept the password."""


class Refusal(Exception):
    """The server understood and said no."""


class Failure(Exception):
    """What the operator has to read; printed without a traceback."""


# --- talking to Redis -------------------------------------------------------------------------------


def _reply(stream: Any) -> Any:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise Unreachable("connection closed")
    kind, rest = line[:1], line[1:-2].decode("utf-8", "replace")
    if kind == b"+":
        return rest
    if kind == b"-":
        return Refusal(rest)
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else stream.read(size + 2)[:-2].decode("utf-8", "replace")
    if kind == b"*":
        size = int(rest)
        return None if size < 0 else [_reply(stream) for _ in range(size)]
    raise Unreachable(f"unexpected reply {line!r}")


def ask(node: dict[str, Any], password: str, *words: str, seconds: float = CONNECT) -> Any:
    """Send one command; the password goes through the connection, never through an argument list."""
    try:
        with socket.create_connection((node["address"], node["port"]), seconds) as link:
            link.settimeout(max(seconds, 2.0))
            with link.makefile("rb") as stream:
                for command in (("AUTH", password), words):
                    parts = [part.encode() for part in command]
                    link.sendall(
                        b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
                    )
                    reply = _reply(stream)
                    if isinstance(reply, Refusal):
                        if command[0] == "AUTH":
                            raise Denied(str(reply))
                        raise reply
    except OSError as error:
        raise Unreachable(str(error)) from error
    return reply


def pairs(flat: Iterable[str] | None) -> dict[str, str]:
    """Turn the flat name, value, name, value reply of Sentinel into a dictionary."""
    items = list(flat or [])
    return dict(zip(items[::2], items[1::2], strict=False))


def wait(condition: Callable[[], bool], seconds: float, pause: float = 0.2) -> bool:
    """Ask until it is true or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


# --- the site as the role wrote it ------------------------------------------------------------------


class Site:
    """The role's list of shards and sentinels, and this host's place in it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.me: str = data["node"]
        self.password: str = data["password"]
        self.persistent: bool = data["persistent"]
        self.overcommit: bool = data["overcommit"]
        self.shards: dict[str, dict[str, Any]] = {shard["name"]: shard for shard in data["shards"]}
        self.sentinels: list[dict[str, Any]] = data["sentinels"]

    @classmethod
    def load(cls) -> Site:
        try:
            return cls(json.loads(SITE.read_text()))
        except OSError as error:
            raise Failure(f"{SITE} cannot be read ({error.strerror}); run as root, after the role") from error

    def own(self, name: str) -> dict[str, Any] | None:
        """This host's node of a shard."""
        return next((node for node in self.shards.get(name, {"nodes": []})["nodes"] if node["name"] == self.me), None)

    @property
    def mine(self) -> list[str]:
        return [name for name in self.shards if self.own(name)]

    @property
    def sentinel(self) -> dict[str, Any] | None:
        return next((item for item in self.sentinels if item["name"] == self.me), None)

    def peers(self, name: str) -> list[dict[str, Any]]:
        return [node for node in self.shards[name]["nodes"] if node["name"] != self.me]


class View:
    """What the sentinels say about one shard; the one with the newest decision counts."""

    def __init__(self, site: Site, name: str) -> None:
        self.master: dict[str, Any] | None = None
        self.witness: dict[str, Any] | None = None
        self.denied = 0
        self.answers = 0
        epoch = -1
        for sentinel in site.sentinels:
            try:
                found = pairs(ask(sentinel, site.password, "SENTINEL", "MASTER", name))
                self.answers += 1
                if int(found["config-epoch"]) > epoch:
                    epoch = int(found["config-epoch"])
                    self.master = {"address": found["ip"], "port": int(found["port"])}
                    self.witness = sentinel
            except Denied:
                self.denied += 1
            except (Unreachable, Refusal, KeyError, ValueError):
                continue  # down, or it does not know the shard yet
        self.epoch = epoch

    def is_master(self, node: dict[str, Any]) -> bool:
        return self.master is not None and same(self.master, node)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["address"], int(one["port"])) == (other["address"], int(other["port"]))


def role_of(node: dict[str, Any], password: str) -> dict[str, Any]:
    """master with the number of replicas online, or slave with its master and the state of the link."""
    reply = ask(node, password, "ROLE")
    if reply[0] == "master":
        return {"role": "master", "replicas": [{"address": item[0], "port": int(item[1])} for item in reply[2]]}
    return {"role": "slave", "master": {"address": reply[1], "port": int(reply[2])}, "link": reply[3]}


def has_data(node: dict[str, Any], password: str) -> bool:
    try:
        return int(ask(node, password, "DBSIZE")) > 0
    except (Unreachable, Denied, Refusal):
        return False


# --- before an instance starts ----------------------------------------------------------------------


def learned_master(name: str) -> dict[str, Any] | None:
    """The master in the file of this host's own sentinel: what it knew when it last wrote."""
    try:
        return learned(SENTINEL_FILE.read_text()).get(name, {}).get("master")
    except OSError:
        return None


def decide(site: Site, name: str, known: bool) -> dict[str, Any] | None:
    """The node to follow, or None for a master.

    `known`: this host has heard of the shard from a sentinel before, so it is worth waiting for one.
    """
    own = site.own(name)
    if own is None:
        raise Failure(f"{site.me} is not a node of shard {name} in {SITE}")
    view = View(site, name)
    if known and site.sentinels:
        # Power returned everywhere at once: the sentinels are starting too, and one alone may have missed a fail-over.
        deadline = time.monotonic() + PATIENCE
        majority = len(site.sentinels) // 2 + 1
        while view.answers < majority and view.denied == 0 and time.monotonic() < deadline:
            time.sleep(0.3)
            view = View(site, name)
    if view.master is not None:
        if not view.is_master(own):
            return view.master
        if site.persistent or not any(has_data(peer, site.password) for peer in site.peers(name)):
            return None
        # This host would come back as an empty master and its replica would copy the emptiness. The replica has
        # the data: it takes over at once, this host follows.
        deadline = time.monotonic() + PATIENCE
        while view.is_master(own) and view.witness is not None and time.monotonic() < deadline:
            try:
                ask(view.witness, site.password, "SENTINEL", "FAILOVER", name)
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
            state = role_of(peer, site.password)
        except (Unreachable, Denied, Refusal):
            continue
        if state["role"] == "master":
            return peer
        return None if same(state["master"], own) else state["master"]
    written = learned_master(name)
    if written is not None:
        return None if same(written, own) else written
    first = site.shards[name]["nodes"][0]
    return None if same(first, own) else first


def fingerprint(*files: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.exists() else b"absent")
    return digest.hexdigest()


def instance_files(name: str) -> list[pathlib.Path]:
    return [CONFIGURATION / f"redis-{name}.conf", UNITS / f"redis-server@{name}.service.d/shard.conf"]


def sentinel_files() -> list[pathlib.Path]:
    return [SENTINEL_STATIC, UNITS / f"{SENTINEL_UNIT}.d/shards.conf"]


def guard(site: Site, name: str) -> None:
    if site.overcommit and not pathlib.Path("/run/systemd/container").exists():
        try:
            pathlib.Path("/proc/sys/vm/overcommit_memory").write_text("1\n")
        except OSError as error:
            print(f"vm.overcommit_memory stays as it is: {error}")
    marker = STATE / name / "known"
    leader = decide(site, name, marker.exists())
    runtime = RUN / f"redis-{name}"
    line = f"replicaof {leader['address']} {leader['port']}" if leader else "# master: no replicaof"
    print(f"{name} starts as {'replica of {address} {port}'.format(**leader) if leader else 'master'}")
    write(runtime / "role.conf", line + "\n")
    write(runtime / "started-with", fingerprint(*instance_files(name)))
    if site.sentinels and not marker.exists() and View(site, name).master is not None:
        write(marker, "")


def follow(site: Site, name: str) -> None:
    """See that a replica that has just started gets a link; ask again whom to follow until it does.

    Two nodes that heard different sentinels while all were starting would follow each other. Sentinel does not untie
    that: it promotes no replica whose link has been down for long.
    """
    node = site.own(name)
    if node is None or not (STATE / name / "known").exists():
        return
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            state = role_of(node, site.password)
            if state["role"] == "master" or state["link"] == "connected":
                return
            if state["link"] in ("connect", "connecting"):
                view = View(site, name)
                if view.is_master(node):
                    print(f"{name}: the sentinels name this host as master, and nobody else is")
                    ask(node, site.password, "REPLICAOF", "NO", "ONE")
                elif view.master is not None and not same(view.master, state["master"]):
                    print(f"{name}: the sentinels name {view.master['address']}:{view.master['port']} now")
                    ask(node, site.password, "REPLICAOF", view.master["address"], str(view.master["port"]))
        except (Unreachable, Denied, Refusal):
            pass
        time.sleep(0.5)
    print(f"{name}: still no link to a master")


def write(path: pathlib.Path, text: str, mode: int = 0o644, owner: str | None = None) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    if owner:
        shutil.chown(temporary, owner, owner)
    temporary.replace(path)


# --- Sentinel's file --------------------------------------------------------------------------------


def sentinel_lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0].lower() == "sentinel":
            yield ["sentinel", *words[1:]]


def learned(text: str) -> dict[str, dict[str, Any]]:
    """What Sentinel wrote down about each shard: master, epochs, replicas and other sentinels."""
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


def listed(nodes: list[dict[str, Any]], wanted: dict[str, Any]) -> bool:
    return any(same(wanted, node) for node in nodes)


def merge(static: str, dynamic: str, site: Site, views: dict[str, tuple[dict[str, Any], int]]) -> str:
    """Join the role's static file with what Sentinel learned, and drop what the role no longer lists.

    `views` holds for each shard the master and the epoch that the other sentinels name: a sentinel that was away
    during a fail-over, or is new, starts with their knowledge.
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
            # A master that left the list stays until a listed replica has taken over from it.
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
        # Never the master itself, as an old file would have it: Sentinel would make it a replica of itself.
        for node in site.shards[name]["nodes"]:
            if not same(node, master) and listed(replicas, node):
                lines.append(f"sentinel known-replica {name} {node['address']} {node['port']}")
    # Sentinel's identity and vote survive, else the others count it twice.
    lines += [
        line for line in dynamic.splitlines() if line.lower().startswith(("sentinel myid ", "sentinel current-epoch "))
    ]
    return "\n".join(lines) + "\n"


def prepare_sentinel(site: Site) -> None:
    dynamic = SENTINEL_FILE.read_text() if SENTINEL_FILE.exists() else ""
    views = {}
    for name in site.shards:
        view = View(site, name)
        if view.master is not None:
            views[name] = (view.master, view.epoch)
    write(SENTINEL_FILE, merge(SENTINEL_STATIC.read_text(), dynamic, site, views), 0o640, "redis")
    write(RUN / "sentinel/started-with", fingerprint(*sentinel_files()))


# --- status and settle ------------------------------------------------------------------------------


def systemctl(*words: str) -> str:
    result = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if result.returncode != 0 and words[0] in ("start", "stop", "restart", "enable", "disable"):
        unit = words[-1]
        journal = subprocess.run(
            ["journalctl", "--no-pager", "-n", "12", "-o", "cat", "-u", unit],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        raise Failure(f"systemctl {' '.join(words)} failed: {result.stderr.strip()}\n{journal.strip()}")
    return result.stdout.strip()


def unit(name: str) -> str:
    return f"redis-server@{name}.service"


def active(name: str) -> bool:
    return systemctl("is-active", name) in ("active", "activating", "reloading")


def strangers(site: Site) -> list[str]:
    """Shards that the role once placed here and that its list no longer has on this host."""
    found = []
    for path in CONFIGURATION.glob("redis-*.conf"):
        name = path.stem.removeprefix("redis-")
        if name not in site.mine and path.read_text().startswith(MARK):
            found.append(name)
    return sorted(found)


def stale(path: pathlib.Path, files: list[pathlib.Path]) -> bool:
    return not path.exists() or path.read_text() != fingerprint(*files)


def todo(site: Site) -> dict[str, list[str]]:
    work: dict[str, list[str]] = {"start": [], "restart": [], "retire": strangers(site)}
    for name in site.mine:
        if not active(unit(name)):
            work["start"].append(unit(name))
        elif stale(RUN / f"redis-{name}" / "started-with", instance_files(name)):
            work["restart"].append(unit(name))
    if site.sentinel:
        if not active(SENTINEL_UNIT):
            work["start"].append(SENTINEL_UNIT)
        elif stale(RUN / "sentinel/started-with", sentinel_files()):
            work["restart"].append(SENTINEL_UNIT)
    elif SENTINEL_STATIC.exists():
        work["retire"].append(SENTINEL_UNIT)
    return work


def inspect(site: Site) -> tuple[dict[str, Any], list[str]]:
    """Roles of this host's instances, and what is wrong with them."""
    roles: dict[str, Any] = {}
    problems: list[str] = []
    for name in site.mine:
        node = site.own(name)
        assert node is not None
        where = f"shard {name} on {site.me}"
        try:
            state = role_of(node, site.password)
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
                ask(site.sentinel, site.password, "SENTINEL", "CKQUORUM", name)
            except Denied as error:
                problems.append(f"sentinel on {site.me}: the password is not accepted ({error})")
                break
            except (Unreachable, Refusal) as error:
                problems.append(f"sentinel on {site.me}, shard {name}: {error}")
    return roles, problems


def status(site: Site) -> int:
    deadline = time.monotonic() + 20
    while True:
        work = todo(site)
        roles, problems = inspect(site)
        # What is to be done is done by settle; what is only on its way gets time.
        if any(work.values()) or not problems or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print(json.dumps({"node": site.me, "roles": roles, "todo": work, "problems": problems}, sort_keys=True))
    return 0


def failover(site: Site, name: str) -> None:
    node = site.own(name)
    if node is None:
        raise Failure(f"{site.me} is not a node of shard {name}")
    if role_of(node, site.password)["role"] != "master":
        print(f"{name}: {site.me} is not the master, nothing to hand over")
        return
    hand_over(site, name, node)


def hand_over(site: Site, name: str, node: dict[str, Any]) -> None:
    """Hand over while both live, without losing a write.

    Sentinel alone leaves the old master writable for some ten seconds after it promoted the replica; what clients
    write there is lost. So writes wait, the replica catches up, it is promoted, and this host follows at once.
    """
    view = View(site, name)
    witness = view.witness
    if witness is None:
        raise Failure(f"shard {name}: no sentinel answers, nobody can take over")

    def caught_up() -> bool:
        _role, offset, replicas = ask(node, site.password, "ROLE")
        return any(int(replica[2]) >= offset for replica in replicas)

    def asked() -> bool:
        try:
            ask(witness, site.password, "SENTINEL", "FAILOVER", name)
        except Refusal as refusal:
            # A replica that has just come: Sentinel has not seen it yet. In progress: somebody else asked.
            return "INPROG" in str(refusal)
        except Unreachable:
            return False
        return True

    def promoted() -> bool:
        nonlocal view
        view = View(site, name)
        return view.master is not None and not view.is_master(node)

    ask(node, site.password, "CLIENT", "PAUSE", "8000", "WRITE")
    try:
        wait(caught_up, 1, 0.02)
        if not wait(asked, 6, 0.3) or not wait(promoted, 6, 0.05):
            raise Failure(f"shard {name}: the sentinels did not move the master away from {site.me}")
        assert view.master is not None
        ask(node, site.password, "REPLICAOF", view.master["address"], str(view.master["port"]))
        # Who was waiting asks the sentinels again and writes to the new master.
        ask(node, site.password, "CLIENT", "KILL", "TYPE", "normal")
    finally:
        ask(node, site.password, "CLIENT", "UNPAUSE")
    print(f"{name}: handed over")


def in_step(site: Site, node: dict[str, Any]) -> bool:
    try:
        state = role_of(node, site.password)
    except (Unreachable, Denied, Refusal):
        return False
    return bool(state["role"] == "master" or state["link"] == "connected")


def restart(site: Site, name: str) -> None:
    node = site.own(name)
    assert node is not None
    try:
        state = role_of(node, site.password)
        if state["role"] == "master" and state["replicas"] and site.sentinels:
            failover(site, name)
    except Denied:
        # The password changes: no instance can follow another until all have the new one.
        systemctl("restart", unit(name))
        return
    except (Unreachable, Refusal):
        pass
    systemctl("restart", unit(name))
    if not wait(lambda: in_step(site, node), 30):
        raise Failure(f"shard {name} on {site.me} is not back in step with its master 30 s after its restart")


def retire(site: Site, name: str) -> None:
    """Remove an instance whose shard has moved to other hosts; a master hands over to a listed node first."""
    file = CONFIGURATION / f"redis-{name}.conf"
    if name in site.shards and active(unit(name)):
        settings = dict(line.split(maxsplit=1) for line in file.read_text().splitlines() if " " in line)
        here = {"address": settings["bind"].split()[0], "port": int(settings["port"])}
        nodes = site.shards[name]["nodes"]

        def heir() -> bool:
            return any(listed(nodes, replica) for replica in role_of(here, site.password)["replicas"])

        try:
            if role_of(here, site.password)["role"] == "master" and View(site, name).is_master(here):
                if not wait(heir, 30):
                    raise Failure(f"shard {name}: {site.me} left its list as the master, and no listed node follows it")
                hand_over(site, name, here)
        except (Unreachable, Denied) as error:
            print(f"{name}: nothing to hand over, {error}")
    systemctl("stop", unit(name))
    file.unlink(missing_ok=True)
    shutil.rmtree(UNITS / f"redis-server@{name}.service.d", ignore_errors=True)
    shutil.rmtree(STATE / name, ignore_errors=True)
    systemctl("daemon-reload")


def retire_sentinel() -> None:
    systemctl("disable", "--now", SENTINEL_UNIT)
    for path in (SENTINEL_STATIC, SENTINEL_FILE):
        path.unlink(missing_ok=True)
    shutil.rmtree(UNITS / f"{SENTINEL_UNIT}.d", ignore_errors=True)
    systemctl("daemon-reload")


def settle(site: Site) -> int:
    work = todo(site)
    systemctl("daemon-reload")
    for name in work["start"]:
        systemctl("start", name)
    # Sentinel first: its restart costs nothing, and a hand-over needs it.
    for name in sorted(work["restart"], key=lambda item: item != SENTINEL_UNIT):
        if name == SENTINEL_UNIT:
            systemctl("restart", name)
            assert site.sentinel is not None
            wait(lambda: bool(inspect_sentinel(site)), 10)
        else:
            restart(site, name.removeprefix("redis-server@").removesuffix(".service"))
    for name in work["retire"]:
        if name == SENTINEL_UNIT:
            retire_sentinel()
        else:
            retire(site, name)
    print(json.dumps(work, sort_keys=True))
    return 0


def inspect_sentinel(site: Site) -> bool:
    assert site.sentinel is not None
    try:
        for name in site.shards:
            ask(site.sentinel, site.password, "SENTINEL", "CKQUORUM", name)
    except (Unreachable, Refusal, Denied):
        return False
    return True


def main(arguments: list[str]) -> int:
    match arguments:
        case ["status"]:
            return status(Site.load())
        case ["settle"]:
            return settle(Site.load())
        case ["failover", name]:
            failover(Site.load(), name)
        case ["guard", name]:
            guard(Site.load(), name)
        case ["follow", name]:
            follow(Site.load(), name)
        case ["sentinel"]:
            prepare_sentinel(Site.load())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failure, Unreachable, Denied, Refusal) as error:
        print(f"redis-shard: {error}", file=sys.stderr)
        sys.exit(1)
