# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the quorum works, and what is wrong with it and with this host's part of it."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Sequence

from ..core import files, metrics
from ..core.errors import DEGRADED, FAILED, GOOD
from ..core.summary import Finding, Summary, document
from ..core.table import age, size, table
from ..pure import certificate
from . import snapshot, view
from .config import Settings
from .settle import outdated
from .view import Heard

#: A certificate is renewed by the role thirty days before its end.
CERTIFICATE_DAYS = 14
FULL = 0.8


def summary_of(settings: Settings, seen: Sequence[Heard]) -> Summary:
    """Return one line, and what is wrong."""
    working = [one for one in seen if one.works]
    leader = next((one.endpoint.name for one in working if one.id == one.leader), "")
    own = settings.member.name if settings.member else "no member"
    if working:
        line = f"{own}, {len(working)} of {len(seen)} members work, {leader or 'another one'} leads"
    else:
        line = f"{own}, the quorum does not work"
    found = Summary(line)
    found.findings += findings(settings, seen)
    return found


def findings(settings: Settings, seen: Sequence[Heard]) -> Iterator[Finding]:
    """Say what is wrong."""
    working = [one for one in seen if one.works]
    if not working:
        yield Finding("no_quorum", "no member knows a leader: nobody can change or read what the store holds")
    for one in seen:
        if not one.answers:
            yield Finding("member_away", f"{one.endpoint} does not answer: {one.problem}")
        elif not one.works and working:
            yield Finding("member_alone", f"{one.endpoint} knows no leader: it is cut off from the others")
        for alarm in one.alarms:
            yield Finding("alarm", f"{one.endpoint}: {alarm}")
    if len({one.cluster for one in seen if one.answers}) > 1:
        stores = ", ".join(f"{one.endpoint.name} {one.cluster}" for one in seen if one.answers)
        yield Finding("two_stores", f"members belong to different stores: {stores}")
    if working:
        listed = {entry.peer_url: entry for entry in working[0].listed}
        for name, url in settings.peers.items():
            if url not in listed:
                yield Finding("not_listed", f"{name} is not in the list of members: run the role quorum on it")
        for url, entry in listed.items():
            if url not in settings.peers.values():
                text = f"{entry.name or url} is a member that the inventory does not name: stop it there (systemctl"
                more = "disable --now webstack-quorum); the role quorum puts a new host in its place"
                yield Finding("stranger", f"{text} {more}")
    yield from here(settings, seen)


def here(settings: Settings, seen: Sequence[Heard]) -> Iterator[Finding]:
    """Say what is wrong with this host's part."""
    if problem := certificate_ends(settings.tls.certificate):
        yield Finding("certificate", problem)
    member = settings.member
    if member is None:
        return
    own = next((one for one in seen if one.endpoint.name == member.name), None)
    if own and not own.answers and not member.has_data():
        text = f"{member.data} has no data, so the member of this host does not start: mount the disk that has them, or"
        yield Finding("no_data", f"{text} run the role quorum")
    if own and own.used > member.quota * FULL:
        yield Finding(
            "space", f"{size(own.used)} of {size(member.quota)} are used: at the limit nothing can be written"
        )
    if own and own.answers and outdated(member):
        yield Finding("restart_due", "the member was started with other files than there are now: run the role quorum")
    newest = snapshot.newest(member)
    limit = member.snapshot_hours * 7200
    if member.snapshot_hours and newest is not None and time.time() - newest.stat().st_mtime > limit:
        old = age(time.time() - newest.stat().st_mtime)
        yield Finding("snapshot", f"the newest snapshot is {old} old: look at systemctl status webstack-quorum-tidy")


def certificate_ends(path: str) -> str:
    """Say when a certificate ends soon, or cannot be read."""
    text = files.read(path)
    try:
        (own, *_) = certificate.certificates(text or "")
    except ValueError:
        return f"{path} holds no certificate: run the role quorum"
    left = certificate.valid_until(own) - datetime.datetime.now(datetime.UTC)
    return f"{path} ends in {max(left.days, 0)} days: run the role quorum" if left.days < CERTIFICATE_DAYS else ""


def show(settings: Settings, as_json: bool) -> int:
    """Print it. The exit code: 0 good, 1 when this member does not work, 2 when anything else is wrong."""
    seen = view.look(settings)
    summary = summary_of(settings, seen)
    if as_json:
        print(json.dumps(document({"quorum": summary}, members=[shown(one) for one in seen])))
    else:
        rows = [("MEMBER", "ADDRESS", "STATE", "VERSION", "DATA")]
        rows += [
            (one.endpoint.name, f"{one.endpoint.address}:{one.endpoint.port}", state(one), one.version, _size(one))
            for one in seen
        ]
        print("\n".join([summary.line, table(rows), *(f"! {finding.text}" for finding in summary.findings)]))
    if not well(settings, seen):
        return FAILED
    return DEGRADED if summary.findings else GOOD


def well(settings: Settings, seen: Sequence[Heard]) -> bool:
    """Say whether the member of this host works; on another host, whether any does."""
    own = settings.member.name if settings.member else ""
    return any(one.works for one in seen if own in ("", one.endpoint.name))


def state(one: Heard) -> str:
    if not one.answers:
        return "away"
    if not one.works:
        return "alone"
    return "leads" if one.id == one.leader else "follows"


def _size(one: Heard) -> str:
    return size(one.size) if one.answers else ""


def shown(one: Heard) -> dict[str, object]:
    return {
        "name": one.endpoint.name,
        "address": one.endpoint.address,
        "state": state(one),
        "problem": one.problem,
        "id": one.id,
        "store": one.cluster,
        "version": one.version,
        "bytes": one.size,
        "bytes_used": one.used,
    }


def own_metrics(settings: Settings, seen: Sequence[Heard]) -> str:
    """Return what this host sees of each member, and the age of its own snapshots."""
    up = metrics.Family("member_up", "Whether a member works, as this host sees it.")
    leads = metrics.Family("member_leads", "Whether a member leads.")
    space = metrics.Family("bytes", "Size of a member's data on its disk.")
    used = metrics.Family("bytes_used", "What of it is in use.")
    taken = metrics.Family("snapshot_timestamp_seconds", "When the newest snapshot was taken.")
    for one in seen:
        up.add(one.works, member=one.endpoint.name)
        leads.add(one.works and one.id == one.leader, member=one.endpoint.name)
        if one.answers:
            space.add(one.size, member=one.endpoint.name)
            used.add(one.used, member=one.endpoint.name)
    newest = snapshot.newest(settings.member) if settings.member else None
    if newest is not None:
        taken.add(newest.stat().st_mtime)
    return metrics.render("webstack_quorum", [up, leads, space, used, taken])
