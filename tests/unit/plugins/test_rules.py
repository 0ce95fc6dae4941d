"""The rules of the roles: what they say of settings that cannot work."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import rendering
from ansible_collections.webstack.ha.plugins.module_utils.rules import vip_failover
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, collect, said
from ansible_collections.webstack.ha.plugins.plugin_utils._role_inputs import Role, misspelt

PAIR = [{"name": "lb1", "address": "192.0.2.11"}, {"name": "lb2", "address": "192.0.2.12"}]
DATABASES = [
    {"name": "db1", "address": "192.0.2.41", "port": 3306},
    {"name": "db2", "address": "192.0.2.42", "port": 3306},
]
CACHES = [{"name": f"redis{number}", "address": f"192.0.2.3{number}"} for number in (1, 2, 3)]
SHARDS = [{"name": node["name"], "weight": 1, "nodes": [{**node, "port": 6379}]} for node in CACHES]
SENTINELS = [{**node, "port": 26379} for node in CACHES]
APP = {"name": "app1", "address": "192.0.2.21", "port": 8000}
SHOP = {"name": "shop", "server_names": ["shop.example.com"]}
ACME = {
    "lb_nginx_tls_mode": "acme",
    "lb_nginx_acme_terms_accepted": True,
    "lb_nginx_acme_mail": "hostmaster@example.com",
    "lb_nginx_acme_address": "192.0.2.11",
    "lb_nginx_acme_balancers": [{**PAIR[0], "port": 8447}],
}

MEMBERS = [{"name": f"q{number}", "address": f"192.0.2.{number}", "port": 2379} for number in (1, 2, 3)]

#: Role -> inputs with which it has nothing to refuse.
GOOD: dict[str, dict[str, Any]] = {
    "vip_failover": {
        "vip_failover_addresses": ["192.0.2.100/24"],
        "vip_failover_address": "192.0.2.11",
        "vip_failover_peers": PAIR,
    },
    "backup_slave": {"backup_slave_password": "p" * 20, "backup_slave_nodes": []},
    "shared_media": {"shared_media_peers": [{"name": "host1", "address": "192.0.2.21"}], "shared_media_device_ids": {}},
    "mysql_replication": {
        "mysql_replication_nodes": DATABASES,
        "mysql_replication_node_name": "db1",
        "mysql_replication_given_server_ids": [0, 0],
        "mysql_replication_writer_address": "192.0.2.100/24",
        "mysql_replication_password": "secret",
        "mysql_replication_accounts": [],
    },
    "quorum": {"quorum_members": MEMBERS, "quorum_node_name": "q1"},
    "redis_shard": {
        "redis_shard_shards": SHARDS,
        "redis_shard_sentinels": SENTINELS,
        "redis_shard_node_name": "redis1",
        **{f"redis_shard_{word}password": f"{word:_>20}" for word in ("", "replication_", "sentinel_", "admin_")},
    },
    "redis_cluster_client": {
        "redis_cluster_client_shards": SHARDS,
        "redis_cluster_client_sentinels": SENTINELS,
        "redis_cluster_client_password": "p" * 20,
    },
    "lb_nginx": {"lb_nginx_server_names": ["www.example.com"], "lb_nginx_backends": [APP]},
    "was_django": {
        "was_django_source": {"type": "directory", "path": "../shop"},
        "was_django_settings_module": "shop.settings",
        "was_django_secret_key": "k" * 40,
        "was_django_allowed_hosts": ["www.example.com"],
        "was_django_database_host": "192.0.2.101",
        "was_django_database_password": "p" * 20,
    },
}

#: Role, what is changed, and the words of the refusal.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("quorum", {"quorum_node_name": "q9"}, "quorum_members must list q9 (quorum_node_name) once"),
    ("quorum", {"quorum_members": [*MEMBERS, MEMBERS[0]]}, "quorum_members must list q1 (quorum_node_name) once"),
    ("quorum", {"quorum_members": MEMBERS[:2]}, "quorum_members has 2: an odd number is needed"),
    ("quorum", {"quorum_members": []}, "quorum_members must list q1"),
    ("quorum", {"quorum_members": [{**MEMBERS[0], "port": 0}]}, "q1 has no port from 1 to 65535, but 0"),
    ("quorum", {"quorum_members": [{**MEMBERS[0], "address": "q1.example.com"}]}, "q1 has no IP address, but 'q1.exam"),
    (
        "quorum",
        {"quorum_members": [{**one, "address": "192.0.2.1"} for one in MEMBERS]},
        "quorum_members: two have the address 192.0.2.1",
    ),
    (
        "quorum",
        {"quorum_node_name": "a,b=c", "quorum_members": [{**MEMBERS[0], "name": "a,b=c"}]},
        "quorum_members: the name 'a,b=c' must be of at most 52 letters",
    ),
    ("quorum", {"quorum_peer_port": 2379}, "quorum_peer_port is 2379, which is a member's port for clients, too"),
    ("quorum", {"quorum_peer_port": 0}, "quorum_peer_port is not within 1-65535"),
    ("quorum", {"quorum_metrics_port": 2380}, "quorum_metrics_port is 2380, which is another port of a member, too"),
    ("quorum", {"quorum_metrics_port": -1}, "quorum_metrics_port is not within 0-65535"),
    ("quorum", {"quorum_heartbeat_milliseconds": 1}, "quorum_heartbeat_milliseconds is not within 10-1000"),
    ("quorum", {"quorum_heartbeat_milliseconds": 200}, "quorum_election_milliseconds must be five times"),
    (
        "quorum",
        {"quorum_election_milliseconds": 60000, "quorum_answer_seconds": 200},
        "quorum_election_milliseconds must be five times",
    ),
    ("quorum", {"quorum_answer_seconds": 1}, "quorum_answer_seconds must be three times quorum_election_milliseconds"),
    ("quorum", {"quorum_quota_mebibytes": 1}, "quorum_quota_mebibytes is not within 16-8192"),
    ("quorum", {"quorum_history_hours": 0}, "quorum_history_hours must be 1 or more, not 0"),
    ("quorum", {"quorum_snapshot_hours": -1}, "quorum_snapshot_hours must be 0 or more, not -1"),
    ("quorum", {"quorum_snapshot_keep": 0}, "quorum_snapshot_keep must be 1 or more, not 0"),
    ("quorum", {"quorum_data_directory": "/quorum"}, "quorum_data_directory must be an absolute path below a top"),
    ("quorum", {"quorum_data_directory": "/srv/my data"}, "quorum_data_directory must be an absolute path below a top"),
    (
        "quorum",
        {"quorum_snapshot_directory": "/var/lib/webstack/quorum/data/snapshots"},
        "quorum_snapshot_directory must lie outside of quorum_data_directory",
    ),
    ("vip_failover", {"vip_failover_addresses": []}, "vip_failover_addresses is empty"),
    ("vip_failover", {"vip_failover_addresses": ["192.0.2.100"]}, "vip_failover_addresses needs address/prefix"),
    ("vip_failover", {"vip_failover_addresses": "192.0.2.100/24"}, "vip_failover_addresses: must be a list"),
    ("vip_failover", {"vip_failover_addresses": None}, "vip_failover_addresses: has no value"),
    ("vip_failover", {"vip_failover_peers": []}, "vip_failover_peers names no other balancer"),
    ("vip_failover", {"vip_failover_check_url": "https://x/"}, "vip_failover_check_url is no http:// URL"),
    ("vip_failover", {"vip_failover_router_id": "300"}, "vip_failover_router_id is not within 1-255"),
    ("vip_failover", {"vip_failover_advert_interval_seconds": 60}, "is not within 0.01-40"),
    ("vip_failover", {"vip_failover_drain_seconds": -1}, "vip_failover_drain_seconds is negative"),
    ("vip_failover", {"vip_failover_check_fall": 0}, "vip_failover_check_fall is not positive"),
    ("vip_failover", {"vip_failover_engine": "hook"}, "vip_failover_hook_command is empty"),
    ("vip_failover", {"vip_failover_engine": "magic"}, "vip_failover_engine: must be one of"),
    (
        "vip_failover",
        {"vip_failover_engine": "classic", "vip_failover_addresses": ["2001:db8::1/64"]},
        "the classic engine moves IPv4 addresses only",
    ),
    (
        "vip_failover",
        {"vip_failover_classic_scheduler": "cron", "vip_failover_classic_interval_seconds": 90},
        "vip_failover_classic_interval_seconds has to be a multiple of 60",
    ),
    ("vip_failover", {"vip_failover_active_active": "yes"}, "needs two balancers and two addresses of one family"),
    (
        "vip_failover",
        {
            "vip_failover_active_active": True,
            "vip_failover_router_id": 255,
            "vip_failover_addresses": ["192.0.2.100/24", "192.0.2.101/24"],
        },
        "vip_failover_router_id: active-active takes 2 ids, which end above 255",
    ),
    ("was_django", {"was_django_name": "My Shop"}, "was_django_name must be a short name"),
    ("was_django", {"was_django_name": "vip"}, "was_django_name may not be vip: /etc/webstack/vip belongs to the tier"),
    ("was_django", {"was_django_settings_module": "shop/settings"}, "must be the name of a module"),
    ("was_django", {"was_django_secret_key": "short"}, "was_django_secret_key must have at least 32 characters"),
    ("was_django", {"was_django_database_host": ""}, "was_django_database_host is not set (needed by"),
    ("was_django", {"was_django_database_password": ""}, "was_django_database_password is not set (needed by"),
    ("was_django", {"was_django_allowed_hosts": []}, "was_django_allowed_hosts is empty"),
    ("was_django", {"was_django_health_path": "/up?x"}, "was_django_health_path must begin with /"),
    ("was_django", {"was_django_static_url": "static"}, "was_django_static_url must begin and end with /"),
    ("was_django", {"was_django_media_url": "media"}, "was_django_media_url must begin and end with /"),
    ("was_django", {"was_django_media_root": "/srv/webstack/site/releases/x"}, "outside of the releases"),
    ("was_django", {"was_django_lock_seconds": 0}, "was_django_lock_seconds must be 1 or more, not 0"),
    ("was_django", {"was_django_smoke_checks": "/"}, "was_django_smoke_checks: must be a list"),
    ("was_django", {"was_django_smoke_checks": [{"status": 200}]}, "path"),
    ("was_django", {"was_django_smoke_checks": [{"path": "login"}]}, "path must begin with /"),
    ("was_django", {"was_django_smoke_checks": [{"path": "/-/health"}]}, "name a page of its own"),
    ("was_django", {"was_django_smoke_checks": [{"path": "/", "status": 99}]}, "must be 100 to 599, got 99"),
    ("was_django", {"was_django_smoke_checks": [{"path": "/", "seconds": 0}]}, "seconds of / must be 1 or more"),
    ("was_django", {"was_django_smoke_checks": [{"path": "/", "pth": "/"}]}, "pth"),
    ("was_django", {"was_django_after_migrate_commands": "check"}, "was_django_after_migrate_commands: must be a list"),
    ("was_django", {"was_django_after_migrate_commands": ["check"]}, "[check]; got the text"),
    ("was_django", {"was_django_after_migrate_commands": [["loaddata a.json"]]}, "[loaddata, a.json]; got the text"),
    ("was_django", {"was_django_after_migrate_commands": [[]]}, "has an empty word"),
    (
        "was_django",
        {"was_django_once_per_database_commands": [["loaddata a.json"]]},
        "was_django_once_per_database_commands: each command is a list of words, for example [loaddata, a.json]",
    ),
    *(
        (
            "was_django",
            {f"was_django_{when}_commands": ["check"]},
            f"was_django_{when}_commands: each command is a list",
        )
        for when in ("after_collect", "before_switch", "after_switch")
    ),
    ("was_django", {"was_django_requirement_files": "a.txt"}, "was_django_requirement_files: must be a list"),
    ("was_django", {"was_django_keep_releases": 0}, "was_django_keep_releases must be 1 or more, not 0"),
    ("was_django", {"was_django_threads": "0"}, "was_django_threads must be 1 or more, not 0"),
    ("was_django", {"was_django_port": 70000}, "was_django_port must be 1 to 65535, got 70000"),
    ("shared_media", {"shared_media_directory": "/media"}, "shared_media_directory must be an absolute path below"),
    ("shared_media", {"shared_media_node_name": "other"}, "shared_media_peers must list other"),
    (
        "shared_media",
        {"shared_media_engine": "rsync"},
        "shared_media_password is required by shared_media_engine rsync",
    ),
    ("shared_media", {"shared_media_rsync_interval_seconds": 0}, "must be 1 or more, not 0"),
    ("backup_slave", {"backup_slave_environment": {"A": True}}, "backup_slave_environment.A is true"),
    ("backup_slave", {"backup_slave_retention": {"daily": -1}}, "backup_slave_retention.daily is negative"),
    ("backup_slave", {"backup_slave_parallel": 0}, "backup_slave_parallel must be 1 or more, not 0"),
    ("backup_slave", {"backup_slave_password": ""}, "backup_slave_password: is empty"),
    ("mysql_replication", {"mysql_replication_server_id": 2}, "mysql_replication_server_id is 2 on db1 and on db2"),
    (
        "mysql_replication",
        {"mysql_replication_server_id": 2**32},
        "mysql_replication_server_id is 4294967296; 1 to 4294967295 are possible",
    ),
    ("mysql_replication", {"mysql_replication_server_id": 0}, "mysql_replication_server_id is 0"),
    (
        "mysql_replication",
        {"mysql_replication_node_name": "db3", "mysql_replication_server_id": 3},
        "mysql_replication_node_name is 'db3'",
    ),
    ("mysql_replication", {"mysql_replication_initial_primary": "db3"}, "mysql_replication_initial_primary is 'db3'"),
    ("mysql_replication", {"mysql_replication_writer_address": "192.0.2.41/24"}, "is the address of a host"),
    ("mysql_replication", {"mysql_replication_writer_address": "192.0.2.100"}, "without a prefix"),
    ("mysql_replication", {"mysql_replication_writer_address": "2001:db8::1/64"}, "an IPv4 address/prefix is expected"),
    (
        "mysql_replication",
        {"mysql_replication_password": "x" * 97},
        "mysql_replication_password needs 1 to 96 printable characters",
    ),
    ("mysql_replication", {"mysql_replication_password": ""}, "mysql_replication_password: is empty"),
    (
        "mysql_replication",
        {"mysql_replication_nodes": [*DATABASES, {**DATABASES[0], "name": "db3", "port": 1}]},
        "has 3 hosts; one or two make a site",
    ),
    (
        "mysql_replication",
        {"mysql_replication_nodes": [DATABASES[0], {**DATABASES[0], "name": "db2"}]},
        "gives one address twice",
    ),
    (
        "mysql_replication",
        {"mysql_replication_collation": "latin1_swedish_ci"},
        "mysql_replication_collation is 'latin1_swedish_ci'",
    ),
    (
        "mysql_replication",
        {"mysql_replication_time_zones": ["Europe/Berlin", "../etc/passwd"]},
        "mysql_replication_time_zones has '../etc/passwd'",
    ),
    (
        "mysql_replication",
        {"mysql_replication_settings": {"read_only": 0}},
        "mysql_replication_settings.read_only: the server boots read-only",
    ),
    (
        "mysql_replication",
        {"mysql_replication_settings": {"skip-read-only": None}},
        "mysql_replication_settings.skip-read-only",
    ),
    ("mysql_replication", {"mysql_replication_settings": {"server_id": 9}}, "mysql_replication_server_id is the input"),
    (
        "mysql_replication",
        {"mysql_replication_settings": {"default-time-zone": "Europe/Berlin"}},
        "mysql_replication_settings.default-time-zone",
    ),
    (
        "mysql_replication",
        {"mysql_replication_settings": {"init_connect": {"a": "b"}}},
        "mysql_replication_settings.init_connect is a mapping",
    ),
    ("redis_shard", {"redis_shard_settings": {"save": {"a": 1}}}, "redis_shard_settings.save is a mapping"),
    ("redis_shard", {"redis_shard_settings": {"hz": None}}, "redis_shard_settings.hz has no value"),
    ("redis_shard", {"redis_shard_node_name": "stranger"}, "stranger (redis_shard_node_name) is neither a node"),
    ("redis_shard", {"redis_shard_sentinels": SENTINELS[:1]}, "redis_shard_sentinels: has 1: an odd number"),
    ("redis_shard", {"redis_shard_password": "short"}, "redis_shard_password must have 16 characters"),
    ("redis_shard", {"redis_shard_max_memory": "2 barrels"}, "redis_shard_max_memory: must be an amount of memory"),
    (
        "redis_shard",
        {"redis_shard_replication_backlog": "0"},
        "redis_shard_replication_backlog: must be an amount of memory",
    ),
    ("redis_shard", {"redis_shard_engine": "redis_cluster"}, "the engine redis_cluster has no Sentinel"),
    ("redis_shard", {"redis_shard_failover_timeout_milliseconds": 0}, "must be 1 or more, not 0"),
    ("redis_shard", {"redis_shard_sentinel_timing": {"ping": 0}}, "redis_shard_sentinel_timing.ping must be 1 or more"),
    ("redis_shard", {"redis_shard_admin_password": ""}, "redis_shard_admin_password: is empty"),
    ("redis_cluster_client", {"redis_cluster_client_shards": []}, "a ring needs at least one shard"),
    ("redis_cluster_client", {"redis_cluster_client_shards": [SHARDS[0], SHARDS[0]]}, "'redis1' is named twice"),
    (
        "redis_cluster_client",
        {"redis_cluster_client_shards": [{**SHARDS[0], "weight": 0}]},
        "weight of shard 'redis1' must be",
    ),
    (
        "redis_cluster_client",
        {"redis_cluster_client_shards": [{**SHARDS[0], "nodes": []}]},
        "shard 'redis1' has no node",
    ),
    (
        "redis_cluster_client",
        {"redis_cluster_client_shards": [{"name": "s1"}]},
        "redis_cluster_client_shards: lacks nodes",
    ),
    (
        "redis_cluster_client",
        {"redis_cluster_client_points": 6},
        "redis_cluster_client_points 6: points must be a positive multiple of 4",
    ),
    (
        "redis_cluster_client",
        {"redis_cluster_client_next_shards": [SHARDS[0], SHARDS[0]]},
        "redis_cluster_client_next_shards: shard 'redis1' is named",
    ),
    ("redis_cluster_client", {"redis_cluster_client_password": ""}, "redis_cluster_client_password is empty"),
    (
        "redis_cluster_client",
        {"redis_cluster_client_nutcracker_enabled": True},
        "nutcracker_enabled is true, but nutcracker cannot speak TLS",
    ),
    ("lb_nginx", {"lb_nginx_backends": []}, "lb_nginx_backends is empty"),
    ("lb_nginx", {"lb_nginx_methods": []}, "lb_nginx_methods is empty"),
    ("lb_nginx", {"lb_nginx_server_names": []}, "lb_nginx_server_names is empty"),
    ("lb_nginx", {"lb_nginx_backends": [APP, APP]}, "lb_nginx_backends: two servers have the name app1"),
    ("lb_nginx", {"lb_nginx_backends": [{**APP, "address": "app1"}]}, "the address of app1 is no IPv4 or IPv6 address"),
    ("lb_nginx", {"lb_nginx_probe_fall": 0}, "lb_nginx_probe_fall and lb_nginx_probe_rise must be at least 1"),
    ("lb_nginx", {"lb_nginx_cache_answer_size_max": "32 MB"}, "lb_nginx_cache_answer_size_max is no size in nginx"),
    ("lb_nginx", {"lb_nginx_cache_key": "$request_uri"}, "lb_nginx_cache_key lacks $webstack_host"),
    ("lb_nginx", {"lb_nginx_sites": [SHOP, SHOP]}, "lb_nginx_sites: two sites have the name shop"),
    (
        "lb_nginx",
        {"lb_nginx_sites": [SHOP, {**SHOP, "name": "blog"}]},
        "lb_nginx_sites[blog].server_names: shop.example.com belongs to shop",
    ),
    ("lb_nginx", {"lb_nginx_locations": [{"path": "ws"}]}, "lb_nginx_locations: 'ws' is no path"),
    ("lb_nginx", {"lb_nginx_security_headers": {"X-A": True}}, "lb_nginx_security_headers.X-A is true"),
    (
        "lb_nginx",
        {"lb_nginx_maintenance_page_file": "/nowhere"},
        "lb_nginx_maintenance_page_file names no file on the controller",
    ),
    ("lb_nginx", {**ACME, "lb_nginx_acme_mail": ""}, "lb_nginx_acme_mail is empty"),
    ("lb_nginx", {**ACME, "lb_nginx_acme_terms_accepted": "no"}, "lb_nginx_acme_terms_accepted must be true"),
    ("lb_nginx", {**ACME, "lb_nginx_acme_address": "192.0.2.1"}, "lb_nginx_acme_balancers lacks lb_nginx_acme_address"),
    (
        "lb_nginx",
        {**ACME, "lb_nginx_acme_ca_file": "/nowhere"},
        "lb_nginx_acme_ca_file names no file on the controller",
    ),
]


@pytest.mark.parametrize("role", sorted(GOOD))
def test_good_inputs_pass(role: str) -> None:
    assert rendering.problems(role, GOOD[role]) == []


@pytest.mark.parametrize(("role", "change", "words"), CASES)
def test_a_bad_input_is_refused_by_name(role: str, change: dict[str, Any], words: str) -> None:
    (found,) = rendering.problems(role, GOOD[role] | change)
    assert words in found


def test_files_of_certificates_are_read(tmp_path: pathlib.Path) -> None:
    files = {f"lb_nginx_tls_{what}_file": str(tmp_path / what) for what in ("certificate", "key")}
    settings = GOOD["lb_nginx"] | files | {"lb_nginx_tls_mode": "files"}
    found = rendering.problems("lb_nginx", settings)
    assert [text.partition(":")[0] for text in found] == [f"{name} names no file on the controller" for name in files]
    for path in files.values():
        pathlib.Path(path).write_text("rubbish")
    (found_in_file,) = rendering.problems("lb_nginx", settings)
    assert found_in_file == "lb_nginx_tls_certificate_file holds no PEM certificate"
    # Sites that all have their own need none of the role's.
    own = {key.removeprefix("lb_nginx_"): path for key, path in files.items()}
    several = GOOD["lb_nginx"] | {"lb_nginx_tls_mode": "files", "lb_nginx_sites": [{**SHOP, **own}]}
    (found_in_file,) = rendering.problems("lb_nginx", several)
    assert found_in_file == "lb_nginx_sites[shop].tls_certificate_file holds no PEM certificate"


def test_the_passwords_of_the_cache_are_apart() -> None:
    change = {"redis_shard_admin_password": GOOD["redis_shard"]["redis_shard_sentinel_password"]}
    found = rendering.problems("redis_shard", GOOD["redis_shard"] | change)
    assert [text.split()[0] for text in found] == ["redis_shard_sentinel_password", "redis_shard_admin_password"]
    assert all("differ from the other passwords of the cache" in text for text in found)


def test_an_account_that_no_fence_binds_is_refused() -> None:
    def found(target: str, *grant: str) -> list[str]:
        boss = {"name": "boss", "password": "x", "privileges": [{"target": target, "grant": list(grant)}]}
        accounts = [boss, {"name": "none", "password": "x"}]
        return rendering.problems(
            "mysql_replication", GOOD["mysql_replication"] | {"mysql_replication_accounts": accounts}
        )

    for grant in ("ALL", "all privileges", "READ_ONLY ADMIN", "Read Only Admin"):
        assert "boss gets" in found("*.*", "SELECT", grant)[0]
    assert found("*.*", "PROCESS", "RELOAD") == found("site.*", "ALL") == []


def test_a_former_password_that_lets_anybody_in_is_refused() -> None:
    account = {"name": "boss", "password": "x", "password_fallbacks": ["old", ""]}
    change = {"mysql_replication_accounts": [account], "mysql_replication_password_fallbacks": [""]}
    assert rendering.problems("mysql_replication", GOOD["mysql_replication"] | change) == [
        "mysql_replication_password_fallbacks has an empty password",
        "mysql_replication_accounts: password_fallbacks of boss has an empty password",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"mysql_replication_writer_address": ""},
        {"mysql_replication_server_id": 5, "mysql_replication_given_server_ids": [5, 0]},
        {
            "mysql_replication_settings": {
                "default_time_zone": "+00:00",
                "skip_name_resolve": 1,
                "event_scheduler": True,
            }
        },
    ],
)
def test_a_pair_may_have_settings_of_its_own(change: dict[str, Any]) -> None:
    assert rendering.problems("mysql_replication", GOOD["mysql_replication"] | change) == []


def test_an_engine_that_does_nothing_refuses_nothing() -> None:
    assert rendering.problems("vip_failover", {"vip_failover_engine": "none"}) == []


def test_all_that_is_wrong_is_said_though_some_of_it_is_of_the_wrong_type() -> None:
    change = {"was_django_port": "eighty", "was_django_static_url": "static", "was_django_threads": 0}
    found = rendering.problems("was_django", GOOD["was_django"] | change)
    assert [text.split()[0].rstrip(":") for text in found] == [
        "was_django_port",
        "was_django_threads",
        "was_django_static_url",
    ]


@pytest.mark.parametrize(
    ("settings", "interface", "words"),
    [
        ({"vip_failover_interface": "eth9"}, "", "vip_failover_interface eth9 is no interface of this host"),
        ({}, "", "no interface carries vip_failover_address 192.0.2.11"),
        ({"vip_failover_addresses": ["198.51.100.1/24"]}, "eth0", "is outside of the networks of eth0"),
    ],
)
def test_what_a_host_cannot_carry_is_refused(settings: dict[str, Any], interface: str, words: str) -> None:
    good = {**GOOD["vip_failover"], "vip_failover_interface": "", "vip_failover_engine": "keepalived"}
    seen = {"interface": interface, "networks": ["192.0.2.11/24"]}
    (found,) = vip_failover.host_problems(good | settings, seen)
    assert words in found.text
    assert vip_failover.host_problems(good, {**seen, "interface": "eth0"}) == []
    if interface:
        assert vip_failover.host_problems({**good, **settings, "vip_failover_engine": "hook"}, seen) == []
    assert vip_failover.host_problems({**good, **settings, "vip_failover_engine": "none"}, seen) == []


def test_a_report_has_the_variable_once() -> None:
    assert said("a_b is empty") == Problem("a_b", "a_b is empty")
    assert said("a_b is empty").message == "is empty"
    assert said("a_b: x is no name").message == "x is no name"
    assert said("a_b.KEY has no value").message == "KEY has no value"
    assert said("a_b and a_c must be 1").message == "a_b and a_c must be 1"


def test_a_rule_ends_where_a_setting_is_missing_and_no_other_one_does() -> None:
    assert collect({"b": 1}, lambda s: [s["a"]], lambda s: [f"b is {s['b']}"]) == [Problem("b", "b is 1")]
    with pytest.raises(KeyError):
        collect({"b": {}}, lambda s: [s["b"]["key"]])


def test_a_misspelt_variable_is_named_by_the_role_too() -> None:
    """A deploy runs the role without preflight."""
    known = {
        "was_django_smoke_check": [],
        "was_django_port": 8000,
        "__was_django_port": 1,
        "lb_nginx_typo": 1,
        "was_django": 2,
        "webstack_name": "x",
    }
    (found,) = misspelt(Role("was_django", str(rendering.ROLES / "was_django"), rendering.LOADER), "host1", known)
    assert found.host == "host1"
    assert found.variable == "was_django_smoke_check"
    assert found.message == "is no variable of this collection; did you mean was_django_smoke_checks?"
