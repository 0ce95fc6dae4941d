# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a change of the cache's ring means, and the steps that lead there. Pure: no Ansible import, no I/O.

`situation` compares the rings that the application servers have with the inventory's; `plan` adds what was counted on
the servers of the cache.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils._cache_configuration import place
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import (
    ALGORITHM,
    DEFAULT_POINTS,
    Ring,
    moved,
)

RING = "ring"
PLAYBOOK = "webstack.ha.resize_cache"
REPAIR = f"run {PLAYBOOK} with -e repair=true, which forgets the keys that the rings place differently"

Shard = dict[str, Any]
Shards = Sequence[Mapping[str, Any]]


# --- the files of the application servers -----------------------------------------------------------


def _node(where: str) -> dict[str, Any]:
    address, _colon, port = where.rpartition(":")
    return {"name": address.strip("[]"), "address": address.strip("[]"), "port": int(port)}


def _shards(section: Mapping[str, Any]) -> list[Shard]:
    weights = section.get("weights") or {}
    return [
        {"name": name, "weight": weights.get(name, 1), "nodes": [_node(where) for where in places]}
        for name, places in section["shards"].items()
    ]


def _ring(shards: Shards, points: int) -> Ring:
    return Ring([(str(shard["name"]), shard.get("weight", 1)) for shard in shards], points)


class Part:
    """A ring with the servers of its shards: the inventory's, or one that a file has."""

    def __init__(self, shards: Shards, points: int) -> None:
        self.shards = [{"name": s["name"], "weight": s.get("weight", 1), "nodes": list(s["nodes"])} for s in shards]
        self.ring = _ring(shards, points)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Part:
        return cls(_shards(section), section.get("points", DEFAULT_POINTS))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.ring.fingerprint == other.ring.fingerprint

    def __hash__(self) -> int:
        return hash(self.ring.fingerprint)

    def __str__(self) -> str:
        names = [f"{name} x{weight}" if weight > 1 else name for name, weight in self.ring.weights.items()]
        points = "" if self.ring.points == DEFAULT_POINTS else f" with {self.ring.points} points"
        return f"{', '.join(names)}{points} ({self.ring.fingerprint})"

    @property
    def order(self) -> dict[str, Any]:
        """What `webstack cache sweep` and `webstack cache census` take."""
        return {"points": self.ring.points, "weights": self.ring.weights}

    def as_dict(self) -> dict[str, Any]:
        """As the filter `ring` gives it, with the shards and their servers."""
        return {
            "algorithm": ALGORITHM,
            "nodes": [{"name": name, "weight": weight} for name, weight in self.ring.weights.items()],
            "fingerprint": self.ring.fingerprint,
            "shards": self.shards,
            **self.order,
        }


def situation(
    files: Mapping[str, Mapping[str, Any] | None],
    shards: Shards,
    points: int = DEFAULT_POINTS,
    *,
    hosts: Sequence[str] = (),
    absent: Sequence[str] = (),
    repair: bool = False,
    abort: bool = False,
) -> dict[str, Any]:
    """Return which ring is in use, which is wanted, and which steps lie between them.

    `files`: content of each application server's file, empty where there is none, None where the server did not answer.
    `hosts`: all application servers; of those that did not answer `absent` are gone for good. `abort`: back to the ring
    that was in use before.

    The phases: first (no server has a ring), settled, change (no server has more than an announcement of it),
    switching (some servers have the new ring already), divided (servers of two rings, and no step leads there).
    """
    rings, refused = _read(files)
    wanted = Part(shards, points)
    steps: dict[str, Any] = {
        "announce": False,
        "switch": False,
        "sweep_before": [],
        "sweep_between": [],
        "sweep_after": [wanted.order],
    }
    result: dict[str, Any] = {
        "phase": "first",
        "old": wanted.as_dict(),
        "new": wanted.as_dict(),
        "hosts": sorted(rings),
        "steps": steps,
        "refused": refused,
        "hindrances": [],
        "notes": [],
    }
    if missing := sorted(host for host in {*files, *hosts} if files.get(host) is None and host not in absent):
        result["hindrances"].append(
            f"{', '.join(missing)}: no answer, or left out by --limit. Every application server must get the new ring: "
            "one that comes back with the old one reads and leaves stale values. Name it with -e absent=HOST if it is "
            "gone for good"
        )
    if bare := sorted(host for host, content in files.items() if content == {}):
        result["notes"].append(f"{', '.join(bare)}: no ring yet; webstack.ha.site brings it")
    if refused or not rings:
        return result

    currents = list(dict.fromkeys(current for current, _following in rings.values()))
    pending = {(current, following) for current, following in rings.values() if following}
    there = {current for current, following in rings.values() if not following}
    switching = len(pending) == 1 and there == {following for _current, following in pending}
    old = next(iter(pending))[0] if switching else currents[0]
    other = next((current for current in currents if current != old), None)
    if abort:
        if not pending:
            refused.append("there is nothing to abort: no application server has a change announced")
            return result
        wanted = old
        steps["sweep_after"] = [wanted.order]
        result["new"] = wanted.as_dict()

    if len(currents) > 2 or (other and wanted not in currents):
        refused.append(
            f"the application servers do not have one ring: {_who_has_what(rings)}. Make the inventory equal to one of "
            f"two that are in use, then {REPAIR}"
        )
    elif other is None:
        different = wanted != old
        result["phase"] = "change" if different or pending else "settled"
        steps.update(announce=different, switch=different or bool(pending))
        steps["sweep_before"] = [old.order] if different else []
        if any(following != wanted for _current, following in pending):
            result["notes"].append("an announced change is taken back" if not different else "another announced change")
    elif switching and wanted == other:
        result["phase"] = "switching"
        steps["switch"] = True
        result["notes"].append("an earlier run was interrupted while it switched; this one finishes it")
    else:
        # Both rings are in use. Nothing stale is left behind when all servers store none of the keys that the two place
        # differently, and the copies that there are go meanwhile.
        result["phase"] = "divided"
        old = other if wanted == old else old
        steps.update(announce=True, switch=True, sweep_between=[old.order, wanted.order])
        if not (repair or abort):
            refused.append(
                f"the application servers have two rings: {_who_has_what(rings)}. If one has come back that was away "
                f"during a change: take it out of service, then {REPAIR}"
            )
    result["old"] = old.as_dict()
    return result


