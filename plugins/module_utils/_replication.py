# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What has to happen to a pair of MariaDB servers, computed from what the servers say. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

State = Mapping[str, Any]


@dataclass
class Plan:
    """Steps in the order in which they are taken; `refused` instead of them when a person has to decide."""

    refused: str = ""
    primary: str = ""
    primary_answers: bool = False
    settled: bool = False
    start: list[str] = field(default_factory=list)
    time_zones: list[str] = field(default_factory=list)
    apply: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    bootstrap: str = ""
    seed: str = ""
    relink: list[str] = field(default_factory=list)
    resume: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[str]:
        """The plan in words."""
        words = [f"start {n}" for n in self.start]
        words += [f"apply settings on {n}" for n in self.apply]
        words += [f"restart {n}" for n in self.restart]
        words += [f"bootstrap {self.bootstrap}"] if self.bootstrap else []
        words += [f"load the time zones on {n}" for n in self.time_zones]
        words += [f"link {n} again" for n in self.relink]
        words += [f"resume {n}" for n in self.resume]
        words += [f"seed {self.seed} from {self.primary or self.bootstrap}"] if self.seed else []
        return words

    def as_dict(self) -> dict[str, Any]:
        changes = bool(self.apply or self.restart or self.bootstrap or self.time_zones)
        links = bool(self.relink or self.resume or self.seed)
        # Nobody restarts the primary before the replica has shown that it can start.
        in_turn = sorted([*self.apply, *self.restart], key=lambda name: name == self.primary)
        return {**asdict(self), "steps": self.steps, "changes": changes, "links": links, "in_turn": in_turn}


def _linked(state: State) -> bool:
    return bool(state.get("has_source"))


def _link(state: State) -> Mapping[str, Any]:
    return state.get("replica") or {}


def parse_gtid(position: str) -> dict[tuple[int, int], int]:
    """`0-1-55,0-2-60` -> {(0, 1): 55, (0, 2): 60}."""
    found: dict[tuple[int, int], int] = {}
    for item in filter(None, (part.strip() for part in (position or "").split(","))):
        try:
            domain, server, sequence = (int(n) for n in item.split("-"))
        except ValueError:
            raise ValueError(f"{item!r} is no GTID") from None
        found[(domain, server)] = max(found.get((domain, server), 0), sequence)
    return found


def errant(own_state: str, own_position: str, primary_state: str, primary_position: str) -> list[str]:
    """GTIDs of a replica that its primary never had. The replica has to be asked before the primary."""
    primary = parse_gtid(primary_state)
    ahead: dict[int, int] = {}
    for (domain, _server), sequence in [*parse_gtid(primary_position).items(), *primary.items()]:
        ahead[domain] = max(ahead.get(domain, 0), sequence)
    wrong = set()
    for (domain, server), sequence in {**parse_gtid(own_position), **parse_gtid(own_state)}.items():
        newest = ahead.get(domain, 0)
        # Above everything that the primary has, or another continuation of a history that it knows better.
        if sequence > newest or 0 < primary.get((domain, server), sequence) < sequence:
            wrong.add((domain, server, sequence))
    return ["-".join(str(n) for n in item) for item in sorted(wrong)]


