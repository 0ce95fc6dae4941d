# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The member of this host: it runs with its newest files, and without data it joins, and never begins by itself."""

from __future__ import annotations

import hashlib
import json
import pathlib
import secrets
import time
from collections.abc import Collection
from typing import Any

from ..core import files, systemd
from ..core.errors import Problem
from ..core.run import run
from ..core.say import say
from ..core.wait import turned
from . import config, view
from .config import Member, Settings
from .gateway import NOT_FOUND, Endpoint, Gateway, Refused
from .plan import EXISTING, NEW, Plan, cluster, fits, plan

#: A member that was added is refused for five seconds after another one came back; a join copies the whole store.
SECONDS = 60


def permit() -> pathlib.Path:
    """The environment with which a member may begin without data. It is there once, for one start."""
    return config.RUN / "start.env"


def stamp() -> pathlib.Path:
    return config.RUN / "started"


def digest(member: Member) -> str:
    """Return what the files are that a member reads only when it starts."""
    found = hashlib.sha256()
    for path in member.files:
        found.update(f"{path}\0{files.read(path) or ''}\0".encode())
    return found.hexdigest()


def outdated(member: Member) -> bool:
    """Say whether the running member was started with other files."""
    return files.read(stamp()) != digest(member)


def guard(settings: Settings) -> None:
    """Let the member start, or refuse: one without data would be a voter that has forgotten everything."""
    member = settings.here()
    config.RUN.mkdir(parents=True, exist_ok=True)
    if not member.has_data() and not permit().exists():
        raise Problem(
            f"{member.data} has no data, so this member does not start. Mount the disk that has them, or run the role "
            "quorum: it joins the others again"
        )
    files.write(stamp(), digest(member), 0o600)


def seen_here(settings: Settings) -> dict[str, Any]:
    """Return what this run has to know of each member before one of them begins."""
    member = settings.here()
    given = dict(line.split("=", 1) for line in (files.read(permit()) or "").splitlines() if "=" in line)
    # Members of one formation have one token, also when it was interrupted.
    forming = given.get("ETCD_INITIAL_CLUSTER_STATE") == NEW
    token = given.get("ETCD_INITIAL_CLUSTER_TOKEN", "") if forming else ""
    return {
        "name": member.name,
        "data": member.has_data(),
        "token": token or f"webstack-{secrets.token_hex(8)}",
        "formed": bool(token),
    }


def settled(settings: Settings) -> bool:
    """Say whether nothing is left to do for the member of this host."""
    member = settings.here()
    return member.has_data() and not outdated(member) and not permit().exists() and _works(settings, member)


def settle(settings: Settings, empty: Collection[str], token: str, discard: bool = False) -> list[str]:
    """Have the member run, and return what was done for it."""
    member, done = settings.here(), []
    # A member that works is never thrown away by the way, and none whose data may be the last.
    if discard and member.has_data() and not _works(settings, member):
        if not any(one.works for one in view.look(settings, others(settings))):
            raise Problem(f"{member.name} keeps its data: no other member works that it could join without them")
        done.append(set_aside(member))
    runs = systemd.is_active(config.UNIT)
    if member.has_data():
        if runs and not outdated(member):
            return done
        if runs:
            spare(settings, member)
        start(member, "restart" if runs else "start")
        done.append("restarted with its new settings" if runs else "started")
        # Alone it waits for the others, who come after it in this run.
        if any(one.works for one in view.look(settings, others(settings))):
            ready(settings)
        return done
    seen = view.look(settings, others(settings))
    strangers = [one.peer_url for one in _strangers(settings, seen)]
    chosen = plan(member.name, settings.peers, seen, empty, strangers)
    if chosen.state == NEW:
        if not token:
            raise Problem("a new store needs --token, the same on all members")
        allow(cluster(member.name, settings.peers), NEW, token)
        start(member, "restart" if runs else "start")
        return [*done, "formed a new store with the others"]
    working = [one for one in seen if one.works]
    fits(member.name, run("etcd", "--version", seconds=30).out, working)
    done += join(settings, chosen, [one.endpoint for one in working])
    start(member, "restart" if runs else "start")
    ready(settings)
    return done


def join(settings: Settings, chosen: Plan, working: list[Endpoint]) -> list[str]:
    """Change the list of members so that this one is new in it, and allow it to begin."""
    member, done = settings.here(), []
    gateway = Gateway(working, settings.tls, SECONDS)
    try:
        for entry in chosen.remove:
            try:
                gateway.call("cluster/member/remove", {"ID": entry.id})
            except Refused as no:
                if no.grpc != NOT_FOUND:
                    raise
            done.append(f"took the lost member {entry.name or entry.peer_url} out of the list")
        listed = names(gateway)
        if chosen.add and not any(entry.peer_url == member.peer_url for entry in listed):
            try:
                gateway.call("cluster/member/add", {"peerURLs": [member.peer_url]}, SECONDS / 3)
            except Problem:
                # Asked twice, since the first answer was lost, it says that too few members have started.
                if not any(entry.peer_url == member.peer_url for entry in names(gateway)):
                    raise
            listed = names(gateway)
    finally:
        gateway.close()
    allow(cluster(member.name, settings.peers, listed), EXISTING, "webstack")
    return [*done, "joined the others"]


