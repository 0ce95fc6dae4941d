# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the shards of the cache, their sentinels and the members of the quorum live.

Pure: no Ansible import, no I/O. Errors are ValueError and name the host and the variable.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ADDRESS_VARIABLE = "webstack_address"
SENTINEL_GROUP = "sentinel"
FALLBACK_GROUPS = ("redis", "lb", "was", "db")
SENTINEL_COUNT = 3
QUORUM_GROUP = "quorum"
RING, CLUSTER, SINGLE = "ring", "redis_cluster", "single"
ENGINES = (RING, CLUSTER, SINGLE)
# A Redis Cluster elects a new primary by the majority of its primaries.
CLUSTER_HOSTS = 3
HIGHEST_PORT = 65535
NAME_VARIABLE = "redis_shard_name"
WEIGHT_VARIABLE = "redis_shard_weight"
# What the ring, a systemd unit, a file name and Sentinel all take without quoting.
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
SHARD_NAME_WORDS = "letters, digits, '_', '-' and '.', beginning with a letter or digit"


def addresses(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the address of each host, in the order of hosts; refuse missing and shared ones."""
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for host in hosts:
        if host in found:
            raise ValueError(f"host '{host}' is listed twice")
        if host not in hostvars:
            raise ValueError(f"host '{host}' is not in the inventory")
        address = hostvars[host].get(ADDRESS_VARIABLE)
        if not isinstance(address, str) or not address.strip():
            raise ValueError(f"host '{host}' has no {ADDRESS_VARIABLE}")
        if address in owner:
            raise ValueError(f"hosts '{owner[address]}' and '{host}' have the same {ADDRESS_VARIABLE}: {address}")
        found[host] = str(address)
        owner[address] = host
    return found


def _port(port: Any, count: int) -> int:
    try:
        number = int(str(port))
    except ValueError as exc:
        raise ValueError(f"port must be an integer, got {port!r}") from exc
    if not 1 <= number <= HIGHEST_PORT - max(count - 1, 0):
        raise ValueError(f"port {number} leaves no room for {count} port(s) between 1 and {HIGHEST_PORT}")
    return number


def _name(host: str, variables: Mapping[str, Any]) -> str:
    name = variables.get(NAME_VARIABLE, host)
    if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
        raise ValueError(f"host '{host}': {NAME_VARIABLE} must be {SHARD_NAME_WORDS}, got {name!r}")
    return str(name)


def _weight(host: str, variables: Mapping[str, Any]) -> int:
    weight = variables.get(WEIGHT_VARIABLE, 1)
    # A value from the command line is a text.
    number = int(weight) if isinstance(weight, str) and weight.isdecimal() else weight
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"host '{host}': {WEIGHT_VARIABLE} must be an integer of at least 1, got {weight!r}")
    return int(number)


def _engine(engine: Any) -> str:
    if engine not in ENGINES:
        raise ValueError(f"webstack_cache_engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    return str(engine)


def layout(
    hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]], port: Any = 6379, engine: str = RING
) -> list[dict[str, Any]]:
    """Return one shard per host: its first node there, its replica on the next host (wrapping).

    Every host has the same two ports, its own shard's and, one above, the replica's. Neither names nor ports depend
    on how many hosts there are, so a host that comes or goes, wherever in the list, changes nothing of the others'
    but where one replica lives. A Redis Cluster has the same instances; a single server is the first host's.
    """
    engine = _engine(engine)
    if engine == CLUSTER and len(hosts) < CLUSTER_HOSTS:
        raise ValueError(
            f"webstack_cache_engine {CLUSTER} needs {CLUSTER_HOSTS} hosts in the group redis, there are {len(hosts)}"
        )
    base = _port(port, 2)
    known = addresses(hosts, hostvars)
    shards: list[dict[str, Any]] = []
    for index, host in enumerate(hosts):
        places = [(host, base)]
        if len(hosts) > 1:
            places.append((hosts[(index + 1) % len(hosts)], base + 1))
        shards.append(
            {
                "name": _name(host, hostvars[host]),
                "weight": _weight(host, hostvars[host]),
                "nodes": [{"name": name, "address": known[name], "port": number} for name, number in places],
            }
        )
    for name in _twice(shard["name"] for shard in shards):
        owners = [str(shard["nodes"][0]["name"]) for shard in shards if shard["name"] == name]
        raise ValueError(f"hosts '{owners[0]}' and '{owners[1]}' have the same shard name: {name}")
    return shards[:1] if engine == SINGLE else shards


def sentinels(
    groups: Mapping[str, Sequence[str]],
    hostvars: Mapping[str, Mapping[str, Any]],
    port: Any = 26379,
    engine: str = RING,
) -> list[dict[str, Any]]:
    """Return the sentinels: the hosts of the group "sentinel", else three hosts of the other tiers.

    Without a Redis host there is nothing to watch, and only the ring is watched by sentinels.
    """
    if _engine(engine) != RING:
        return []
    number = _port(port, 1)
    if not groups.get(SENTINEL_GROUP) and not groups.get(FALLBACK_GROUPS[0]):
        return []
    chosen = list(groups.get(SENTINEL_GROUP) or [])
    if chosen:
        if len(chosen) < SENTINEL_COUNT or len(chosen) % 2 == 0:
            raise ValueError(
                f"group '{SENTINEL_GROUP}' has {len(chosen)} host(s) ({', '.join(chosen)}): "
                f"an odd number of at least {SENTINEL_COUNT} keeps a majority when one is lost"
            )
    else:
        # dict: distinct, in order
        candidates = list(dict.fromkeys(host for name in FALLBACK_GROUPS for host in groups.get(name) or []))
        if len(candidates) < SENTINEL_COUNT:
            raise ValueError(
                f"{SENTINEL_COUNT} hosts are needed for the sentinels, the groups {', '.join(FALLBACK_GROUPS)} have "
                f"{len(candidates)} ({', '.join(candidates) or 'none'}): add hosts or a group '{SENTINEL_GROUP}'"
            )
        chosen = candidates[:SENTINEL_COUNT]
    return [{"name": name, "address": address, "port": number} for name, address in addresses(chosen, hostvars).items()]


def quorum_hosts(groups: Mapping[str, Sequence[str]], enabled: bool) -> list[str]:
    """Return the members of the quorum: the hosts of the group "quorum", else those of the sentinels, if so wanted.

    At most one of them is a database host: whatever takes both databases must leave two members, which decide.
    """
    if groups.get(QUORUM_GROUP) or not enabled:
        return list(groups.get(QUORUM_GROUP) or [])
    order = (SENTINEL_GROUP, *FALLBACK_GROUPS)
    candidates = list(dict.fromkeys(host for name in order for host in groups.get(name) or []))
    databases = [host for host in candidates if host in (groups.get("db") or [])]
    chosen = [host for host in candidates if host not in databases[1:]]
    if len(chosen) < SENTINEL_COUNT:
        raise ValueError(
            f"{SENTINEL_COUNT} hosts are needed for the quorum, one of them a database host at most, and there are "
            f"{len(chosen)} ({', '.join(chosen) or 'none'}): add hosts, or set webstack_quorum_enabled: false"
        )
    return chosen[:SENTINEL_COUNT]


def _twice(items: Iterable[Any]) -> list[Any]:
    return [item for item, count in Counter(items).items() if count > 1]


def memory_bytes(text: Any) -> int:
    """Return an amount of memory in the notation of Redis: k is 1000, kb is 1024, and so on."""
    match = re.fullmatch(r"([0-9]+)(?:([kmg])(b?)|b)?", str(text).strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError(f"must be an amount of memory like 256mb or 2gb, not {text!r}")
    unit = {"k": 1, "m": 2, "g": 3}.get(match[2] or "", 0)
    return int(match[1]) * int((1024 if match[3] else 1000) ** unit)


def _contradictions(places: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A name stands for one host and an address too; two names of one host would hide that it is one."""
    known: dict[tuple[str, str], str] = {}
    for place in places:
        name, address = str(place["name"]), str(place["address"])
        for key, value in ((("host", name), address), (("address", address), name)):
            if known.setdefault(key, value) != value:
                yield f"{key[0]} {key[1]} stands for {known[key]} and for {value}"


def problems(
    shards: Sequence[Mapping[str, Any]],
    sentinel_list: Sequence[Mapping[str, Any]],
    host: str,
    engine: str = RING,
) -> list[tuple[str, str]]:
    """Say what is wrong with literal lists of shards and sentinels, as seen from one host: variable and reason."""
    of_shards, of_sentinels = "redis_shard_shards", "redis_shard_sentinels"
    nodes = [node for shard in shards for node in shard["nodes"]]
    found: list[tuple[str, str]] = []
    if not shards:
        found.append((of_shards, "is empty: the group redis has no host, or the list was set to nothing"))
    found += [(of_shards, f"has two shards named {name}") for name in _twice(shard["name"] for shard in shards)]
    for shard in shards:
        name = shard["name"]
        if not SHARD_NAME.fullmatch(name):
            found.append((of_shards, f"the name of shard {name!r} must be {SHARD_NAME_WORDS}"))
        if not shard["nodes"]:
            found.append((of_shards, f"shard {name} has no node"))
        for key in ("name", "address"):
            for value in _twice(node[key] for node in shard["nodes"]):
                found.append((of_shards, f"two nodes of shard {name} have the {key} {value}; a replica is elsewhere"))
    places = [(item["address"], int(item["port"])) for item in [*nodes, *sentinel_list]]
    for address, port in _twice(places):
        found.append((of_shards, f"{address}:{port} is used twice, here and in {of_sentinels} taken together"))
    count = len(sentinel_list)
    if sentinel_list and (count < SENTINEL_COUNT or count % 2 == 0):
        found.append((of_sentinels, f"has {count}: an odd number of at least {SENTINEL_COUNT} is needed, or none"))
    for key in ("name", "address"):
        for value in _twice(sentinel[key] for sentinel in sentinel_list):
            found.append((of_sentinels, f"two sentinels have the {key} {value}; the loss of one host must leave most"))
    found += [
        (of_shards, f"{reason}, here and in {of_sentinels}") for reason in _contradictions([*nodes, *sentinel_list])
    ]
    if engine != RING and sentinel_list:
        found.append((of_sentinels, f"must be empty: the engine {engine} has no Sentinel"))
    if engine == CLUSTER and len({node["name"] for node in nodes}) < CLUSTER_HOSTS:
        found.append((of_shards, f"the engine {CLUSTER} needs {CLUSTER_HOSTS} hosts or more"))
    if engine == CLUSTER and len(shards) < CLUSTER_HOSTS:
        found.append((of_shards, f"the engine {CLUSTER} needs {CLUSTER_HOSTS} shards or more"))
    if engine == SINGLE and len(shards) > 1:
        found.append((of_shards, f"has {len(shards)} shards: the engine {SINGLE} has one"))
    # With one server of many hosts, or where sentinels are no more, a host may have no part; the role cleans it up.
    if engine == RING and host not in {item["name"] for item in [*nodes, *sentinel_list]}:
        found.append((of_shards, f"{host} (redis_shard_node_name) is neither a node here nor in {of_sentinels}"))
    return found