def plan(
    nodes: Sequence[Mapping[str, Any]],
    states: Mapping[str, State],
    initial_primary: str,
    reseed: bool = False,
    reseed_node: str = "",
) -> Plan:
    """What to do.

    `states` holds what each host said about itself: {} or absent for a host that did not answer,
    {"configured": False} for one where the role has not been yet.
    """
    names = [str(n["name"]) for n in nodes]
    by_address = {str(n["address"]): str(n["name"]) for n in nodes}
    known = {n: states.get(n) or {} for n in names}
    for wanted, variable in ((initial_primary, "mysql_replication_initial_primary"), (reseed_node, "host")):
        if wanted and wanted not in names:
            return Plan(refused=f"{variable} is {wanted!r}; the database hosts are {', '.join(names)}")
    ready = {n: s for n, s in known.items() if s.get("configured")}
    if reseed_node:
        refused = _refuse_reseed(reseed_node, names, known)
        if refused:
            return Plan(refused=refused)
        if not ready[reseed_node]["running"]:
            # Whatever it was: it gets the data of the other one.
            del ready[reseed_node]
    result = Plan()
    result.notes += [f"{n} does not answer" for n in names if not known[n]]
    result.start = [n for n, s in ready.items() if not s["running"] or not _units_fine(s)]
    if any(not s["running"] for s in ready.values()):
        # What a server is, only a running server says.
        return result

    refused = _refuse_ids(ready) or _refuse_writers(ready)
    if refused:
        return Plan(refused=refused)
    result.primary, result.bootstrap, refused = _find_primary(names, known, ready, by_address, initial_primary)
    if refused:
        return Plan(refused=refused)
    if reseed_node and reseed_node == result.primary:
        return Plan(refused=f"{reseed_node} is the primary: a primary is never seeded")

    for name in sorted(ready, key=lambda n: n == result.primary):
        waiting = ready[name].get("pending") or {}
        if waiting.get("restart"):
            result.restart.append(name)
        elif waiting.get("set") or waiting.get("tls"):
            result.apply.append(name)
    primary = result.primary or result.bootstrap
    if not primary:
        return result
    refused = _cannot_write(primary, ready.get(primary))
    if refused:
        return Plan(refused=refused)
    for name, state in ready.items():
        if name != primary:
            refused = _plan_replica(result, name, state, primary, by_address, reseed=reseed, reseed_node=reseed_node)
            if refused:
                return Plan(refused=refused)
    if reseed_node:
        result.seed = reseed_node
        if ready[primary]["read_only"]:
            return Plan(
                refused=f"{primary} is the primary and read-only, so nobody can be seeded from it. If it waits for"
                f" {reseed_node}, 'webstack db promote --force' on {primary} opens it; then run again"
            )
    # A seed brings those of the primary.
    result.time_zones = [n for n, s in ready.items() if n != result.seed and s.get("time_zones_current") is False]
    result.notes += [why for n, s in ready.items() if n != primary and (why := _cannot_write(n, s))]
    if result.primary in ready and ready[primary]["read_only"]:
        result.notes.append(f"{primary} is the primary and read-only")
    result.primary_answers = result.primary in ready
    # The next run of the role loads time zones; who is what does not hang on them.
    left = [step for step in result.steps if not step.startswith("load the time zones")]
    result.settled = not left and all(
        _link(s)["io"] and _link(s)["sql"] if n != primary else not s["read_only"] for n, s in ready.items()
    )
    return result


def _refuse_reseed(node: str, names: Sequence[str], known: Mapping[str, State]) -> str:
    """What is in the way of seeding one named replica, whatever state that is in."""
    others = [n for n in names if n != node]
    if not others:
        return (
            f"{node} is the only database host of this site: there is nobody to seed it from; a backup can be restored"
        )
    if known[node].get("running") and not known[node]["read_only"] and not _linked(known[node]):
        return f"{node} is the primary: a primary is never seeded"
    if not known[node]:
        return f"{node} does not answer: the host has to be up; its MariaDB need not run"
    if not known[node].get("configured"):
        return f"nothing is installed on {node} yet: run the playbook site or database, which seeds it"
    for other in others:
        if not known[other]:
            return (
                f"{other} does not answer, and {node} is seeded from there. Bring it up first; if it is lost for good,"
                f" 'webstack db promote --force' makes {node} the primary"
            )
        if not known[other].get("configured"):
            return (
                f"nothing is installed on {other}, so {node} cannot be seeded from there: run the playbook site first"
            )
        if not known[other]["running"]:
            return (
                f"MariaDB does not run on {other}, and {node} is seeded from there: start it first (systemctl start"
                f" mariadb; journalctl -u mariadb says why it does not)"
            )
    return ""


def _cannot_write(name: str, state: State | None) -> str:
    """Why a server that runs does not get its writes to the disk, or empty."""
    disk = (state or {}).get("disk") or {}
    return f"{name} cannot write: {disk['problem']}" if disk.get("problem") else ""


def _units_fine(state: State) -> bool:
    units = state.get("units") or {}
    return all(unit["active"] and unit["enabled"] for unit in units.values())


def _refuse_ids(ready: Mapping[str, State]) -> str:
    seen: dict[int, str] = {}
    for name, state in ready.items():
        number = state["server_id_wanted"]
        if number in seen:
            return f"{seen[number]} and {name} both have the server id {number} (mysql_replication_server_id)"
        seen[number] = name
    return ""


