"""Every role runs alone: with literal inputs, in an inventory that has neither groups nor webstack_* settings.

ansible-core templates each default of a specification even where the input is set, so a default that needs
something undefined breaks a role for everybody who sets the input. The connection of the only host does not exist:
a role that reaches it got past its arguments.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECRET = "s" * 40
NODES = [{"name": "alone", "address": "192.0.2.11"}, {"name": "other", "address": "192.0.2.12"}]
SHARDS = [{"name": "alone", "weight": 1, "nodes": [{**node, "port": 6379} for node in NODES]}]
SENTINELS = [{**node, "port": 26379} for node in [*NODES, {"name": "third", "address": "192.0.2.13"}]]

INPUTS: dict[str, dict[str, Any]] = {
    "lb_nginx": {"server_names": ["a.example.com"], "backends": [{**node, "port": 80} for node in NODES]},
    "vip_failover": {"addresses": ["192.0.2.100/24"], "address": "192.0.2.11", "peers": NODES},
    "was_django": {
        "source": {"type": "directory", "path": str(ROOT / "examples/demo_site")},
        "settings_module": "demo_site.settings",
        "secret_key": SECRET,
        "allowed_hosts": ["a.example.com"],
        "listen_address": "192.0.2.11",
        "database_engine": "sqlite",
        "caches": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    },
    "redis_shard": {
        "shards": SHARDS,
        "sentinels": SENTINELS,
        "password": SECRET,
        **{f"{account}_password": account + SECRET for account in ("replication", "sentinel", "admin")},
    },
    "redis_cluster_client": {"shards": SHARDS, "sentinels": SENTINELS, "password": SECRET},
    "mysql_replication": {
        "nodes": [{**node, "port": 3306} for node in NODES],
        "password": SECRET,
        "databases": [{"name": "site"}],
        "accounts": [],
    },
    "backup_slave": {"password": SECRET},
    "quorum": {"members": [{**node, "port": 2379} for node in SENTINELS], "pki_directory": "/srv/controller/pki"},
    "shared_media": {"peers": NODES, "directory": "/srv/uploads"},
}


def test_every_role_is_here() -> None:
    assert set(INPUTS) == {path.name for path in (ROOT / "roles").iterdir()}


@pytest.mark.parametrize("role", sorted(INPUTS))
def test_role_takes_literal_inputs(role: str, tmp_path: pathlib.Path) -> None:
    inventory = {"all": {"hosts": {"alone": {"ansible_connection": "webstack.ha.none"}}}}
    values = {f"{role}_{name}": value for name, value in INPUTS[role].items()}
    play = {"hosts": "alone", "gather_facts": False, "roles": [{"role": f"webstack.ha.{role}", "vars": values}]}
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    result = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    said = result.stdout + result.stderr
    assert "webstack.ha.none" in said, said[-3000:]
    assert "is undefined" not in said, said[-3000:]
