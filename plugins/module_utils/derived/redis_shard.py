# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role redis_shard makes of its inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings, _shard_layout
from ansible_collections.webstack.ha.plugins.module_utils.derived import File, Role, flag

Node = Mapping[str, Any]


def sentinel_hosts(
    _role: Role, *, groups: Mapping[str, Any], hostvars: Mapping[str, Any], engine: str
) -> list[dict[str, Any]]:
    """Return the sentinels of this inventory. redis_cluster_client has the same default."""
    return _shard_layout.sentinels(groups, hostvars, engine=engine)


def packages(role: Role) -> list[str]:
    """Return the packages, which Debian calls by the server program's name."""
    return [re.sub("^redis", role["redis_shard_server"], name) for name in role["__redis_shard_packages"]]


def kind(role: Role) -> str:
    """Say what this host is to run. Each change of it starts the cache empty."""
    with_tls = "with" if flag(role, "redis_shard_tls_enabled") else "without"
    return f"{role['redis_shard_engine']} of {role['redis_shard_server']} {with_tls} TLS"


def own(role: Role) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return pairs of a shard with a node on this host, and that node."""
    name = role["redis_shard_node_name"]
    return [(shard, node) for shard in role["redis_shard_shards"] for node in shard["nodes"] if node["name"] == name]


def own_sentinels(role: Role) -> list[dict[str, Any]]:
    """Return this host's sentinel: a list of one or none."""
    name = role["redis_shard_node_name"]
    return [sentinel for sentinel in role["redis_shard_sentinels"] if sentinel["name"] == name]


def addresses(role: Role) -> list[str]:
    """Return where this host's servers and its sentinel listen."""
    places = [*(node for _shard, node in own(role)), *own_sentinels(role)]
    return list(dict.fromkeys(place["address"] for place in places))


def certified(role: Role) -> bool:
    """Tell whether this host needs a certificate: with the engine single most hosts of the group have no part."""
    return flag(role, "redis_shard_tls_enabled") and bool(addresses(role))


def memory(role: Role) -> int:
    """Return the bytes that the servers of this host may take."""
    amounts = ("redis_shard_max_memory", "redis_shard_replication_backlog")
    return len(own(role)) * sum(_shard_layout.memory_bytes(role[name]) for name in amounts)


def setting_lines(role: Role) -> list[str]:
    """Return the user's own settings as Redis reads them."""
    return _settings.lines(dict(sorted(role["redis_shard_settings"].items())), "redis")


def monitors(role: Role) -> list[dict[str, Any]]:
    """Return what this host's sentinel has to know of each shard.

    Some only support a fail-over and others lead one, each in turn: sentinel.conf.j2 says why.
    """
    names = [sentinel["name"] for sentinel in role["redis_shard_sentinels"]]
    count = len(names)
    majority = count // 2 + 1  # so that the smaller side of a cut network never promotes
    after, lead, step = (int(role[f"redis_shard_down_after_{part}milliseconds"]) for part in ("", "lead_", "step_"))
    found = []
    for shard in role["redis_shard_shards"]:
        home = shard["nodes"][0]
        first = names.index(home["name"]) + 1 if home["name"] in names else 0
        turn = (names.index(role["redis_shard_node_name"]) - first) % count
        leads = turn == 0 or turn >= majority
        later = lead + step * (turn and turn - majority + 1) if leads else 0
        found.append(
            {
                "name": shard["name"],
                "hosts": [node["name"] for node in shard["nodes"]],
                "address": home["address"],
                "port": home["port"],
                "quorum": majority if leads else count,
                "down_after_milliseconds": after + later,
            }
        )
    return found


def accounts(role: Role) -> dict[str, str]:
    """Return the rights of each account on the servers."""
    rights = dict(role["__redis_shard_rights"]["servers"])
    if role["redis_shard_engine"] == _shard_layout.CLUSTER:
        rights["application"] = f"{rights['application']} {role['__redis_shard_cluster_rights']}"
    return rights