def _read(files: Mapping[str, Mapping[str, Any] | None]) -> tuple[dict[str, tuple[Part, Part | None]], list[str]]:
    rings: dict[str, tuple[Part, Part | None]] = {}
    refused: list[str] = []
    for host, content in sorted(files.items()):
        if not content:
            continue
        engine = content.get("engine", RING)
        if engine != RING or content.get("algorithm") != ALGORITHM:
            refused.append(f"{host} uses the cache as {engine} ({content.get('algorithm')}), not as ring ({ALGORITHM})")
            continue
        try:
            following = content.get("next")
            rings[host] = (Part.of(content), Part.of(following) if following else None)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            refused.append(f"the ring of {host} cannot be understood: {error!r}")
    return rings, refused


def _who_has_what(rings: Mapping[str, tuple[Part, Part | None]]) -> str:
    said: dict[str, list[str]] = {}
    for host, (current, following) in sorted(rings.items()):
        said.setdefault(f"{current}{f', announced {following}' if following else ''}", []).append(host)
    return "; ".join(f"{', '.join(hosts)}: {ring}" for ring, hosts in said.items())


# --- what was counted -------------------------------------------------------------------------------


def _rate(hits: float, reads: float) -> float | None:
    return hits / reads if reads else None


def _count(value: float) -> int:
    return math.floor(value + 0.5)


def size(text: Any) -> int:
    """Bytes of a size as Redis writes it; 0 where it is none."""
    parts = re.fullmatch(r"(\d+)(b|k|kb|m|mb|g|gb)?", str(text).strip().lower())
    units = {None: 1, "b": 1, "k": 10**3, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}
    return int(parts[1]) * units[parts[2]] if parts else 0


