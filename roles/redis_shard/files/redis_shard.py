#!/usr/bin/python3
"""Start, check and change the shards of this host the way Sentinel wants them.

The role owns the static files. Who is master is never written there: it is asked from the sentinels whenever
an instance starts, so neither a re-run of the role nor a reboot undoes a fail-over.

  redis-shard status           what this host runs, what it should run and what is wrong, as JSON
  redis-shard reload           have running servers read changed accounts and certificates, without a restart
  redis-shard prepare          stop what is not listed here any more and have Sentinel forget it
  redis-shard settle           start, restart and retire what status lists, without losing data where possible
  redis-shard form             (engine redis_cluster) make one cluster of all servers, or see that it is one
  redis-shard failover SHARD   hand the shard over to its replica and wait for it
  redis-shard census           count the keys of this host's masters; standard input says under which rings, as JSON
  redis-shard sweep [--dry-run]
                               remove from this host's masters what is not at home there under each of the rings that
                               standard input lists, as JSON
  redis-shard leave [SHARD...] stop all that the role placed here; the named shards belong to no ring any more
  redis-shard leave --sentinel stop this host's sentinel alone
  redis-shard guard SHARD      (systemd, before an instance starts) write the file that says replica or master
  redis-shard follow SHARD     (systemd, after an instance started) see that a replica finds its master
  redis-shard sentinel         (systemd, before Sentinel starts) join its static file with what Sentinel learned
  redis-shard tune             (systemd, after Sentinel started) have it look more often
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import pathlib
import pwd
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SITE = pathlib.Path("/etc/webstack/redis-shard.json")
LIBRARY = "/usr/local/lib/webstack"
RUN = pathlib.Path("/run")
UNITS = pathlib.Path("/etc/systemd/system")
LEARNED = ("config-epoch", "leader-epoch", "known-replica", "known-sentinel")
MARK = "# Written by the role redis_shard"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
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


# --- files where the servers' account may write -------------------------------------------------------


@contextlib.contextmanager
def as_account(name: str) -> Iterator[None]:
    """Have the rights of an account and no others, and root's again afterwards.

    In the servers' directories their account may put a link or another directory anywhere at any moment. With its own
    rights we get no further than it does, wherever that leads.
    """
    try:
        account = pwd.getpwnam(name)
    except KeyError:  # its package is gone, and with it everybody who could plant something
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read(path: pathlib.Path) -> str | None:
    """Return the text of a file, None when there is none. A link is not followed, and no pipe is waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        kind = "is a link, which is not followed"
        if error.errno != errno.ELOOP:
            kind = f"cannot be read ({error.strerror})"
        raise Failure(f"{path} {kind}: look who put it there, and remove it") from error
    with os.fdopen(descriptor, errors="replace") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Failure(f"{path} is no file: look who put it there, and remove it")
        return file.read()


