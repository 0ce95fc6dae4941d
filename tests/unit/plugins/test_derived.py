"""What roles make of their inputs, in Python: the functions, and the rule that nothing else works it out."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible_collections.webstack.ha.plugins.module_utils import _files
from ansible_collections.webstack.ha.plugins.module_utils.derived import (
    lb_nginx,
    media_servers,
    quorum,
    redis_shard,
    release,
    shared_media,
    was_django,
)
from ansible_collections.webstack.ha.plugins.module_utils.derived import mysql_replication as database
from ansible_collections.webstack.ha.plugins.module_utils.derived import redis_cluster_client as ring_client
from rendering import render

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODULES = [path for path in sorted((ROOT / "plugins/module_utils/derived").glob("*.py")) if path.stem != "__init__"]
#: Of these, vars/main.yml holds constants.
CONSTANT = ("lb_nginx", "quorum", "redis_shard", "was_django")
#: What users call.
FILTERS = {
    "cache_configuration",
    "endpoints",
    "ring",
    "ring_locate",
    "ring_moved",
    "ring_report",
    "ring_shares",
    "ring_table",
    "shard_layout",
}

CALL = re.compile(r"lookup\('webstack\.ha\._derived', '(\w+)\.(\w+)'")


class Known(dict[str, Any]):
    """The variables of a role, with files and templates that say their names."""

    def read(self, path: str) -> str:
        return f"<{path}>"

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        return f"{template}{dict(variables) or ''}\n"


def by_path(files: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the entries by their path; webstack.ha.files takes them."""
    return {entry["dest"]: raw for entry, raw in zip(_files.entries(files), files, strict=True)}