class Census:
    """What the masters counted, put together."""

    def __init__(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        self.shards: dict[str, Mapping[str, Any]] = {}
        self.listed: dict[str, list[Mapping[str, Any]]] = {}
        self.maximum: dict[str, int] = {}
        for host, answer in answers.items():
            self.shards.update(answer.get("shards") or {})
            self.listed.update(answer.get("listed") or {})
            self.maximum[host] = size(answer.get("maximum", "0"))

    def part(self, source: str, target: str) -> float:
        """Part of a shard's keys that has this owner under the new ring."""
        owners = self.shards[source]["owners"]
        total = sum(owners.values())
        return owners.get(target, 0) / total if total else float(source == target)

    def arriving(self, target: str, figure: str) -> float:
        """A figure that follows the keys, as this shard will have it."""
        return sum(self.shards[source][figure] * self.part(source, target) for source in self.shards)

    def total(self, figure: str) -> float:
        return sum(shard[figure] for shard in self.shards.values())


def plan(
    found: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Any] | None],
    *,
    addresses: Mapping[str, str] | None = None,
    members: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the plan: figures per shard, where servers start and stop, and what is to be said about it.

    `found`: what `situation` returned. `answers`: what `webstack cache census` says on each host, and as `maximum` what
    a server there may use by the inventory; None where the host does not answer. `addresses`: inventory name of each
    address. `members`: hosts that belong to the cache by the inventory.
    """
    addresses = addresses or {}
    heard = {host: answer for host, answer in answers.items() if answer is not None}
    old, new = found["old"], found["new"]
    census = Census(heard)
    before, after = _ring(old["shards"], old["points"]), _ring(new["shards"], new["points"])
    move = moved(before, after)
    names = sorted({*before.names, *after.names})
    homes = {str(shard["name"]): addresses.get(str(shard["nodes"][0]["address"]), "") for shard in new["shards"]}
    fixed = [shard["fixed"] for shard in census.shards.values()]
    figures: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    shares = (before.shares(), after.shares())
    for name in names:
        rows[name] = {
            "share": float(shares[0].get(name, 0)),
            "share_after": float(shares[1].get(name, 0)),
            "gained": float(move.shards[name].gained),
            "lost": float(move.shards[name].lost),
        }
        figures[name] = {}
        counted = census.shards.get(name)
        if counted:
            figures[name] |= {
                "keys": counted["keys"],
                "memory": counted["memory"],
                "maxmemory": counted["maxmemory"],
                "hit_rate": _rate(counted["hits"], counted["hits"] + counted["misses"]),
            }
            rows[name] |= {
                "sampled": sum(counted["owners"].values()),
                "strays": counted["strays"],
                "keys_out": _count(counted["keys"] * (1 - census.part(name, name))),
            }
        if name in after.names and census.shards:
            limit = counted["maxmemory"] if counted else census.maximum.get(homes[name], 0)
            base = counted["fixed"] if counted else sum(fixed) / len(fixed)
            kept = counted["hits"] * census.part(name, name) if counted else 0
            figures[name] |= {
                "keys_after": _count(census.arriving(name, "keys")),
                "memory_after": _count(base + census.arriving(name, "data")),
                "maxmemory": limit,
                "hit_rate_after": _rate(kept, census.arriving(name, "hits") + census.arriving(name, "misses")),
            }
            rows[name]["keys_in"] = figures[name]["keys_after"] - (
                counted["keys"] - rows[name]["keys_out"] if counted else 0
            )
            if limit and figures[name]["memory_after"] > limit:
                warnings.append(
                    f"{name} would need {_bytes(figures[name]['memory_after'])} of its {_bytes(limit)}: keys would be "
                    "evicted, so the hit rate would stay lower than it is"
                )
        figures[name] = {key: value for key, value in figures[name].items() if value is not None}
    for name in before.names:
        if name not in census.shards:
            warnings.append(f"{name}: its master was not counted; its keys are missing in the figures")
    places = _Places(old["shards"], new["shards"], census.listed, addresses, set(heard))
    leaving = sorted(host for host, answer in heard.items() if answer.get("placed") and host not in members)
    hindrances, notes = list(found["hindrances"]), [*found["notes"], *places.notes()]
    if missing := sorted(set(members) - set(heard)):
        hindrances.append(
            f"{', '.join(missing)}: no answer. A host of the cache must be up, or leave the inventory's list"
        )
    if leaving:
        notes.append(f"{', '.join(leaving)}: no server of the cache is left there afterwards")
    totals = _totals(census, float(move.moved), names)
    result = {
        "phase": found["phase"],
        "steps": found["steps"],
        "hosts": found["hosts"],
        "members": sorted(set(members)),
        "old": dict(old),
        "new": dict(new),
        "shards": {name: rows[name] | figures[name] for name in names},
        "total": totals,
        "servers": places.changes,
        "leaving": leaving,
        "gone": places.gone,
        "transition": places.transition,
        # The old ring with the servers that its shards have while the new ring is announced.
        "announced": [shard | {"nodes": places.now.get(shard["name"], shard["nodes"])} for shard in old["shards"]],
        "warnings": warnings,
        "hindrances": hindrances,
        "notes": notes,
    }
    return result | {"figures": figures, "words": _words(result)}


def _totals(census: Census, share: float, names: Sequence[str]) -> dict[str, Any]:
    hits, reads = census.total("hits"), census.total("hits") + census.total("misses")
    keys = census.total("keys")
    kept_keys = sum(shard["keys"] * census.part(name, name) for name, shard in census.shards.items())
    kept_hits = sum(shard["hits"] * census.part(name, name) for name, shard in census.shards.items())
    pace = census.total("reads_per_second")
    moving = 1 - kept_keys / keys if keys else share
    return {
        "moved": share,
        "keys": keys,
        "keys_moved": _count(keys - kept_keys),
        "keys_moved_share": moving,
        "strays": census.total("strays"),
        "hit_rate": _rate(hits, reads),
        "hit_rate_after": _rate(kept_hits, reads),
        "reads_per_second": pace,
        # Reads spread evenly: a key is read after `keys / pace` seconds on average, and is back then.
        "half_recovered_seconds": math.log(2) * keys / pace if pace and keys else None,
    }


# --- where servers start and stop -------------------------------------------------------------------


class _Places:
    def __init__(
        self,
        old: Shards,
        new: Shards,
        listed: Mapping[str, Sequence[Mapping[str, Any]]],
        addresses: Mapping[str, str],
        alive: set[str],
    ) -> None:
        self._names = addresses
        before = {str(shard["name"]): shard for shard in old}
        # What an interrupted run left on the servers is listed there only.
        for name, nodes in listed.items():
            before.setdefault(name, {"name": name, "weight": 1, "nodes": nodes})
        after = {str(shard["name"]): shard for shard in new}
        self._nodes = [node for shard in before.values() for node in shard["nodes"]]
        taken = {place(node) for shard in new for node in shard["nodes"]}
        self.gone = [name for name in before if name not in after]
        self.transition = [dict(shard) for shard in new]
        for name in self.gone:
            nodes = [
                {**node, "name": self._host(node)}
                for node in before[name]["nodes"]
                if place(node) not in taken and self._host(node) in alive
            ]
            if nodes:
                self.transition.append({**before[name], "nodes": nodes})
        self.now = {shard["name"]: shard["nodes"] for shard in self.transition}
        self.changes = self._changes(before, after)

    def _host(self, node: Mapping[str, Any]) -> str:
        return self._names.get(str(node["address"]), str(node["address"]))

    def _changes(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        said = []
        for name in [*after, *self.gone]:
            was = {place(node): self._host(node) for node in before.get(name, {"nodes": []})["nodes"]}
            will = {place(node): self._host(node) for node in after.get(name, {"nodes": []})["nodes"]}
            stops = [f"{was[where]} ({where})" for where in was if where not in will]
            starts = [f"{will[where]} ({where})" for where in will if where not in was]
            if stops and starts:
                said.append(f"{name} moves from {' and '.join(stops)} to {' and '.join(starts)}")
            elif starts:
                said.append(f"{name} starts on {' and '.join(starts)}")
            elif stops:
                said.append(f"{name} stops on {' and '.join(stops)}")
        return said

    def notes(self) -> list[str]:
        said = [f"what only {name} holds is lost: it is a cache" for name in self.gone]
        unknown = sorted({str(node["address"]) for node in self._nodes} - set(self._names))
        if unknown:
            said.append(
                f"{', '.join(unknown)}: no host of the inventory has this address, so its servers are not stopped; "
                "leave a host that still runs in the inventory, outside of the group redis, until the change is done"
            )
        return said


# --- in words ---------------------------------------------------------------------------------------


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _seconds(number: float) -> str:
    if number < 120:
        return f"{number:.0f} s"
    return f"{number / 60:.0f} min" if number < 7200 else f"{number / 3600:.1f} h"


def _percent(part: float | None) -> str:
    return "unknown" if part is None else f"{100 * part:.1f} %"


def _words(result: Mapping[str, Any]) -> list[str]:
    total = result["total"]
    lines = []
    if result["phase"] == "first":
        lines.append("No application server has a ring yet: webstack.ha.site brings the first one.")
    elif result["phase"] == "settled":
        rest = total["strays"] or result["leaving"]
        lines.append(f"{'' if rest else 'Nothing to do: '}all application servers have the inventory's ring.")
    else:
        lines.append(
            f"Moves {_percent(total['moved'])} of the ring; of {total['keys']:,} keys now, {total['keys_moved']:,} "
            f"({_percent(total['keys_moved_share'])}) are misses until they are loaded again."
        )
        if total["hit_rate"] is not None:
            lines.append(
                "Hit rate: now since the servers started; after the change when every moved key is a miss and reads "
                "are spread over the keys of a shard evenly."
            )
        half = total["half_recovered_seconds"]
        lines.append(
            f"At {total['reads_per_second']:.0f} reads a second half of the loss is made good after {_seconds(half)}, "
            f"95 % after {_seconds(half * math.log(20) / math.log(2))}; sooner where some keys are read more often."
            if half
            else "Nothing is read now, so how fast the rate recovers cannot be said."
        )
    if total["strays"]:
        lines.append(
            f"{total['strays']:,} of the keys looked at lie where no application server looks for them: an earlier "
            "change was not finished, the sweep removes them."
        )
    lines += [f"Servers: {change}." for change in result["servers"]]
    lines += [f"Note: {note}." for note in result["notes"]]
    lines += [f"WARNING: {warning}." for warning in result["warnings"]]
    lines += [f"-e confirm=true would be refused. {hindrance}." for hindrance in result["hindrances"]]
    return lines
