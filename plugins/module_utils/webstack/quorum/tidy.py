# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a member needs from time to time: a snapshot, and its free space given back."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..core.errors import Problem
from ..core.say import ERROR, say
from . import snapshot, view
from .config import Settings
from .gateway import Gateway
from .store import Store
from .view import Heard

#: Below this size a half-empty file costs nobody anything.
LEAST = 16 * 1024 * 1024
LOCK = "/webstack/quorum/defragment"
#: A defragmentation stops its member for as long as the copy takes; the others go on.
SECONDS = 60
ROOM = 0.8


def tidy(settings: Settings) -> list[str]:
    """Do what is due, and return what was done. What fails keeps nothing else from being done."""
    member = settings.here()
    done: list[str] = []
    wrong: list[Problem] = []
    seen = view.look(settings)
    own = next(one for one in seen if one.endpoint.name == member.name)
    if due(settings) and own.answers:
        try:
            done.append(f"took the snapshot {snapshot.take(settings)}")
        except Problem as problem:
            wrong.append(problem)
    if all(one.works for one in seen) and (wasteful(own) or own.alarms):
        try:
            done += defragment(settings)
        except Problem as problem:
            wrong.append(problem)
    for one_more in wrong[1:]:
        say(str(one_more), ERROR)
    if wrong:
        raise wrong[0]
    return done


def due(settings: Settings) -> bool:
    member = settings.here()
    newest = snapshot.newest(member)
    if not member.snapshot_hours:
        return False
    return newest is None or time.time() - newest.stat().st_mtime >= member.snapshot_hours * 3600


def wasteful(own: Heard) -> bool:
    return own.size >= LEAST and own.used * 2 < own.size


def defragment(settings: Settings) -> list[str]:
    """Give the free space of this member back, one member at a time."""
    member = settings.here()
    gateway = Gateway(settings.endpoints, settings.tls, settings.seconds)
    store = Store(gateway)
    try:
        lease = store.grant(SECONDS * 2)
        try:
            free = store.get(LOCK)
            if free.text is not None or not store.swap(free, member.name, lease).done:
                return []
            gateway.ask(settings.endpoint(member.name), "maintenance/defragment", {}, SECONDS)
            return ["gave free space back", *disarm(settings, gateway, view.look(settings))]
        finally:
            store.revoke(lease)
    finally:
        gateway.close()


def disarm(settings: Settings, gateway: Gateway, seen: Sequence[Heard]) -> list[str]:
    """Take back the alarm of a full store once every member has room again."""
    member = settings.here()
    if not any(one.alarms for one in seen) or any(one.size > member.quota * ROOM or not one.works for one in seen):
        return []
    done = []
    for alarm in gateway.call("maintenance/alarm", {"action": "GET", "alarm": "NOSPACE"}).said.get("alarms") or ():
        if alarm.get("alarm") == "NOSPACE":
            gateway.call("maintenance/alarm", {**alarm, "action": "DEACTIVATE"})
            done.append("took back the alarm of no space")
    return done