def names(gateway: Gateway) -> list[view.Listed]:
    """Return the list of members that the others keep."""
    return [view.entry(one) for one in gateway.call("cluster/member/list", {}).said.get("members") or ()]


def allow(members: str, state: str, token: str) -> None:
    config.RUN.mkdir(parents=True, exist_ok=True)
    lines = {"ETCD_INITIAL_CLUSTER": members, "ETCD_INITIAL_CLUSTER_STATE": state, "ETCD_INITIAL_CLUSTER_TOKEN": token}
    files.write(permit(), "".join(f"{name}={value}\n" for name, value in lines.items()), 0o600)


def start(member: Member, word: str) -> None:
    say(f"{member.name}: systemctl {word} {config.UNIT}")
    systemd.tell("--no-block", word, config.UNIT)


def ready(settings: Settings) -> None:
    """Wait until the member of this host works, and say why it does not. From then on it never begins again."""
    member = settings.here()
    if turned(lambda: _works(settings, member), SECONDS, 0.3):
        files.remove(permit())
        return
    said = view.hear(settings, settings.endpoint(member.name)).problem or "it knows no leader"
    words = run("journalctl", "--no-pager", "-n", "60", "-o", "cat", "-u", config.UNIT, seconds=30, check=False).out
    more = "" if any(one.works for one in view.look(settings, others(settings))) else " Neither does any other member."
    if "permanently removed" in words:
        more += (
            " It was replaced while it was away, so its data are of no use: quorum_discard_data=true moves them aside."
        )
    raise Problem(f"{member.name} does not work after {SECONDS:g} s: {said}.{more}\n{_telling(words)}")


def _telling(words: str) -> str:
    """Return the last lines of a journal that say something, without etcd's JSON."""
    lines = []
    for line in words.splitlines():
        try:
            said = json.loads(line)
            lines.append(": ".join(str(said[key]) for key in ("level", "msg", "error") if key in said))
        except (ValueError, TypeError):
            lines.append(line)
    return "\n".join([line for line in dict.fromkeys(lines) if "used environment variable" not in line][-8:])


def spare(settings: Settings, member: Member) -> None:
    """Refuse to restart a member whose place the others cannot fill, unless nothing works as it is."""
    seen = view.look(settings, others(settings))
    end = time.monotonic() + SECONDS / 2
    while True:
        away = [one for one in seen if not one.works]
        # A majority of all without this one; a member alone has nobody, and one that does not work fills no place.
        if len(seen) - len(away) > len(settings.endpoints) // 2 or not seen or not _works(settings, member):
            return
        if time.monotonic() >= end:
            said = "; ".join(f"{one.endpoint} {one.problem or 'knows no leader'}" for one in away)
            raise Problem(f"{member.name} has new settings, and its restart would end the quorum: {said}")
        time.sleep(0.5)
        seen = view.look(settings, others(settings))


def set_aside(member: Member) -> str:
    """Stop the member and move its data out of the way; nothing is removed."""
    systemd.tell("stop", config.UNIT)
    # Below the directory, which may be a disk of its own.
    place = member.data / f"aside-{time.strftime('%Y%m%dT%H%M%S')}"
    try:
        (member.data / "member").rename(place)
        files.sync_folder(member.data)
    except OSError as error:
        raise Problem(f"{member.data}/member cannot be moved to {place}: {error.strerror}") from error
    return f"moved its old data to {place}"


def others(settings: Settings) -> list[Endpoint]:
    member = settings.here()
    return [one for one in settings.endpoints if one.name != member.name]


def _works(settings: Settings, member: Member) -> bool:
    return view.hear(settings, settings.endpoint(member.name)).works


def _strangers(settings: Settings, seen: list[view.Heard]) -> list[view.Listed]:
    """Return the listed members that the inventory does not name and that answer."""
    found = {entry.peer_url: entry for one in seen if one.works for entry in one.listed if entry.started}
    unnamed = [entry for url, entry in found.items() if url not in settings.peers.values()]
    return [entry for entry in unnamed if view.hear(settings, endpoint(entry)).answers]


def endpoint(entry: view.Listed) -> Endpoint:
    """Return where a listed member answers clients."""
    address, _, port = entry.client_url.removeprefix("https://").rpartition(":")
    return Endpoint(entry.name, address.strip("[]"), int(port) if port.isdigit() else 2379)
