# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role quorum makes of its inputs, and of what the members say that they have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _shard_layout, _site_checks
from ansible_collections.webstack.ha.plugins.module_utils.derived import File, Role

UNITS = "/etc/systemd/system"


def hosts(_role: Role, *, groups: Mapping[str, Any], enabled: Any) -> list[str]:
    """Return the hosts of this inventory that are members."""
    return _shard_layout.quorum_hosts(groups, bool(_site_checks.boolean(enabled)))


def is_member(role: Role) -> bool:
    """Say whether this host is a member; one that only asks is none."""
    return role["quorum_node_name"] in [member["name"] for member in role["quorum_members"]]


def own(role: Role) -> Mapping[str, Any]:
    """Return this host's entry in the list of members."""
    found: Mapping[str, Any] = next(
        member for member in role["quorum_members"] if member["name"] == role["quorum_node_name"]
    )
    return found


def host(role: Role) -> str:
    """Return the member's address as it stands in a URL."""
    address = str(own(role)["address"])
    return f"[{address}]" if ":" in address else address


def settings(role: Role) -> str:
    """Return what `webstack quorum` reads."""
    folder = role["__quorum_tls_directory"]
    found: dict[str, Any] = {
        "members": [{**member, "port": int(member["port"])} for member in role["quorum_members"]],
        "peer_port": int(role["quorum_peer_port"]),
        "answer_seconds": float(role["quorum_answer_seconds"]),
        "tls": {"ca": f"{folder}/ca.pem", "certificate": f"{folder}/cert.pem", "key": f"{folder}/key.pem"},
    }
    if is_member(role):
        found["member"] = {
            "name": role["quorum_node_name"],
            "data": role["quorum_data_directory"],
            "snapshots": role["quorum_snapshot_directory"],
            "snapshot_hours": int(role["quorum_snapshot_hours"]),
            "snapshot_keep": int(role["quorum_snapshot_keep"]),
            "quota_bytes": int(role["quorum_quota_mebibytes"]) * 1024 * 1024,
            "files": role["__quorum_start_files"],
        }
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def client_files(role: Role) -> list[File]:
    """Return what a host needs that asks and is no member: certificate and list, for root alone."""
    return _certificate(role, "root", "0600")


def files(role: Role) -> list[File]:
    """Return all files of a member."""
    data = {"dest": role["quorum_data_directory"], "state": "directory", "owner": "etcd", "group": "etcd"}
    return [
        *role["__quorum_mask"],
        *_certificate(role, "etcd", "0640"),
        {"src": "quorum.env.j2", "dest": "/etc/webstack/quorum.env"},
        {"dest": "/var/lib/webstack", "state": "directory"},
        {"dest": "/var/lib/webstack/quorum", "state": "directory"},
        {**data, "mode": "0700"},
        {"dest": role["quorum_snapshot_directory"], "state": "directory", "mode": "0700"},
        {"src": "webstack-quorum.service.j2", "dest": f"{UNITS}/{role['__quorum_unit']}"},
        {"src": "webstack-quorum-tidy.service.j2", "dest": f"{UNITS}/webstack-quorum-tidy.service"},
        {"src": "webstack-quorum-tidy.timer.j2", "dest": f"{UNITS}/{role['__quorum_timer']}"},
    ]


def _certificate(role: Role, group: str, mode: str) -> list[File]:
    folder, made = role["__quorum_tls_directory"], role["__quorum_certificate"]
    key = {"dest": f"{folder}/key.pem", "content": made["private_key"], "secret": True}
    return [
        {"dest": "/etc/webstack", "state": "directory"},
        {"dest": folder, "state": "directory", "group": group, "mode": "0750"},
        {"dest": f"{folder}/ca.pem", "content": made["ca"]},
        {"dest": f"{folder}/cert.pem", "content": made["certificate"]},
        {**key, "group": group, "mode": mode},
        {"dest": "/etc/webstack/quorum.json", "content": settings(role)},
    ]


def empty(role: Role) -> list[str]:
    """Return the members without data. One that is not in this run may have data.

    One that never got through forming has promised nothing that counts.
    """
    return [look["name"] for look in _looks(role) if look["formed"] or not look["data"]]


def token(role: Role) -> str:
    """Return the token of a new store: of a formation that was interrupted, otherwise a new one, the same for all."""
    looks = _looks(role)
    return str(next((look["token"] for look in [*(one for one in looks if one["formed"]), *looks]), ""))


def _looks(role: Role) -> list[dict[str, Any]]:
    """Return what each member of this run said that it has; one with nothing left to do was not asked again."""
    hosts = [role["hostvars"][name] for name in role["ansible_play_hosts"]]
    answers = [
        host.get("__quorum_look") or {} for host in hosts if not (host.get("__quorum_configure") or {}).get("settled")
    ]
    return [json.loads(answer["stdout"]) for answer in answers if "stdout" in answer]