def files(role: Role) -> list[File]:
    """Return all files of this host's part of the cache."""
    return [
        *_common_files(role),
        *(_tls_files(role) if certified(role) else []),
        *(file for shard, node in own(role) for file in _instance_files(role, shard["name"], node)),
        *(file for sentinel in own_sentinels(role) for file in _sentinel_files(role, sentinel)),
    ]


def _common_files(role: Role) -> list[File]:
    directory, server = role["__redis_shard_directory"], role["redis_shard_server"]
    return [
        # Debian gives it to the servers' account, which could put links in the way of what root writes there.
        {"dest": directory, "state": "directory", "group": server, "mode": "0750"},
        # What earlier versions put here.
        {"dest": "/usr/local/sbin/redis-shard", "state": "absent"},
        {"dest": "/etc/systemd/system/multi-user.target.wants/redis-shard.target", "state": "absent"},
        {"dest": "/etc/systemd/system/redis-shard.target", "state": "absent"},
        {"dest": "/usr/local/lib/webstack/hash_ring.py", "state": "absent"},
        {"dest": "/usr/local/lib/webstack/shard_keys.py", "state": "absent"},
        {"dest": "/usr/local/lib/webstack/__pycache__", "state": "absent", "recursive": True},
        {"src": "redis-shard.json.j2", "dest": "/etc/webstack/redis-shard.json", "mode": "0600", "secret": True},
        {"dest": role["__redis_shard_kind_path"], "content": f"{kind(role)}\n"},
        _accounts_file(role, "users.acl", accounts(role)),
        # Debian's single instance would take the first shard's port at the next boot.
        {"src": "/dev/null", "dest": f"/etc/systemd/system/{server}-server.service", "state": "link"},
        {"src": "webstack-cache.target.j2", "dest": "/etc/systemd/system/webstack-cache.target"},
    ]


def _accounts_file(role: Role, name: str, rights: Mapping[str, str]) -> File:
    return {
        "src": "users.acl.j2",
        "dest": f"{role['__redis_shard_directory']}/{name}",
        "group": role["redis_shard_server"],
        "mode": "0640",
        "secret": True,
        "vars": {"__redis_shard_accounts": rights},
    }


def _tls_files(role: Role) -> list[File]:
    directory, server = f"{role['__redis_shard_directory']}/tls", role["redis_shard_server"]
    made = role["__redis_shard_certificate"]
    return [
        {"dest": directory, "state": "directory", "group": server, "mode": "0750"},
        {"dest": f"{directory}/ca.pem", "content": made["ca"]},
        {"dest": f"{directory}/cert.pem", "content": made["certificate"]},
        {
            "dest": f"{directory}/key.pem",
            "content": made["private_key"],
            "group": server,
            "mode": "0640",
            "secret": True,
        },
    ]


def _instance_files(role: Role, name: str, node: Node) -> list[File]:
    server = role["redis_shard_server"]
    return [
        {
            "src": "redis.conf.j2",
            "dest": f"{role['__redis_shard_directory']}/{server}-{name}.conf",
            "group": server,
            "mode": "0640",
            "secret": True,
            "validate": role["__redis_shard_check"],
            "vars": {
                "__redis_shard_name": name,
                "__redis_shard_own_address": node["address"],
                "__redis_shard_port": node["port"],
            },
        },
        {
            "src": "redis-server.drop-in.conf.j2",
            "dest": f"/etc/systemd/system/{server}-server@{name}.service.d/shard.conf",
        },
        {"dest": f"/var/lib/{server}/{name}", "state": "directory", "owner": server, "group": server, "mode": "0750"},
    ]


def _sentinel_files(role: Role, sentinel: Node) -> list[File]:
    return [
        {
            "src": "sentinel.conf.j2",
            "dest": f"{role['__redis_shard_directory']}/sentinel-shards.conf",
            "mode": "0600",
            "secret": True,
            "vars": {"__redis_shard_own_sentinel": sentinel},
        },
        _accounts_file(role, "sentinel-users.acl", role["__redis_shard_rights"]["sentinels"]),
        {
            "src": "redis-sentinel.drop-in.conf.j2",
            "dest": f"/etc/systemd/system/{role['__redis_shard_sentinel_unit']}.d/shards.conf",
        },
    ]
