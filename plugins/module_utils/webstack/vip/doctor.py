# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The doctor: finds what is wrong with the virtual addresses and the balancers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core import systemd
from ..core.alarm import raise_alarm
from ..core.errors import Problem
from ..core.metrics import Family, publish, render
from ..core.say import say
from ..core.summary import Finding, Summary, document
from .host import SECONDS, Host, flag
from .neighbours import announce, who_answers
from .peers import ask_state


class View(NamedTuple):
    """What one look saw."""

    mac: str
    owned: Sequence[str]
    answers: Mapping[str, set[str]]
    peers: Mapping[str, Mapping[str, Any] | None]
    heard_more: Mapping[str, bool]


KINDS = ("both", "none", "stranger", "peer_silent", "peer_deaf", "peer_unfit")


def judge(view: View, addresses: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the addresses and the peers."""
    found = []
    macs = {answer["mac"]: name for name, answer in view.peers.items() if answer and answer["mac"]}
    for address in addresses:
        others = {name for name, answer in view.peers.items() if answer and address in answer["owns"]}
        seen = view.answers.get(address, set()) - {view.mac}
        others |= {macs[mac] for mac in seen if mac in macs}
        strangers = sorted(seen - macs.keys())
        # If a peer does not tell its MAC, an unknown MAC that answers may be the peer's.
        unknown_peer = any(answer is None or not answer["mac"] for answer in view.peers.values())
        owners = sorted(others) + (["this host"] if address in view.owned else [])
        if unknown_peer and strangers:
            owners.append(f"the host at {strangers.pop(0)}")
        if strangers:
            found.append(Finding("stranger", f"{address}: {', '.join(strangers)} answers for it, which is no balancer"))
        if len(owners) > 1:
            found.append(Finding("both", f"{address}: owned by {' and '.join(owners)}"))
        elif not owners:
            found.append(Finding("none", f"{address}: no host owns it"))
    for name, answer in sorted(view.peers.items()):
        if answer is None:
            found.append(Finding("peer_silent", f"{name}: does not answer"))
        elif answer["unfit"]:
            found.append(Finding("peer_unfit", f"{name}: could not take over: {answer['unfit']}"))
        elif view.owned and not view.heard_more.get(name, True):
            found.append(Finding("peer_deaf", f"{name}: does not hear the advertisements of this host"))
    return found


def look(host: Host) -> View:
    peers = {name: ask_state(host, name) for name in host.peers}
    link = host.link()
    # Waiting for the answers takes half a second. A peer should hear several advertisements in that time.
    answers = {} if host.engine == "hook" else who_answers(host, link)
    again = {name: ask_state(host, name) for name, answer in peers.items() if answer}
    heard_more = {
        name: answer["heard"] is None or answer["heard"] != (peers[name] or {}).get("heard")
        for name, answer in again.items()
        if answer
    }
    return View(link.mac, host.owned(), answers, {**peers, **again}, heard_more)


def findings(host: Host) -> tuple[View, list[Finding]]:
    """Look, and if something is wrong look again: an address that is just moving is no finding."""
    view = look(host)
    found = judge(view, host.addresses)
    if found:
        time.sleep(0.5)
        view = look(host)
        kinds = {(f.what, f.text) for f in found}
        found = [f for f in judge(view, host.addresses) if (f.what, f.text) in kinds]
    return view, found


def metrics(host: Host, view: View, found: Sequence[Finding]) -> str:
    """Return what the doctor saw, as Prometheus reads it."""
    kinds = {finding.what for finding in found}
    owner = Family("owner", "Whether this balancer owns the address.")
    for address in host.addresses:
        owner.add(address in view.owned, address=address)
    finding = Family("finding", "What the doctor finds wrong.")
    for kind in KINDS:
        finding.add(kind in kinds, kind=kind)
    maintenance = Family("maintenance", "Whether this balancer stays out.").add(flag("maintenance"))
    return render("webstack_vip", [owner, finding, maintenance])


def compare(before: Sequence[Finding], now: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return what is new and what is over."""
    return [f for f in now if f not in before], [f for f in before if f not in now]


def doctor_loop(host: Host) -> None:
    known: list[Finding] = []
    while True:
        try:
            view, found = findings(host)
            new, over = compare(known, found)
            for finding in new:
                say(f"found: {finding.text}")
                raise_alarm(host.alarm, "vip", finding.what, finding.text, host.name)
            for finding in over:
                say(f"over: {finding.text}")
                raise_alarm(host.alarm, "vip", "over", finding.text, host.name)
            if any(finding.what in ("both", "stranger", "peer_silent") for finding in over):
                heal(host)
            known = found
            publish(host.metrics_file, metrics(host, view, found))
        except (Problem, OSError) as problem:
            say(f"could not look: {problem}")
        time.sleep(host.doctor_seconds)


def heal(host: Host) -> None:
    """Two balancers owned an address. Others may still send to the wrong one: tell them who owns it now."""
    if not host.owned():
        return
    if host.engine == "hook":
        systemd.tell("restart", "--no-block", "webstack-vip-move.service", seconds=SECONDS)
    else:
        announce(host)
        say("announced the addresses once more")


def status(host: Host, as_json: bool, only_findings: bool = False) -> int:
    """Print who owns what, and what is wrong. The exit code is 1 if anything is."""
    view, found = findings(host)
    if as_json:
        wrong = Summary("", found)
        said: dict[str, Any] = {
            "host": host.name,
            "engine": host.engine,
            "owns": list(view.owned),
            "unfit": host.unfit(),
            "maintenance": flag("maintenance"),
            "connections": host.connections(),
            "peers": view.peers,
        }
        print(json.dumps(document({"vip": wrong}, **said)))
        return int(bool(found))
    if not only_findings:
        for address in host.addresses:
            owners = [n for n, answer in view.peers.items() if answer and address in answer["owns"]]
            owners += [host.name] if address in view.owned else []
            print(f"{address:<24} {' and '.join(owners) or 'nobody'}")
        print(f"{host.name:<24} {host.unfit() or 'could own an address'}")
        for name, answer in view.peers.items():
            print(f"{name:<24} {'does not answer' if answer is None else answer['unfit'] or 'could own an address'}")
    for finding in found:
        print(f"{finding.what}: {finding.text}")
    if not found:
        print("the doctor finds nothing wrong")
    return int(bool(found))