def texts() -> Iterator[tuple[pathlib.Path, str]]:
    for folder in ("roles", "playbooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".yml", ".j2", ".md"):
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


# --- The rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", CONSTANT)
def test_variables_of_a_role_are_constants(role: str) -> None:
    """Names and paths made of others, and calls of Python: nothing is worked out in Jinja."""
    path = ROOT / "roles" / role / "vars/main.yml"
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert "{%" not in text
    plain = re.compile(rf"[a-z_]+(\.[a-z_]+|\[[a-z_.]+\]|\[:\d\])*|{CALL.pattern}\)")
    assert [found for found in re.findall(r"\{\{\s*(.*?)\s*\}\}", text, re.DOTALL) if not plain.fullmatch(found)] == []


def test_only_filters_that_users_call_are_public() -> None:
    folder = ROOT / "plugins/filter"
    modules = [
        import_module(f"ansible_collections.webstack.ha.plugins.filter.{path.stem}") for path in folder.glob("*.py")
    ]
    assert {name for module in modules for name in module.FilterModule().filters()} == FILTERS
    assert {path.stem for path in folder.glob("*.yml")} == FILTERS, "each has its documentation"
    used = {name for _path, text in texts() for name in re.findall(r"\|\s*webstack\.ha\.(\w+)", text)}
    assert used <= FILTERS


def test_every_call_has_its_function_and_every_function_its_call() -> None:
    called = {match.groups() for _path, text in texts() for match in CALL.finditer(text)}
    there = set()
    for path in MODULES:
        module = import_module(f"ansible_collections.webstack.ha.plugins.module_utils.derived.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                there.add((path.stem, name))
    assert called <= there
    inside = {
        (path.stem, node.id)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name)
    }
    assert there - called - inside == set()


def test_booleans_are_read_as_such() -> None:
    """An INI file and -e name=value give texts, and the text `false` would be true."""
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    options = {name: spec for data in specs for name, spec in data["argument_specs"]["main"]["options"].items()}
    booleans = {name for name, spec in options.items() if spec["type"] == "bool"}
    read = {name for path in MODULES for name in re.findall(r'role(?:\.get\(|\[)"(\w+)"', path.read_text())}
    assert read & booleans == set()


def test_the_lookup_names_the_variable_that_is_absent() -> None:
    with pytest.raises(AnsibleError, match="'__was_django_source' is undefined"):
        render("was_django", "__was_django_build_needed", {})


def test_the_lookup_says_whose_fault_it_is() -> None:
    with pytest.raises(AnsibleError) as caught:
        render("lb_nginx", "__lb_nginx_large_answer", {"lb_nginx_cache_answer_size_max": "32 MB"})
    assert "lb_nginx.large_answer: '32 MB' is no size in nginx's notation" in str(caught.value)


# --- lb_nginx ---------------------------------------------------------------------------------------


def balancer(**inputs: Any) -> Known:
    names = dict.fromkeys(f"lb_nginx_{name}" for name in lb_nginx.SITE_INPUTS)
    made = {"certificate": "CERT\n\n", "private_key": "KEY", "ca": "CA"}
    constants = yaml.safe_load((ROOT / "roles/lb_nginx/vars/main.yml").read_text())
    paths = {name: value for name, value in constants.items() if isinstance(value, str) and "{{" not in value}
    others = {
        "lb_nginx_server_names": ["www.a.test"],
        "lb_nginx_security_headers": {"X-A": 'say "$x"'},
        "lb_nginx_sites": [],
        "lb_nginx_tls_mode": "self_signed",
        "lb_nginx_acme_ca_file": "",
        "lb_nginx_cache_directory": "/var/cache/x",
        "__lb_nginx_certificate": made,
        "__lb_nginx_channel": made,
        "__lb_nginx_generation": "abc",
        "__lb_nginx_unit_path": "/u",
        "__lb_nginx_apply_path": "/apply",
        "__lb_nginx_tls_timer_path": "/timer",
        "__lb_nginx_tls_socket_path": "/socket",
    }
    return Known(names | paths | others | inputs)


TWO_SITES = [
    {"name": "one", "server_names": ["one.test"], "tls_certificate_file": "1.crt", "tls_key_file": "1.key"},
    {
        "name": "two",
        "server_names": ["two.test", "one.test"],
        "tls_certificate_file": "2.crt",
        "tls_key_file": "2.key",
        "maintenance_page_file": "2.html",
    },
]


def test_a_site_has_its_headers_in_nginx_quotes() -> None:
    (site,) = lb_nginx.sites(balancer())
    assert site["name"] == "site"
    assert site["header_texts"] == {"X-A": '"say \\"${webstack_dollar}x\\""'}


def test_names_of_several_sites_are_taken_once() -> None:
    assert lb_nginx.all_server_names(balancer(lb_nginx_sites=TWO_SITES)) == ["one.test", "two.test"]


def test_a_certificate_of_the_internal_authority_serves_all_sites() -> None:
    files = by_path(lb_nginx.files(balancer(lb_nginx_sites=TWO_SITES)))
    assert files["/etc/nginx/webstack/site.crt"]["content"] == "CERT\n"
    assert files["/etc/nginx/webstack/site.key"] == {
        "dest": "/etc/nginx/webstack/site.key",
        "content": "KEY\n",
        "mode": "0600",
        "secret": True,
    }
    assert files["/etc/nginx/webstack/one.html"]["src"] == lb_nginx.MAINTENANCE_PAGE
    assert files["/etc/nginx/webstack/two.html"]["src"] == "2.html"
    assert files["/socket"]["state"] == "absent"


def test_own_certificates_are_one_for_each_site() -> None:
    files = by_path(lb_nginx.files(balancer(lb_nginx_sites=TWO_SITES, lb_nginx_tls_mode="files")))
    found = {path: entry["content"] for path, entry in files.items() if re.search(r"webstack/\w+\.(crt|key)$", path)}
    assert found == {
        f"/etc/nginx/webstack/{name}.{kind}": f"<{number}.{kind}>\n"
        for number, name in enumerate(("one", "two"), 1)
        for kind in ("crt", "key")
    }


def test_certificates_of_an_authority_begin_with_a_stand_in_that_is_never_put_back() -> None:
    files = by_path(lb_nginx.files(balancer(lb_nginx_tls_mode="acme", lb_nginx_acme_ca_file="ca.pem")))
    first = files["/etc/nginx/webstack/acme/site.pem"]
    assert (first["force"], first["secret"], first["mode"]) == (False, True, "0600")
    assert files["/etc/webstack/tls/acme-ca.crt"]["content"] == "<ca.pem>"
    assert files["/etc/webstack/tls/channel/own.key"]["secret"]
    assert "state" not in files["/socket"]
    assert not [path for path in files if path.endswith(("site.crt", "site.key"))]


def test_the_generation_hangs_on_the_certificates_and_not_on_itself() -> None:
    own = lb_nginx.generation(balancer())
    text = "nginx.conf.j2\nsite.conf.j2\nhealth.conf.j2{'__lb_nginx_generation': ''}\nCERT\n\n"
    assert own == hashlib.sha256(text.encode()).hexdigest()
    renewed = balancer(__lb_nginx_certificate={"certificate": "NEW", "private_key": "KEY"})
    assert lb_nginx.generation(renewed) != own


def test_the_other_balancers_are_those_with_other_addresses() -> None:
    all_of_them = [{"name": "lb1", "address": "192.0.2.1"}, {"name": "lb2", "address": "192.0.2.2"}]
    role = balancer(lb_nginx_acme_balancers=all_of_them, lb_nginx_acme_address="192.0.2.1")
    assert lb_nginx.acme_peers(role) == all_of_them[1:]


# --- redis_shard ------------------------------------------------------------------------------------


def node(name: str, number: int, port: int = 6379) -> dict[str, Any]:
    return {"name": name, "address": f"192.0.2.{number}", "port": port}


SHARDS = [
    {"name": "a", "nodes": [node("host1", 1), node("host2", 2, 6380)]},
    {"name": "b", "nodes": [node("host2", 2), node("host1", 1, 6380)]},
    {"name": "c", "nodes": [node("host9", 9)]},
]
SENTINELS = [node(f"host{number}", number, 26379) for number in range(1, 6)]


def cache(**inputs: Any) -> Known:
    constants = yaml.safe_load((ROOT / "roles/redis_shard/vars/main.yml").read_text())
    others = {
        "redis_shard_node_name": "host1",
        "redis_shard_shards": SHARDS,
        "redis_shard_sentinels": SENTINELS,
        "redis_shard_engine": "ring",
        "redis_shard_server": "valkey",
        "redis_shard_tls_enabled": "true",
        "redis_shard_settings": {"b": True, "a": [1, 2]},
        "redis_shard_max_memory": "2mb",
        "redis_shard_replication_backlog": "1mb",
        "redis_shard_down_after_milliseconds": "200",
        "redis_shard_down_after_lead_milliseconds": 150,
        "redis_shard_down_after_step_milliseconds": 250,
        "__redis_shard_certificate": {"ca": "CA", "certificate": "CERT", "private_key": "KEY"},
        "__redis_shard_directory": "/etc/valkey",
        "__redis_shard_sentinel_unit": "valkey-sentinel.service",
    }
    return Known(constants | others | inputs)


def test_a_host_has_the_nodes_of_its_name() -> None:
    role = cache()
    assert [(shard["name"], own["port"]) for shard, own in redis_shard.own(role)] == [("a", 6379), ("b", 6380)]
    assert redis_shard.own_sentinels(role) == SENTINELS[:1]
    assert redis_shard.addresses(role) == ["192.0.2.1"]
    assert redis_shard.memory(role) == 2 * 3 * 1024**2
    assert redis_shard.packages(role) == ["valkey-server", "valkey-sentinel", "valkey-tools"]
    assert redis_shard.setting_lines(role) == ["a 1", "a 2", "b yes"]


@pytest.mark.parametrize(("tls", "kind"), [("true", "with"), ("no", "without")])
def test_a_host_says_what_it_runs(tls: str, kind: str) -> None:
    role = cache(redis_shard_tls_enabled=tls)
    assert redis_shard.kind(role) == f"ring of valkey {kind} TLS"
    assert redis_shard.certified(role) == (kind == "with")


def test_a_host_without_a_part_needs_no_certificate_and_has_no_instance() -> None:
    role = cache(redis_shard_node_name="host7", __redis_shard_certificate={"skipped": True})
    assert not redis_shard.certified(role)
    files = by_path(redis_shard.files(role))
    assert not [path for path in files if re.search(r"tls|valkey-\w+\.conf|sentinel", path)]
    assert files["/etc/webstack/redis-shard.kind"]["content"] == "ring of valkey with TLS\n"


def test_a_sentinel_leads_in_turn_and_that_of_the_shards_own_host_last() -> None:
    """Of five, two only support: quorum 5. The others lead, one after another: quorum 3."""
    seen = {
        name: {
            found["name"]: (found["quorum"], found["down_after_milliseconds"]) for found in redis_shard.monitors(role)
        }
        for name in ("host1", "host2", "host3", "host4", "host5")
        for role in [cache(redis_shard_node_name=name)]
    }
    # Who comes after the shard's own host supports; the own one is last.
    assert [seen[f"host{number}"]["a"] for number in (2, 3, 4, 5, 1)] == [
        (3, 350),
        (5, 200),
        (5, 200),
        (3, 600),
        (3, 850),
    ]
    assert seen["host2"]["b"][1] == max(times["b"][1] for times in seen.values())


def test_every_shard_has_a_leader_in_every_majority() -> None:
    for number in (3, 5, 7):
        sentinels = [node(f"host{index}", index) for index in range(1, number + 1)]
        for position in range(len(SHARDS)):
            quorums = [
                redis_shard.monitors(cache(redis_shard_sentinels=sentinels, redis_shard_node_name=own["name"]))[
                    position
                ]
                for own in sentinels
            ]
            supporters = [found for found in quorums if found["quorum"] == number]
            assert len(supporters) < number // 2 + 1
            leaders = [found["down_after_milliseconds"] for found in quorums if found["quorum"] != number]
            assert len(set(leaders)) == len(leaders), "two would elect themselves"


def test_the_application_may_ask_a_cluster_who_has_which_keys() -> None:
    assert "+cluster|slots" in redis_shard.accounts(cache(redis_shard_engine="redis_cluster"))["application"]
    assert "+cluster" not in redis_shard.accounts(cache())["application"]


def test_files_of_an_instance_are_checked_and_hidden() -> None:
    files = by_path(redis_shard.files(cache()))
    for shard, port in (("a", 6379), ("b", 6380)):
        settings = files[f"/etc/valkey/valkey-{shard}.conf"]
        assert settings["secret"]
        assert settings["vars"]["__redis_shard_port"] == port
        assert settings["validate"][-1] == "%s"
        assert f"/etc/systemd/system/valkey-server@{shard}.service.d/shard.conf" in files
    rights = files["/etc/valkey/sentinel-users.acl"]["vars"]["__redis_shard_accounts"]
    assert "+sentinel|masters" in rights["application"]
    assert files["/etc/valkey/tls/key.pem"]["secret"]


# --- was_django -------------------------------------------------------------------------------------


def application(**inputs: Any) -> Known:
    others = {
        "was_django_name": "shop",
        "was_django_port": 8000,
        "was_django_listen_address": "192.0.2.3",
        "was_django_allowed_hosts": ["*.shop.test"],
        "was_django_secret_key": "key",
        "was_django_environment": {},
        "was_django_python_path": ["/p"],
        "was_django_watched_files": ["/w"],
        "was_django_health_path": "/up",
        "was_django_health_timeout_seconds": 20,
        "was_django_keep_releases": 3,
        "was_django_media_root": "/srv/media",
        "was_django_request_timeout_seconds": "60",
        "was_django_processes": 0,
        "was_django_database_engine": "mysql",
        "was_django_database_host": "192.0.2.9",
        "was_django_database_port": 3306,
        "was_django_database_name": "shop",
        "was_django_database_password": "hidden",
        "was_django_database_sqlite_path": "/var/lib/shop/db.sqlite3",
        "was_django_database_tls_enabled": "true",
        "was_django_migrate_enabled": True,
        "was_django_manage_command": "manage.py",
        "was_django_requirement_files": ["a.txt", "b.txt"],
        "was_django_driver_packages": ["mysqlclient"],
        "was_django_extra_packages": ["x"],
        "was_django_pip_arguments": ["--pre"],
        "__was_django_user": "www-data",
        "__was_django_group": "www-data",
        "__was_django_base": "/srv/webstack/shop",
        "__was_django_configuration": "/etc/webstack/shop",
        "__was_django_manage_path": "/usr/local/bin/shop-manage",
        "__was_django_ca_path": "/ca.pem",
        "__was_django_media_servers_path": "/etc/webstack/shop/media.json",
        "__was_django_media_servers": "{}\n",
        "inventory_hostname": "was1",
        "__was_django_apache_files": ["/etc/apache2/ports.conf"],
        "__was_django_certificate": {"ca": "CA"},
        "__was_django_release": "r2",
        "__was_django_release_path": "/srv/webstack/shop/releases/r2",
        "__was_django_step": ["webstack", "app", "shop", "run"],
        "__was_django_found": {"processors": 1, "releases": ["r1"], "migrated": []},
        "was_django_smoke_checks": [{"path": "/"}],
        "was_django_migrate_host": "was1",
        "was_django_after_migrate_commands": [["check", "--tag", "models"]],
        "was_django_once_per_database_commands": [],
        "was_django_after_collect_commands": [],
        "was_django_source": {"path": "../shop"},
        "__was_django_source": {"id": "r2", "commit": None},
        "ansible_play_hosts": ["was1", "was2"],
        "hostvars": {"was1": {}, "was2": {}},
    }
    return Known(others | inputs)


BALANCERS: dict[str, dict[str, Any]] = {
    "silent": {},
    "said": {"lb_nginx_backend_read_timeout_seconds": "30"},
    "paths": {
        "lb_nginx_locations": [
            {"path": "/ws/", "websocket": True, "read_timeout_seconds": 3600},
            {"path": "/export/", "read_timeout_seconds": 600},
            {"path": "/a/"},
        ]
    },
    "sites": {
        "lb_nginx_backend_read_timeout_seconds": 20,
        "lb_nginx_sites": [
            {"name": "one", "server_names": ["one"], "locations": [{"path": "/x/", "read_timeout_seconds": 90}]},
            {"name": "two", "server_names": ["two"], "backend_read_timeout_seconds": 45},
            {"name": "other", "backend_read_timeout_seconds": 900, "backends": [{"name": "a", "port": 9000}]},
        ],
    },
}


@pytest.mark.parametrize(
    ("hosts", "said", "longest"),
    [
        ([], 0, 60),
        (["silent"], 0, 60),
        (["said"], 30, 30),
        (["said", "silent"], 30, 60),
        (["paths"], 600, 600),
        (["sites"], 90, 90),
    ],
)
def test_a_request_may_take_as_long_as_the_balancers_wait(hosts: list[str], said: int, longest: int) -> None:
    known: dict[str, Any] = {"groups": {"lb": hosts}, "hostvars": BALANCERS}
    assert was_django.balancers_wait(application(**known)) == said
    assert was_django.request_timeout(Known(), port=8000, **known) == longest


def test_a_wait_that_is_no_number_names_the_host() -> None:
    known = {"lb1": {"lb_nginx_backend_read_timeout_seconds": "soon"}}
    with pytest.raises(ValueError, match="read timeouts of lb1 cannot be read"):
        was_django.balancers_wait(application(groups={"lb": ["lb1"]}, hostvars=known))


@pytest.mark.parametrize(("timeout", "graceful", "silence"), [("10", 30, 90), (60, 60, 90), (600, 600, 630)])
def test_times_follow_the_longest_request(timeout: Any, graceful: int, silence: int) -> None:
    role = application(was_django_request_timeout_seconds=timeout)
    assert (was_django.graceful_seconds(role), was_django.silence_seconds(role)) == (graceful, silence)


@pytest.mark.parametrize(("wanted", "processors", "count"), [(0, 1, 2), (0, 8, 8), ("3", 8, 3)])
def test_processes_are_those_of_the_processors_unless_somebody_says(wanted: Any, processors: int, count: int) -> None:
    role = application(was_django_processes=wanted, __was_django_found={"processors": processors})
    assert was_django.processes(role) == count


def test_apache_listens_on_an_address_once() -> None:
    assert was_django.listen(application()) == ["192.0.2.3", "127.0.0.1"]
    assert was_django.listen(application(was_django_listen_address="127.0.0.1")) == ["127.0.0.1"]


def test_an_application_asks_all_servers_but_its_own_for_an_upload() -> None:
    hosts = {"was1": {"webstack_address": "192.0.2.3"}, "was2": {"webstack_address": "192.0.2.4"}, "was3": {}}
    all_of_them = media_servers.servers(Known(), groups={"was": list(hosts)}, hostvars=hosts, port=8000)
    assert all_of_them == [
        {"name": "was1", "address": "192.0.2.3", "port": 8000},
        {"name": "was2", "address": "192.0.2.4", "port": 8000},
    ]
    assert media_servers.servers(Known(), groups={}, hostvars=hosts, port=8000) == []

    def asked(**inputs: Any) -> Any:
        role = application(was_django_media_servers=all_of_them, was_django_media_url="/media/", **inputs)
        return json.loads(media_servers.document(role))

    assert asked() == {"host": "www.shop.test", "servers": [{"address": "192.0.2.4", "port": 8000}]}
    role = application(was_django_media_servers=all_of_them, was_django_media_url="")
    assert json.loads(media_servers.document(role))["servers"] == [], "no Apache serves them"


def test_what_the_user_says_comes_before_the_usual_and_after_the_secrets() -> None:
    given = {"DEBUG": "1", "TMPDIR": "/t", "WEBSTACK_SECRET_KEY": "no"}
    found = was_django.environment(application(was_django_environment=given))
    assert (found["DEBUG"], found["DJANGO_DEBUG"], found["TMPDIR"]) == ("1", "False", "/t")
    assert (found["WEBSTACK_SECRET_KEY"], found["WEBSTACK_DATABASE_PASSWORD"]) == ("key", "hidden")
    assert found["DJANGO_ALLOWED_HOSTS"] == ".shop.test"
    on_sqlite = was_django.environment(application(was_django_database_engine="sqlite"))
    assert "WEBSTACK_DATABASE_PASSWORD" not in on_sqlite


def seen(**states: dict[str, Any]) -> dict[str, Any]:
    """What the hosts of a run said about themselves."""
    hosts = {name: {"__was_django_status": {"state": state}} for name, state in states.items()}
    return {"ansible_play_hosts": list(hosts), "hostvars": hosts}


def test_another_database_is_migrated_too() -> None:
    marker = release.migration_marker(application())
    assert re.fullmatch(r"\.migrated-[0-9a-f]{12}", marker)
    assert release.migration_needed(application())
    known = seen(was1={"migrated": []}, was2={"migrated": [f"r2/{marker}"]})
    role = application(**known)
    assert not release.migration_needed(role), "another host of the run has done it"
    for change in ({"was_django_database_name": "other"}, {"was_django_database_engine": "sqlite"}):
        assert release.migration_needed(Known(role | change))
    for name in ("was_django_after_migrate_commands", "was_django_once_per_database_commands"):
        assert release.migration_needed(Known(role | {name: [["added", "later"]]})), name
    assert not release.migration_needed(application(was_django_migrate_enabled="no"))
    assert not release.migration_needed(application(was_django_migrate_host="was3")), "who migrates is not in the run"


def test_a_release_has_its_own_settings_and_its_name_says_so() -> None:
    role = application(__was_django_configuration="/etc/webstack/shop")
    files = by_path(release.files(role))
    top = "/srv/webstack/shop/releases/r2"
    secret = {f"{top}/environment", f"{top}/python/webstack_settings.py"}
    assert {path for path, file in files.items() if file.get("secret")} == secret
    assert all((files[path]["group"], files[path]["mode"]) == ("www-data", "0640") for path in secret)
    assert files[f"{top}/manage"]["mode"] == "0755"
    checks = json.loads(files[f"{top}/checks.json"]["content"])
    assert checks == {"health_host": "www.shop.test", "health_path": "/up", "smoke_checks": [{"path": "/"}]}

    name = release.settings_digest(role)
    assert re.fullmatch("[0-9a-f]{8}", name)
    assert release.settings_digest(Known(role | {"__was_django_release_path": "/other"})) == name
    changed = [{"was_django_smoke_checks": []}, {"was_django_secret_key": "another"}]
    assert len({name, *(release.settings_digest(Known(role | change)) for change in changed)}) == 3


def test_each_setting_and_each_secret_is_a_part_of_the_name() -> None:
    """By the real templates."""
    good = {
        "was_django_settings_module": "shop.settings",
        "was_django_secret_key": "k" * 40,
        "was_django_allowed_hosts": ["www.shop.test"],
        "was_django_database_host": "192.0.2.9",
        "was_django_database_password": "p" * 20,
        "role_path": str(ROOT / "roles/was_django"),
        "ansible_search_path": [str(ROOT / "roles/was_django")],
    }
    changes: list[dict[str, Any]] = [
        {},
        {"was_django_environment": {"MAIL": "on"}},
        {"was_django_environment": {"MAIL": "off"}},
        {"was_django_database_password": "q" * 20},
        {"was_django_settings_extra": "X = 1"},
        {"was_django_working_directory": "data"},
        {"was_django_manage_command": "bin/tool.py"},
        {"was_django_health_path": "/up"},
        {"was_django_secret_key_fallbacks": ["f" * 40]},
    ]
    names = [
        render("was_django", "lookup('webstack.ha._derived', 'release.settings_digest')", good | change)
        for change in changes
    ]
    assert len(set(names)) == len(changes)
    again = render("was_django", "lookup('webstack.ha._derived', 'release.settings_digest')", good)
    elsewhere = good | {"ansible_managed": "by ada on her desk", "was_django_port": 8010, "was_django_threads": 9}
    assert again == names[0]
    assert render("was_django", "lookup('webstack.ha._derived', 'release.settings_digest')", elsewhere) == names[0]


@pytest.mark.parametrize(
    ("source", "commit", "said"),
    [
        ({"path": "x"}, None, ""),
        ({"version": "v1.4"}, "0123456789abcdef", "v1.4 0123456789ab"),
        ({"version": "0123456789abcdef"}, "0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_a_release_is_called_as_people_call_it(source: dict[str, str], commit: str | None, said: str) -> None:
    assert release.version(application(was_django_source=source, __was_django_source={"commit": commit})) == said


def test_the_way_back_leads_to_one_release_that_ran_and_is_everywhere() -> None:
    first = {"current": "r4", "ran": ["r4", "r3", "r2"], "releases": ["r4", "r3", "r2", "r1"]}
    behind = {"current": "r2", "ran": ["r2", "r1"], "releases": ["r2", "r4", "r1"]}
    assert release.rollback_release(application(**seen(was1=first, was2=first))) == "r3"
    assert release.rollback_release(application(**seen(was1=first, was2=behind))) == "r2"
    assert release.rollback_release(application(**seen(was1=first, was2={}))) == ""


def test_of_a_loop_the_bad_item_says_what_failed() -> None:
    loop = {
        "failed": True,
        "msg": "One or more items failed",
        "results": [{"rc": 0}, {"failed": True, "stderr": "why"}],
    }
    assert release.failure(application(ansible_failed_result=loop))["stderr"] == "why"
    assert release.failure(application(ansible_failed_result={"failed": True, "msg": "m"})) == {
        "failed": True,
        "msg": "m",
    }
    assert release.failure(application()) == {}, "another host failed"


def test_a_plan_says_what_would_happen() -> None:
    here = {"current": "r1", "running": "r1", "healthy": True, "releases": ["r1"], "migrated": [], "turn": ""}
    role = application(__was_django_found=here, was_django_once_per_database_commands=[["loaddata", 1]])
    assert release.plan(role) == [
        "r2 would be built",
        "was1 would migrate the database; then loaddata 1, unless this database has seen it; then check --tag models",
        "r1 runs; r2 would be run once these pages answer: /",
    ]
    role["__was_django_found"] = {**here, "current": "r2", "running": "r2", "releases": ["r2"], "turn": "ada deploys"}
    role["was_django_migrate_enabled"] = False
    assert release.plan(role) == [
        "ada deploys: this would be refused",
        "r2 is built already",
        "the database would stay as it is",
        "it runs already",
    ]


def test_the_releases_of_all_hosts_are_one_table() -> None:
    one = {"release": "r1", "version": "", "when": "2026", "by": "ada", "state": "current", "healthy": True, "why": ""}
    said = {"stdout": json.dumps({"releases": [one, {**one, "state": "kept", "healthy": None}]})}
    role = application(hostvars={name: {"__was_django_listed": said} for name in ("was1", "was2")})
    lines = release.release_table(role)
    assert [line.split() for line in lines[1:3]] == [
        ["was1", "r1", "2026", "ada", "current", "yes"],
        ["was1", "r1", "2026", "ada", "kept"],
    ]
    assert len(lines) == 5


def test_a_release_that_is_there_is_not_built() -> None:
    assert release.build_needed(application())
    assert not release.build_needed(application(__was_django_release="r1"))


@pytest.mark.parametrize(
    ("command", "words", "files"),
    [
        ("manage.py", '"$release/src/manage.py"', ["a.txt", "b.txt", "manage.py"]),
        ("django-admin", "-m django", ["a.txt", "b.txt"]),
    ],
)
def test_the_management_program_is_a_file_of_the_project_or_djangos(command: str, words: str, files: list[str]) -> None:
    role = application(was_django_manage_command=command)
    assert release.manage(role) == words
    assert release.required_files(role) == files


def test_all_requirements_are_resolved_together() -> None:
    command = release.pip_command(application())
    assert command[:5] == ["webstack", "app", "shop", "run", "/srv/webstack/shop/releases/r2/venv/bin/pip"]
    assert command[-5:] == ["--pre", "--requirement=a.txt", "--requirement=b.txt", "mysqlclient", "x"]


def test_the_lines_of_all_hosts_stand_by_time() -> None:
    def told(*lines: tuple[str, str]) -> dict[str, Any]:
        said = json.dumps({"lines": [{"time": moment, "text": text} for moment, text in lines]})
        return {"__was_django_told": {"stdout": said}}

    hosts: dict[str, Any] = {"was1": told(("10:02", "b"), ("10:02", "a")), "was2": told(("10:01", "c"))}
    asked: Any = {"ansible_play_hosts": ["was1", "was2"], "hostvars": hosts, "__was_django_request": "5f1c"}
    assert release.log_lines(asked) == ["10:01  was2  c", "10:02  was1  b", "10:02  was1  a"]
    hosts |= {"was1": told(), "was2": told()}
    assert release.log_lines(asked) == ["no journal of was1, was2 has a line about the request 5f1c"]


def test_files_of_the_application() -> None:
    files = by_path(was_django.files(application()))
    assert files["/ca.pem"]["content"] == "CA"
    assert "/etc/webstack/shop/environment" not in files, "a release has its own"
    assert files["/etc/apache2/sites-enabled/shop.conf"]["src"] == "../sites-available/shop.conf"
    told = json.loads(files["/etc/webstack/shop/release.json"]["content"])
    assert told["health_host"] == "www.shop.test"
    assert told["watch"] == ["/etc/webstack/shop/webstack_start.py", "/p", "/w"]


def test_a_database_in_a_file_has_its_directory_and_no_authority() -> None:
    files = by_path(was_django.files(application(was_django_database_engine="sqlite")))
    assert files["/var/lib/shop"]["owner"] == "www-data"
    assert "/ca.pem" not in files


# --- quorum -----------------------------------------------------------------------------------------


def member(**inputs: Any) -> Known:
    made = {"certificate": "CERT", "private_key": "KEY", "ca": "CA"}
    constants = yaml.safe_load((ROOT / "roles/quorum/vars/main.yml").read_text())
    others = {name: value for name, value in constants.items() if isinstance(value, str) and "{{" not in value} | {
        "quorum_members": [{"name": f"q{number}", "address": f"192.0.2.{number}", "port": "2379"} for number in (1, 2)],
        "quorum_node_name": "q1",
        "quorum_peer_port": "2380",
        "quorum_answer_seconds": "3",
        "quorum_data_directory": "/data",
        "quorum_snapshot_directory": "/snapshots",
        "quorum_snapshot_hours": "6",
        "quorum_snapshot_keep": 12,
        "quorum_quota_mebibytes": 256,
        "__quorum_start_files": ["/x"],
        "__quorum_mask": constants["__quorum_mask"],
        "__quorum_certificate": made,
    }
    return Known(others | inputs)


def test_files_of_a_member_and_of_a_host_that_only_asks() -> None:
    files = by_path(quorum.files(member()))
    assert (files["/data"]["owner"], files["/data"]["mode"]) == ("etcd", "0700")
    key = files["/etc/webstack/quorum/key.pem"]
    assert (key["content"], key["group"], key["mode"], key["secret"]) == ("KEY", "etcd", "0640", True)
    told = json.loads(files["/etc/webstack/quorum.json"]["content"])
    assert (told["peer_port"], told["answer_seconds"], told["members"][1]["port"]) == (2380, 3, 2379)
    assert (told["member"]["quota_bytes"], told["member"]["snapshot_hours"]) == (268435456, 6)
    assert files["/etc/systemd/system/etcd.service"]["src"] == "/dev/null"
    asking = by_path(quorum.client_files(member(quorum_node_name="db1")))
    assert "member" not in json.loads(asking["/etc/webstack/quorum.json"]["content"])
    assert (asking["/etc/webstack/quorum/key.pem"]["group"], asking["/etc/webstack/quorum/key.pem"]["mode"]) == (
        "root",
        "0600",
    )
    assert set(asking) < set(files)


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert quorum.host(member()) == "192.0.2.1"
    assert (
        quorum.host(member(quorum_members=[{"name": "q1", "address": "2001:db8::1", "port": 2379}])) == "[2001:db8::1]"
    )


def looks(**answers: Any) -> dict[str, Any]:
    """What the members of a run said; None stands for one that was not asked, as in check mode."""
    hosts = {
        name: {"__quorum_look": said and {"stdout": json.dumps({"name": name, **said})}}
        for name, said in answers.items()
    }
    return {"ansible_play_hosts": list(hosts), "hostvars": hosts}


def test_who_has_no_data_is_only_who_said_so() -> None:
    nothing, has = {"data": False, "token": "new", "formed": False}, {"data": True, "token": "other", "formed": False}
    interrupted = {"data": True, "token": "first", "formed": True}
    role = member(**looks(q1=nothing, q2=has, q3=None))
    assert (quorum.empty(role), quorum.token(role)) == (["q1"], "new")
    role = member(**looks(q1=nothing, q2=interrupted))
    assert (quorum.empty(role), quorum.token(role)) == (["q1", "q2"], "first")
    role = member(**looks(q1=None))
    assert (quorum.empty(role), quorum.token(role)) == ([], "")


def test_what_was_said_before_a_host_had_settled_counts_no_more() -> None:
    said = looks(q1={"data": False, "token": "new", "formed": False})
    said["hostvars"]["q1"]["__quorum_configure"] = {"settled": True}
    assert quorum.empty(member(**said)) == []


# --- Others -----------------------------------------------------------------------------------------


def test_a_device_id_is_the_given_one_or_what_the_host_said() -> None:
    peers = [{"name": "was1", "device_id": "ONE"}, {"name": "was2"}, {"name": "was3"}, {"name": "other"}]
    known = {"was1": {}, "was2": {"__shared_media_identity": {"stdout_lines": ["x", "TWO "]}}, "was3": {}}
    assert shared_media.device_ids(Known(), peers=peers, hostvars=known) == {"was1": "ONE", "was2": "TWO"}


def test_sentinels_are_those_of_the_inventory_and_of_a_ring_only() -> None:
    hosts = ["a", "b", "c"]
    known = {host: {"webstack_address": f"192.0.2.{number}"} for number, host in enumerate(hosts, 1)}
    found = {
        engine: redis_shard.sentinel_hosts(Known(), groups={"redis": hosts}, hostvars=known, engine=engine)
        for engine in ("ring", "single")
    }
    assert [sentinel["name"] for sentinel in found["ring"]] == hosts
    assert found["single"] == []


def test_the_pairs_plan_comes_from_the_answers() -> None:
    nodes = [node("db1", 1, 3306), node("db2", 2, 3306)]
    role = Known(
        mysql_replication_nodes=nodes,
        mysql_replication_initial_primary="db1",
        mysql_replication_reseed="false",
        mysql_replication_seed_node="db2",
        mysql_replication_settings={"max_connections": 9},
        __mysql_replication_answers={"results": [{"__mysql_replication_item": {"name": "db1"}, "skipped": True}]},
    )
    assert database.plan(role).keys() == database.seed_plan(role).keys()
    assert database.setting_lines(role) == ["max_connections = 9"]


def test_the_rings_in_use_are_those_of_the_hosts_that_were_asked() -> None:
    shards = [{"name": "a", "weight": 1, "nodes": [node("a", 1)]}]
    role = Known(
        hostvars={"was1": {"__redis_cluster_client_live": {}}, "was2": {"__redis_cluster_client_live": None}},
        redis_cluster_client_shards=shards,
        redis_cluster_client_points="160",
        __hosts=["was1"],
    )
    found = ring_client.situation(role)
    assert (found["phase"], found["hindrances"]) == ("first", [])
    more = Known(role | {"__redis_cluster_client_options": {"hosts": ["was1", "was2"]}})
    assert ring_client.situation(more)["hindrances"] != []