def _refuse_writers(ready: Mapping[str, State]) -> str:
    writers = [n for n, s in ready.items() if not s["read_only"]]
    for name in writers:
        if _linked(ready[name]):
            return (
                f"{name} replicates from {_link(ready[name])['source']} and accepts writes:"
                " SET GLOBAL read_only = 1 there, or end its replication if it is the primary"
            )
    if len(writers) > 1:
        return (
            f"{' and '.join(writers)} both accept writes. Decide whose data counts, SET GLOBAL read_only = 1 on the"
            " other one, and seed it again with mysql_replication_reseed: true"
        )
    return ""


def _find_primary(
    names: Sequence[str],
    known: Mapping[str, State],
    ready: Mapping[str, State],
    by_address: Mapping[str, str],
    initial: str,
) -> tuple[str, str, str]:
    """(primary, host to bootstrap, refusal)"""
    writers = [n for n, s in ready.items() if not s["read_only"]]
    if writers:
        return writers[0], "", ""
    sources = {n: by_address.get(_link(s)["source"], _link(s)["source"]) for n, s in ready.items() if _linked(s)}
    if len(sources) > 1:
        return "", "", f"{' and '.join(sources)} both replicate and neither accepts writes: nobody is the primary"
    for replica, source in sources.items():
        if source not in names:
            return "", "", f"{replica} replicates from {source}, which is none of {', '.join(names)}"
        if source not in ready:
            # A dead or bare primary is no reason to make another one.
            if known[source]:
                return (
                    "",
                    "",
                    (
                        f"{replica} replicates from {source}, where nothing is installed. Make {replica} the primary"
                        f" ('webstack db promote --force' there) and run again to seed {source}"
                    ),
                )
            return source, "", ""
        if ready[source].get("marker"):
            return source, "", ""
        if not ready[source].get("schemas"):
            return (
                "",
                "",
                (
                    f"{replica} replicates from {source}, which is empty. Make {replica} the primary"
                    f" ('webstack db promote --force' there) and run again to seed {source}"
                ),
            )
        return (
            "",
            "",
            (
                f"{replica} replicates from {source}, which is read-only and was not the primary before."
                f" 'webstack db promote' on {source} makes it one"
            ),
        )
    marked = [n for n, s in ready.items() if s.get("marker")]
    with_data = [n for n, s in ready.items() if s.get("schemas")]
    absent = [n for n in names if not known[n]]
    if len(marked) == 1 and not absent and set(with_data) <= set(marked):
        return marked[0], "", ""
    if len(with_data) > 1 or len(marked) > 1:
        return (
            "",
            "",
            (
                f"{' and '.join(with_data or marked)} hold data, none accepts writes and none replicates: nobody is the"
                " primary. 'webstack db promote --force' on the right one, then run again"
            ),
        )
    if absent:
        return "", "", f"no primary among the hosts that answer, and {', '.join(absent)} cannot be asked"
    if with_data:
        # A server with data that came before the role: its data is the site's data.
        return "", with_data[0], ""
    return "", initial if initial in ready else "", ""


def _plan_replica(
    result: Plan,
    name: str,
    state: State,
    primary: str,
    by_address: Mapping[str, str],
    *,
    reseed: bool,
    reseed_node: str,
) -> str:
    """Add the steps for one replica; return a refusal."""
    if name == reseed_node:
        result.seed = name
        return ""
    again = f"To move its data aside and seed it again from {primary}: mysql_replication_reseed: true"
    if not _linked(state):
        if state.get("schemas") and not reseed:
            return f"{name} holds data ({', '.join(state['schemas'][:5])}) and replicates from nobody. {again}"
        result.seed = name
        return ""
    link = _link(state)
    source = by_address.get(link["source"], link["source"])
    if source != primary:
        return f"{name} replicates from {source}, but the primary is {primary}"
    peer = state.get("peer") or {}
    if peer.get("reachable") and peer.get("name") == primary:
        wrong = errant(state["gtid_binlog_state"], state["gtid"], peer["gtid_binlog_state"], peer.get("gtid") or "")
        if wrong:
            if not reseed:
                return f"{name} has transactions that {primary} never had ({', '.join(wrong)}). {again}"
            result.seed = name
            return ""
    if not state.get("link_current", True):
        result.relink.append(name)
    elif not link["sql"] or link.get("io_state", "Yes") == "No":
        if not link["error"]:
            result.resume.append(name)
        elif reseed:
            result.seed = name
        else:
            return f"replication on {name} stopped with error {link['error']}. {again}"
    elif not link["io"] and not result.restart:
        result.notes.append(f"{name} is not connected to {primary}: {link['error'] or 'connecting'}")
    return ""