def write(path: pathlib.Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step. The new one has a name that nobody can guess, and is nobody's but ours."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Failure(f"{path} cannot be written: {error.strerror}") from error


class Program:
    """A server program: Debian calls everything that belongs to one by the same word."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.configuration = pathlib.Path("/etc") / name
        self.state = pathlib.Path("/var/lib") / name
        self.sentinel_static = self.configuration / "sentinel-shards.conf"
        self.sentinel_file = self.state / "sentinel.conf"
        self.sentinel_unit = f"{name}-sentinel.service"

    def read(self, path: pathlib.Path) -> str | None:
        """Read a file in one of the servers' own directories."""
        with as_account(self.name):
            return read(path)

    def write(self, path: pathlib.Path, text: str, mode: int = 0o644) -> None:
        """Write one there."""
        with as_account(self.name):
            write(path, text, mode)

    def remove(self, path: pathlib.Path) -> None:
        """Remove a file or a directory there."""
        try:
            with as_account(self.name):
                if path.is_symlink() or not path.is_dir():
                    path.unlink(missing_ok=True)
                else:
                    shutil.rmtree(path)
        except OSError as error:
            raise Failure(f"{path} cannot be removed: {error.strerror}") from error

    def unit(self, shard: str) -> str:
        return f"{self.name}-server@{shard}.service"

    def file(self, shard: str) -> pathlib.Path:
        return self.configuration / f"{self.name}-{shard}.conf"

    def runtime(self, shard: str) -> pathlib.Path:
        return RUN / f"{self.name}-{shard}"

    def instance_files(self, shard: str) -> list[pathlib.Path]:
        """What a server reads when it starts, and only then."""
        return [self.file(shard), UNITS / f"{self.unit(shard)}.d/shard.conf"]

    def sentinel_files(self) -> list[pathlib.Path]:
        return [self.sentinel_static, UNITS / f"{self.sentinel_unit}.d/shards.conf"]

    def accounts(self, sentinel: bool = False) -> pathlib.Path:
        return self.configuration / ("sentinel-users.acl" if sentinel else "users.acl")

    def certificates(self) -> list[pathlib.Path]:
        return [self.configuration / "tls" / name for name in ("ca.pem", "cert.pem", "key.pem")]

    def placed(self) -> list[str]:
        """Shards that the role once placed here."""
        start = f"{self.name}-"
        found = []
        for path in self.configuration.glob(f"{start}*.conf"):
            name = path.name.removeprefix(start).removesuffix(".conf")
            # It becomes part of a path that is removed.
            if SHARD_NAME.fullmatch(name) and (read(path) or "").startswith(MARK):
                found.append(name)
        return sorted(found)


PROGRAMS = {name: Program(name) for name in ("redis", "valkey")}


class Access:
    """How to speak to the servers: an account, the passwords that may be its own now, TLS or not."""

    def __init__(self, username: str, passwords: list[str], authority: str | None) -> None:
        self.username = username
        self.passwords = passwords
        self.tls = ssl.create_default_context(cafile=authority) if authority else None


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
        # A key may be any bytes, and must go back as it came.
        return None if size < 0 else stream.read(size + 2)[:-2].decode("utf-8", "surrogateescape")
    if kind == b"*":
        size = int(rest)
        return None if size < 0 else [_reply(stream) for _ in range(size)]
    raise Unreachable(f"unexpected reply {line!r}")


def _send(link: socket.socket, stream: Any, words: Iterable[str]) -> Any:
    parts = [word.encode("utf-8", "surrogateescape") for word in words]
    link.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    return _reply(stream)


@contextlib.contextmanager
def session(node: dict[str, Any], access: Access, seconds: float = CONNECT) -> Iterator[Callable[..., Any]]:
    """Log in; passwords go through the connection, never through an argument list."""
    try:
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(socket.create_connection((node["address"], node["port"]), seconds))
            link.settimeout(max(seconds, 2.0))
            if access.tls:
                link = stack.enter_context(access.tls.wrap_socket(link, server_hostname=node["address"]))
            stream = stack.enter_context(link.makefile("rb"))
            for password in access.passwords:
                reply = _send(link, stream, ("AUTH", access.username, password))
                if not isinstance(reply, Refusal):
                    break
            else:
                raise Denied(str(reply))

            def command(*words: str) -> Any:
                reply = _send(link, stream, words)
                if isinstance(reply, Refusal):
                    raise reply
                return reply

            yield command
    except OSError as error:
        raise Unreachable(str(error)) from error


def ask(node: dict[str, Any], access: Access, *words: str, seconds: float = CONNECT) -> Any:
    """Send one command."""
    with session(node, access, seconds) as command:
        return command(*words)


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
        self.program = PROGRAMS[data["program"]]
        self.engine: str = data["engine"]
        self.access = Access("admin", data["passwords"], data["tls"])
        self.persistent: bool = data["persistent"]
        self.overcommit: bool = data["overcommit"]
        self.timing: dict[str, int] = data["timing"]
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
                found = pairs(ask(sentinel, site.access, "SENTINEL", "MASTER", name))
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


def role_of(node: dict[str, Any], access: Access) -> dict[str, Any]:
    """master with the number of replicas online, or slave with its master and the state of the link."""
    reply = ask(node, access, "ROLE")
    if reply[0] == "master":
        return {"role": "master", "replicas": [{"address": item[0], "port": int(item[1])} for item in reply[2]]}
    return {"role": "slave", "master": {"address": reply[1], "port": int(reply[2])}, "link": reply[3]}


def serves(node: dict[str, Any], name: str, access: Access) -> bool:
    """Whether this shard runs there: while servers move, the port may still be another shard's."""
    return pathlib.PurePath(pairs(ask(node, access, "CONFIG", "GET", "dir"))["dir"]).name == name


def has_data(node: dict[str, Any], name: str, access: Access) -> bool:
    try:
        return serves(node, name, access) and int(ask(node, access, "DBSIZE")) > 0
    except (Unreachable, Denied, Refusal):
        return False


# --- before an instance starts ----------------------------------------------------------------------


def learned_master(program: Program, name: str) -> dict[str, Any] | None:
    """The master in the file of this host's own sentinel: what it knew when it last wrote."""
    return learned(program.read(program.sentinel_file) or "").get(name, {}).get("master")


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
        if site.persistent or not any(has_data(peer, name, site.access) for peer in site.peers(name)):
            return None
        # This host would come back as an empty master and its replica would copy the emptiness. The replica has
        # the data: it takes over at once, this host follows.
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


def fingerprint(*files: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        text = read(file)
        digest.update(b"absent" if text is None else text.encode())
    return digest.hexdigest()


def live_files(program: Program, sentinel: bool = False) -> list[pathlib.Path]:
    """What a running server can read again."""
    return [program.accounts(sentinel), *program.certificates()]


def guard(site: Site, name: str) -> None:
    if site.overcommit and not pathlib.Path("/run/systemd/container").exists():
        try:
            pathlib.Path("/proc/sys/vm/overcommit_memory").write_text("1\n")
        except OSError as error:
            print(f"vm.overcommit_memory stays as it is: {error}")
    program, runtime = site.program, site.program.runtime(name)
    marker = program.state / name / "known"
    known = program.read(marker) is not None
    # The servers of a cluster settle among themselves who leads.
    leader = decide(site, name, known) if site.engine != "redis_cluster" else None
    line = f"replicaof {leader['address']} {leader['port']}" if leader else "# master: no replicaof"
    print(f"{name} starts as {'replica of {address} {port}'.format(**leader) if leader else 'master'}")
    program.write(runtime / "role.conf", line + "\n")
    program.write(runtime / "started-with", fingerprint(*program.instance_files(name)))
    program.write(runtime / "loaded", fingerprint(*live_files(program)))
    if site.sentinels and not known and View(site, name).master is not None:
        program.write(marker, "")


def follow(site: Site, name: str) -> None:
    """See that a replica that has just started gets a link; ask again whom to follow until it does.

    Two nodes that heard different sentinels while all were starting would follow each other. Sentinel does not untie
    that: it promotes no replica whose link has been down for long.
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


# --- server-side cluster ------------------------------------------------------------------------------

SLOTS = 16384


class Member:
    """A server of a Redis Cluster as it sees itself and the others."""

    def __init__(self, node: dict[str, Any], access: Access) -> None:
        self.node = node
        self.id: str = ask(node, access, "CLUSTER", "MYID")
        # id, address:port@bus..., flags, master, ..., slots
        self.lines = [line.split() for line in ask(node, access, "CLUSTER", "NODES").splitlines()]

    @property
    def own(self) -> list[str]:
        return next(words for words in self.lines if "myself" in words[2].split(","))

    @property
    def is_master(self) -> bool:
        return "master" in self.own[2].split(",")

    @property
    def slots(self) -> set[int]:
        found: set[int] = set()
        for part in self.own[8:]:
            if not part.startswith("["):  # a slot on its way to another server
                first, _dash, last = part.partition("-")
                found.update(range(int(first), int(last or first) + 1))
        return found

    def knows(self, other: Member) -> bool:
        return any(words[0] == other.id and words[7] == "connected" for words in self.lines)

    def ghosts(self, living: set[str]) -> list[str]:
        """Identities of servers that are no more: failed, and their address is another's or nobody's."""
        return [words[0] for words in self.lines if words[0] not in living and "fail" in words[2].split(",")]


def cluster_members(site: Site) -> dict[tuple[str, str], Member]:
    """All servers by shard and host. Every one must answer: the cluster is formed of all or not at all."""
    return {
        (name, node["name"]): Member(node, site.access)
        for name, shard in site.shards.items()
        for node in shard["nodes"]
    }


def ranges(slots: Iterable[int]) -> list[str]:
    """First and last of each run, flat, as CLUSTER ADDSLOTSRANGE takes them."""
    found: list[list[int]] = []
    for slot in sorted(slots):
        if found and found[-1][1] == slot - 1:
            found[-1][1] = slot
        else:
            found.append([slot, slot])
    return [str(bound) for run in found for bound in run]


def cluster_plan(site: Site, members: dict[tuple[str, str], Member]) -> list[tuple[dict[str, Any], list[str]]]:
    """The next commands that bring the servers together, each with the server that gets it; none when all is well.

    Whoever holds slots is the primary of its shard, whatever the inventory's order: a fail-over is never undone.
    """
    everybody = list(members.values())
    living = {member.id for member in everybody}
    plan: list[tuple[dict[str, Any], list[str]]] = []
    first = next((member for member in everybody if member.slots), everybody[0])
    for member in everybody:
        plan += [(member.node, ["CLUSTER", "FORGET", ghost]) for ghost in member.ghosts(living)]
        if not first.knows(member):
            plan.append((first.node, ["CLUSTER", "MEET", member.node["address"], str(member.node["port"])]))
    if plan or not all(one.knows(other) for one in everybody for other in everybody):
        return plan
    free = set(range(SLOTS)) - {slot for member in everybody for slot in member.slots}
    empty: list[Member] = []
    for name, shard in site.shards.items():
        own = [members[name, node["name"]] for node in shard["nodes"]]
        leader = next((member for member in own if member.slots), None)
        if leader is None:
            leader = next((member for member in own if member.is_master), own[0])
            empty.append(leader)
        for member in own:
            if member is not leader and (not member.is_master or not member.slots) and member.own[3] != leader.id:
                plan.append((member.node, ["CLUSTER", "REPLICATE", leader.id]))
    # Slots that nobody has go to who has none, else to all.
    takers = empty or [member for member in everybody if member.slots]
    share = -(-len(free) // len(takers))
    waiting = sorted(free)
    for number, member in enumerate(takers):
        part = waiting[number * share : (number + 1) * share]
        if part:
            plan.insert(number, (member.node, ["CLUSTER", "ADDSLOTSRANGE", *ranges(part)]))
    return plan


def form(site: Site) -> int:
    """Make one cluster of the servers; repeating it changes nothing."""
    deadline = time.monotonic() + 60
    changed = False
    said: Exception | str = "the servers do not know each other"
    while time.monotonic() < deadline:
        try:
            members = cluster_members(site)
            plan = cluster_plan(site, members)
            for node, words in plan:
                ask(node, site.access, *words)
                print(f"{node['address']}:{node['port']}: {' '.join(words[:3])}")
                changed = True
            views = {ask(member.node, site.access, "CLUSTER", "INFO").splitlines()[0] for member in members.values()}
            if (
                not plan
                and views == {"cluster_state:ok"}
                and all(one.knows(other) for one in members.values() for other in members.values())
            ):
                print("changed" if changed else "unchanged")
                return 0
        except (Unreachable, Denied, Refusal) as error:
            said = error
        time.sleep(0.3)
    raise Failure(f"the cluster is not complete after 60 s: {said}")


def inspect_cluster(site: Site) -> tuple[dict[str, Any], list[str]]:
    """Roles of this host's servers in the cluster, and what is wrong with them."""
    roles: dict[str, Any] = {}
    problems: list[str] = []
    for name in site.mine:
        node = site.own(name)
        assert node is not None
        try:
            roles[name] = role_of(node, site.access)["role"]
            state = ask(node, site.access, "CLUSTER", "INFO").splitlines()[0]
            if state != "cluster_state:ok":
                problems.append(f"shard {name} on {site.me}: {state}")
        except (Unreachable, Denied, Refusal) as error:
            problems.append(f"shard {name} on {site.me}: no answer at {node['address']}:{node['port']} ({error})")
    return roles, problems


def tune(site: Site) -> None:
    """Have Sentinel look more often than once a second; it takes these values from a command only."""
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

    if words and not wait(done, 5):
        print("Sentinel keeps its own timing: it does not answer")


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


def active(name: str) -> bool:
    return systemctl("is-active", name) in ("active", "activating", "reloading")


def enabled(name: str) -> bool:
    return systemctl("is-enabled", name) == "enabled"


def strangers(site: Site) -> list[str]:
    """Units that the role once made here and that its lists no longer have on this host."""
    found = []
    for program in PROGRAMS.values():
        current = program is site.program
        found += [program.unit(name) for name in program.placed() if not (current and name in site.mine)]
        # The packages enable it under a name that both programs' sentinels claim.
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
    """Roles of this host's instances, and what is wrong with them."""
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


def status(site: Site) -> int:
    deadline = time.monotonic() + 20
    while True:
        work = todo(site)
        roles, problems = inspect_cluster(site) if site.engine == "redis_cluster" else inspect(site)
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
    if role_of(node, site.access)["role"] != "master":
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
    if not role_of(node, site.access).get("replicas"):
        # Writes would wait for seconds, for nobody.
        raise Failure(f"shard {name}: no replica follows {site.me}, nobody can take over")

    def caught_up() -> bool:
        _role, offset, replicas = ask(node, site.access, "ROLE")
        return any(int(replica[2]) >= offset for replica in replicas)

    def asked() -> bool:
        try:
            ask(witness, site.access, "SENTINEL", "FAILOVER", name)
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

    ask(node, site.access, "CLIENT", "PAUSE", "8000", "WRITE")
    try:
        wait(caught_up, 1, 0.02)
        if not wait(asked, 6, 0.3) or not wait(promoted, 6, 0.05):
            raise Failure(f"shard {name}: the sentinels did not move the master away from {site.me}")
        assert view.master is not None
        ask(node, site.access, "REPLICAOF", view.master["address"], str(view.master["port"]))
        # Who was waiting asks the sentinels again and writes to the new master.
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
        # Another password, or TLS where there was none: no instance can follow another until all have changed.
        systemctl("restart", site.program.unit(name))
        return
    except Refusal:
        pass
    systemctl("restart", site.program.unit(name))
    if site.engine != "redis_cluster" and not wait(lambda: in_step(site, node), 30):
        raise Failure(f"shard {name} on {site.me} is not back in step with its master 30 s after its restart")


def retire(site: Site, unit: str) -> None:
    """Remove an instance whose shard has moved to other hosts; a master hands over to a listed node first."""
    program = next(item for item in PROGRAMS.values() if unit.startswith(f"{item.name}-"))
    if unit == program.sentinel_unit:
        systemctl("disable", "--now", unit)
        if not program.sentinel_static.exists():
            return  # the package's own
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
                if not wait(heir, 30):
                    raise Failure(f"shard {name}: {site.me} left its list as the master, and no listed node follows it")
                hand_over(site, name, here)
        except (Unreachable, Denied) as error:
            print(f"{name}: nothing to hand over, {error}")
    systemctl("stop", unit)
    file.unlink(missing_ok=True)
    shutil.rmtree(UNITS / f"{unit}.d", ignore_errors=True)
    program.remove(program.state / name)
    systemctl("daemon-reload")


def account_commands(text: str) -> list[list[str]]:
    """Turn the lines of an ACL file into commands that leave those who are logged in alone, as ACL LOAD does not."""
    return [
        ["ACL", "SETUSER", words[1], "reset", *words[2:]]
        for words in (line.split() for line in text.splitlines())
        if words[:1] == ["user"]
    ]


def reload(site: Site) -> int:
    """Take over changed accounts and certificates without a restart; on every host before any host uses them."""
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
                    # The same names: Redis reads them again whenever they are set.
                    authority, certificate, key = map(str, program.certificates())
                    command(
                        *("CONFIG", "SET", "tls-cert-file", certificate),
                        *("tls-key-file", key, "tls-ca-cert-file", authority),
                    )
        except (Denied, Unreachable):
            # It knows another password, or no TLS yet: the restart that follows brings both.
            print(f"{unit}: restarts, for it accepts none of the passwords")
            program.remove(runtime / "started-with")
            continue
        if sentinel and site.access.tls:
            # Sentinel reads a certificate at its start only; that costs nothing.
            program.remove(runtime / "started-with")
        program.write(runtime / "loaded", loaded)
        print(f"{unit}: reads its accounts and its certificate again")
    return 0


def retire_strangers(site: Site) -> list[str]:
    # Sentinels last, a hand-over needs them.
    units = sorted(strangers(site), key=lambda item: "-sentinel." in item)
    for unit in units:
        retire(site, unit)
    return units


def remembers_others(site: Site) -> bool:
    """Whether this host's sentinel watches other shards or other servers than the role lists."""
    known = learned(site.program.read(site.program.sentinel_file) or "")
    return known.keys() != site.shards.keys() or any(
        not listed(site.shards[name]["nodes"], node) for name, memory in known.items() for node in replicas_of(memory)
    )


def prepare(site: Site) -> int:
    """Make room: a server may come to the port of one that goes.

    A sentinel that remembers the one that went would make the newcomer follow that one's master. So on all hosts the
    old servers stop and the sentinels forget them before any host starts a new one.
    """
    work = {"retire": retire_strangers(site), "restart": []}
    unit = site.program.sentinel_unit
    if site.sentinel and active(unit) and remembers_others(site):
        systemctl("daemon-reload")
        systemctl("restart", unit)
        work["restart"].append(unit)
    print(json.dumps(work, sort_keys=True))
    return 0


def settle(site: Site) -> int:
    work = todo(site)
    program = site.program
    systemctl("daemon-reload")
    # What leaves makes room first: the port may be the one of what comes.
    retire_strangers(site)
    for unit in work["start"]:
        systemctl("start", unit)
    # Sentinel first: its restart costs nothing, and a hand-over needs it.
    for unit in sorted(work["restart"], key=lambda item: item != program.sentinel_unit):
        if unit == program.sentinel_unit:
            systemctl("restart", unit)
            wait(lambda: bool(inspect_sentinel(site)), 10)
        else:
            restart(site, next(name for name in site.mine if program.unit(name) == unit))
    print(json.dumps(work, sort_keys=True))
    return 0


def leave(site: Site, gone: list[str]) -> int:
    """Stop all that the role placed here: the inventory no longer has this host in the cache."""
    shards = {name: {**shard, "nodes": site.peers(name)} for name, shard in site.shards.items() if name not in gone}
    site.shards = shards
    site.sentinels = [sentinel for sentinel in site.sentinels if sentinel["name"] != site.me]
    content = {**json.loads(SITE.read_text()), "shards": list(shards.values()), "sentinels": site.sentinels}
    write(SITE, json.dumps(content, indent=2, sort_keys=True), 0o600)
    code = settle(site)
    systemctl("disable", "redis-shard.target")
    return code


def leave_sentinels(site: Site) -> int:
    """Before servers move to other ports of other hosts: nobody tells a sentinel of a host that leaves."""
    units = [program.sentinel_unit for program in PROGRAMS.values() if program.sentinel_static.exists()]
    for unit in units:
        retire(site, unit)
    print(json.dumps({"retire": units}))
    return 0


# --- keys -------------------------------------------------------------------------------------------


def masters(site: Site) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The shards that have their master here, each with a session there."""
    for name in site.mine:
        node = site.own(name)
        assert node is not None
        if role_of(node, site.access)["role"] == "master":
            with session(node, site.access) as command:
                yield name, command


def census(site: Site) -> int:
    keys = shard_keys()
    orders = json.load(sys.stdin)
    old, new = keys.rings([orders["old"], orders["new"]])
    placed = [program.unit(name) for program in PROGRAMS.values() for name in program.placed()]
    placed += [program.sentinel_unit for program in PROGRAMS.values() if program.sentinel_static.exists()]
    found = {
        "shards": {name: keys.census(command, name, old, new) for name, command in masters(site)},
        # What this host knows of the site, and what it runs.
        "listed": {name: shard["nodes"] for name, shard in site.shards.items()},
        "placed": placed,
    }
    print(json.dumps(found, sort_keys=True))
    return 0


def sweep(site: Site, dry_run: bool) -> int:
    keys = shard_keys()
    rings = keys.rings(json.load(sys.stdin))
    done = {name: keys.sweep(command, name, rings, dry_run) for name, command in masters(site)}
    print(json.dumps(done, sort_keys=True))
    return 0


def shard_keys() -> Any:
    """The module beside this program; only what looks at keys needs it and the ring."""
    sys.path.insert(0, LIBRARY)
    return importlib.import_module("shard_keys")


def inspect_sentinel(site: Site) -> bool:
    assert site.sentinel is not None
    try:
        for name in site.shards:
            ask(site.sentinel, site.access, "SENTINEL", "CKQUORUM", name)
    except (Unreachable, Refusal, Denied):
        return False
    return True


def main(arguments: list[str]) -> int:
    os.umask(0o022)  # whoever calls
    match arguments:
        case ["status"]:
            return status(Site.load())
        case ["reload"]:
            return reload(Site.load())
        case ["settle"]:
            return settle(Site.load())
        case ["form"]:
            return form(Site.load())
        case ["prepare"]:
            return prepare(Site.load())
        case ["leave", "--sentinel"]:
            return leave_sentinels(Site.load())
        case ["leave", *gone]:
            return leave(Site.load(), gone)
        case ["census"]:
            return census(Site.load())
        case ["sweep", *options] if options in ([], ["--dry-run"]):
            return sweep(Site.load(), bool(options))
        case ["failover", name]:
            failover(Site.load(), name)
        case ["guard", name]:
            guard(Site.load(), name)
        case ["follow", name]:
            follow(Site.load(), name)
        case ["sentinel"]:
            prepare_sentinel(Site.load())
        case ["tune"]:
            tune(Site.load())
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
