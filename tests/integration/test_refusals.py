"""Bad input is refused by the playbook itself, before any host is asked: host and variable are named, nothing changes.

One start of ansible-playbook costs one to two seconds, so each kind of refusal is here once; the many shapes of
each stand in tests/unit/plugins/test_preflight.py. No host needs to be up.
"""

from __future__ import annotations

import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
SECRETS = yaml.safe_load((ROOT / "meta/site_specs.yml").read_text(encoding="utf-8"))["secrets"]

Inventory = dict[str, Any]


def good() -> Inventory:
    """Return an inventory that has what a site needs and nothing else."""
    tiers = {"lb": 2, "was": 2, "redis": 3, "db": 2}
    children: dict[str, Any] = {}
    number = 10
    for tier, count in tiers.items():
        hosts = {}
        for index in range(1, count + 1):
            number += 1
            hosts[f"{tier}{index}"] = {"webstack_address": f"192.0.2.{number}"}
        children[tier] = {"hosts": hosts}
    children["quorum"] = {"hosts": {"lb1": {}, "redis1": {}, "db1": {}}}
    settings = {
        # Nothing may reach a host: this connection does not exist.
        "ansible_connection": "webstack.ha.none",
        "webstack_network": "192.0.2.0/24",
        "webstack_virtual_addresses": ["192.0.2.100/24"],
        "webstack_database_address": "192.0.2.101/24",
        "webstack_server_names": ["www.example.com"],
        "was_django_source": {"type": "directory", "path": "../shop"},
        "was_django_settings_module": "shop.settings",
        **{name: f"{index}".rjust(40, "s") for index, name in enumerate(SECRETS)},
    }
    return {"all": {"vars": settings, "children": children}}


def settings(inventory: Inventory) -> dict[str, Any]:
    found: dict[str, Any] = inventory["all"]["vars"]
    return found


def host(inventory: Inventory, name: str) -> dict[str, Any]:
    found: dict[str, Any] = inventory["all"]["children"][name.rstrip("0123456789")]["hosts"][name]
    return found


def play(directory: pathlib.Path, playbook: pathlib.Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["ansible-playbook", str(playbook), *arguments],
        cwd=directory,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def preflight(directory: pathlib.Path, inventory: Inventory, *arguments: str) -> tuple[int, str]:
    file = directory / "hosts.yml"
    file.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    return play(directory, PLAYBOOKS / "preflight.yml", "-i", str(file), *arguments)


def refused(output: str) -> list[str]:
    """Return the lines of the report."""
    found = re.search(r"Nothing was changed: .+\.\n((?:  \S.*\n)+)", output)
    assert found, output
    return [line.strip() for line in found[1].splitlines()]


# Each case: what is done to a good inventory, and the whole line that must be in the report.
def _missing_address(inventory: Inventory) -> None:
    del host(inventory, "redis2")["webstack_address"]


def _unknown_variable(inventory: Inventory) -> None:
    host(inventory, "lb1")["lb_nginx_backend_prot"] = 8000


def _unknown_setting(inventory: Inventory) -> None:
    settings(inventory)["webstack_vritual_addresses"] = []


def _wrong_type(inventory: Inventory) -> None:
    host(inventory, "was2")["webstack_server_names"] = "www.example.com"


def _wrong_role_type(inventory: Inventory) -> None:
    host(inventory, "lb2")["lb_nginx_http_port"] = "eighty"


def _outside(inventory: Inventory) -> None:
    settings(inventory)["webstack_virtual_addresses"] = ["198.51.100.7/24"]


def _equal_ids(inventory: Inventory) -> None:
    host(inventory, "db1")["mysql_replication_server_id"] = 7
    host(inventory, "db2")["mysql_replication_server_id"] = 7


def _empty_group(inventory: Inventory) -> None:
    inventory["all"]["children"]["was"] = {"hosts": {}}


def _no_password(inventory: Inventory) -> None:
    del settings(inventory)["webstack_database_password"]


def _no_role_password(inventory: Inventory) -> None:
    del settings(inventory)["mysql_replication_password"]


def _same_address(inventory: Inventory) -> None:
    host(inventory, "was2")["webstack_address"] = "192.0.2.13"


def _broken_expression(inventory: Inventory) -> None:
    host(inventory, "was1")["webstack_application_port"] = "{{ site_port }}"


def _shorter_application(inventory: Inventory) -> None:
    host(inventory, "lb2")["lb_nginx_locations"] = [{"path": "/export/", "read_timeout_seconds": 600}]
    host(inventory, "was1")["was_django_request_timeout_seconds"] = 60


def _longer_application(inventory: Inventory) -> None:
    host(inventory, "was2")["was_django_request_timeout_seconds"] = 300


def _no_boolean(inventory: Inventory) -> None:
    host(inventory, "lb1")["lb_nginx_http3_enabled"] = "maybe"


def _no_writer_address(inventory: Inventory) -> None:
    settings(inventory)["webstack_database_address"] = ""


def _no_pki_directory(inventory: Inventory) -> None:
    # What a lookup of an absent environment variable leaves.
    settings(inventory)["webstack_pki_directory"] = "{{ lookup('env', 'WEBSTACK_NO_SUCH_VARIABLE') }}/pki"


def _relative_pki_directory(inventory: Inventory) -> None:
    settings(inventory)["webstack_pki_directory"] = "pki"


def _no_media_directory(inventory: Inventory) -> None:
    settings(inventory)["webstack_media_directory"] = ""


def _no_cache_directory(inventory: Inventory) -> None:
    host(inventory, "lb2")["lb_nginx_cache_directory"] = "{{ lookup('env', 'WEBSTACK_NO_SUCH_VARIABLE') }}/"


def _two_pki_directories(inventory: Inventory) -> None:
    host(inventory, "was2")["redis_cluster_client_pki_directory"] = "/tmp/elsewhere/pki"


def _two_sources(inventory: Inventory) -> None:
    host(inventory, "was2")["was_django_source"] = {"type": "directory", "path": "{{ inventory_dir }}/other"}


CASES: list[tuple[Callable[[Inventory], None], str]] = [
    (_missing_address, "redis2: webstack_address: is not set"),
    (
        _unknown_variable,
        "lb1: lb_nginx_backend_prot: is no variable of this collection; did you mean lb_nginx_backend_port?",
    ),
    (
        _unknown_setting,
        "webstack_vritual_addresses: is no variable of this collection; did you mean webstack_virtual_addr",
    ),
    (_wrong_type, "was2: webstack_server_names: must be a list, not the text 'www.example.com'"),
    (_wrong_role_type, "lb2: lb_nginx_http_port: must be a whole number, not 'eighty'"),
    (_outside, "lb1: webstack_virtual_addresses: 198.51.100.7 lies outside webstack_network 192.0.2.0/24"),
    (_equal_ids, "db2: mysql_replication_server_id: 7 is also used by db1"),
    (_empty_group, "group was: has no hosts, at least 2 are needed"),
    (_no_password, "was1, was2, db1, db2: webstack_database_password: is not set"),
    (_no_role_password, "db1, db2: mysql_replication_password: is not set"),
    (_same_address, "was2: webstack_address: 192.0.2.13 is also the address of was1"),
    (
        _shorter_application,
        "was1: was_django_request_timeout_seconds: is 60, but the balancers wait 600 s at most "
        "(lb_nginx_backend_read_timeout_seconds, lb_nginx_locations and lb_nginx_sites of lb2)",
    ),
    (_longer_application, "was2: was_django_request_timeout_seconds: is 300, but the balancers wait 60 s at most"),
    (
        _no_writer_address,
        "was1, was2: was_django_database_host: is not set (needed by was_django_database_engine: mysql)",
    ),
    (_no_boolean, "lb1: lb_nginx_http3_enabled: must be true or false, not the text 'maybe'"),
    (_no_pki_directory, "webstack_pki_directory: /pki lies directly below /: is a variable in it empty?"),
    (_no_media_directory, "webstack_media_directory: must be the absolute path of a directory, not the text ''"),
    (_no_cache_directory, "lb2: lb_nginx_cache_directory: must be the absolute path of a directory, not the text '/'"),
    (_relative_pki_directory, "webstack_pki_directory: pki must be an absolute path"),
    (
        _two_pki_directories,
        "was2: redis_cluster_client_pki_directory: differs from was1's redis_cluster_client_pki_directory",
    ),
    (_two_sources, "was2: was_django_source: differs from was1's: both must be the same"),
    (_broken_expression, "was1: site_port: is not set (needed by webstack_application_port"),
]


@pytest.mark.parametrize(("spoil", "line"), CASES, ids=[case[0].__name__.strip("_") for case in CASES])
def test_bad_input_is_refused(tmp_path: pathlib.Path, spoil: Callable[[Inventory], None], line: str) -> None:
    inventory = copy.deepcopy(good())
    spoil(inventory)
    code, output = preflight(tmp_path, inventory)
    assert code != 0, output
    assert any(line in found for found in refused(output)), output
    assert len(refused(output)) == 1, "one fault, one line"
    assert "changed=0" in output
    assert not re.search(r"changed=[1-9]", output)
    assert "Ask the hosts" not in output, "a host was asked although the inventory is bad"


def test_all_faults_are_reported_at_once_also_with_limit_and_check(tmp_path: pathlib.Path) -> None:
    inventory = good()
    for spoil in (_missing_address, _unknown_variable, _outside, _equal_ids):
        spoil(inventory)
    code, output = preflight(tmp_path, inventory, "--check", "--diff", "--limit", "lb1")
    assert code != 0, output
    lines = refused(output)
    assert len(lines) == 4, output
    # Hosts outside the limit count too: the site is one thing.
    assert "redis2: webstack_address: is not set" in lines
    assert "db2: mysql_replication_server_id: 7 is also used by db1" in lines


#: Input of a role, the group that it is given to, and what is said of it there.
WRONG_INPUTS: list[tuple[str, str, Any, str]] = [
    ("lb", "vip_failover_engine", "classic", ""),
    ("lb", "vip_failover_classic_scheduler", "cron", ""),
    (
        "lb",
        "vip_failover_classic_interval_seconds",
        90,
        "vip_failover_classic_interval_seconds: has to be a multiple of 60 below 3600 with cron",
    ),
    (
        "lb",
        "vip_failover_check_url",
        "https://x/",
        "vip_failover_check_url: is no http:// URL with a host name or an IPv4 address",
    ),
    (
        "was",
        "was_django_static_url",
        "static",
        "was_django_static_url: must begin and end with / and have no blanks, got 'static'",
    ),
    (
        "lb",
        "lb_nginx_probe_fall",
        0,
        "lb_nginx_probe_fall: lb_nginx_probe_fall and lb_nginx_probe_rise must be at least 1",
    ),
    (
        "lb",
        "lb_nginx_sites",
        [{"name": "shop", "server_names": [f"{name}.example.com"]} for name in ("shop", "blog")],
        "lb_nginx_sites: two sites have the name shop",
    ),
    ("was", "was_django_keep_releases", 0, "was_django_keep_releases: must be 1 or more, not 0"),
    ("was", "was_django_secret_key", "short", "was_django_secret_key: must have at least 32 characters"),
    (
        "was",
        "webstack_media_directory",
        "/media",
        "shared_media_directory: must be an absolute path below a top directory, without spaces and without a slash at "
        "its end; it is /media",
    ),
]


def test_the_example_with_inputs_that_only_a_role_refused_is_refused_whole(tmp_path: pathlib.Path) -> None:
    """The run would have changed databases and caches before the application's role said no."""
    shutil.copytree(ROOT / "inventories/example", tmp_path / "example")
    inventory = tmp_path / "example/hosts.yml"
    groups = yaml.safe_load(inventory.read_text(encoding="utf-8"))["all"]["children"]
    secrets = {name: f"{index}".rjust(40, "s") for index, name in enumerate(SECRETS)}
    site = tmp_path / "example/group_vars/all/secrets.yml"
    site.write_text(yaml.safe_dump({**secrets, "ansible_connection": "webstack.ha.none"}), encoding="utf-8")
    run = (tmp_path, PLAYBOOKS / "preflight.yml", "-i", str(inventory))
    _code, output = play(*run)
    assert "TASK [Ask the hosts" in output, output

    for group in groups:
        inputs = {name: value for tier, name, value, _line in WRONG_INPUTS if tier == group}
        file = tmp_path / f"example/group_vars/{group}.yml"
        file.write_text(yaml.safe_dump(inputs), encoding="utf-8")
    code, output = play(*run, "--check")
    assert code != 0, output
    wanted = {f"{', '.join(groups[tier]['hosts'])}: {line}" for tier, _name, _value, line in WRONG_INPUTS if line}
    assert set(refused(output)) == wanted, output
    assert "TASK [Ask the hosts" not in output, output


def test_the_places_of_the_cache_are_checked_before_anything_else(tmp_path: pathlib.Path) -> None:
    """Lists that somebody wrote by hand are checked as those that are derived."""
    inventory = good()
    hosts = [f"redis{number}" for number in (1, 2, 3)]
    places = [{"name": name, "address": host(inventory, name)["webstack_address"]} for name in hosts]
    settings(inventory).update(
        redis_shard_max_memory="2 barrels",
        redis_shard_shards=[{"name": "one", "nodes": [{**places[0], "port": port} for port in (6379, 6380)]}],
        redis_shard_sentinels=[
            {**places[0], "port": 26379},
            {**places[1], "port": 26379},
            {**places[1], "name": "alias", "port": 26380},
        ],
    )
    code, output = preflight(tmp_path, inventory, "--limit", "redis")
    assert code != 0, output
    said = " ".join(refused(output))
    assert "redis_shard_shards: two nodes of shard one have the name redis1" in said
    assert "redis_shard_sentinels: two sentinels have the address 192.0.2.16" in said
    assert "redis_shard_max_memory: must be an amount of memory like 256mb" in said

    inventory = good()
    settings(inventory)["webstack_cache_engine"] = "redis_cluster"
    del inventory["all"]["children"]["redis"]["hosts"]["redis3"]
    code, output = preflight(tmp_path, inventory)
    assert code != 0, output
    assert "webstack_cache_engine redis_cluster needs 3 hosts in the group redis, there are 2" in output
    assert "TASK [Ask the hosts" not in output


def test_two_inventories_make_no_two_authorities(tmp_path: pathlib.Path) -> None:
    """The directory of an inventory differs per host; what is one for the site is not made of it."""
    files = []
    for name, tiers in (("one", ("lb", "was", "redis")), ("two", ("db",))):
        inventory = good()
        children = inventory["all"]["children"]
        inventory["all"]["children"] = {tier: children[tier] for tier in tiers}
        file = tmp_path / name / "hosts.yml"
        file.parent.mkdir()
        file.write_text(yaml.safe_dump(inventory), encoding="utf-8")
        files += ["-i", str(file)]
    code, output = play(tmp_path, PLAYBOOKS / "preflight.yml", *files)
    assert code != 0, output
    (line,) = refused(output)
    assert line.startswith("db1, db2: webstack_pki_directory: differs from lb1's")
    assert f"({tmp_path}/two/.pki here, {tmp_path}/one/.pki there)" in line
    assert "TASK [Ask the hosts" not in output, output

    # A role alone, without the site's preflight, says the same. Asking a host changes nothing, so this machine will do.
    steps = {
        "ansible.builtin.include_tasks": str(PLAYBOOKS / "tasks/authority.yml"),
        "vars": {
            "__webstack_role": "redis_shard",
            "redis_shard_pki_directory": "{{ webstack_pki_directory | default(inventory_dir ~ '/.pki') }}",
        },
    }
    book = tmp_path / "book.yml"
    book.write_text(yaml.safe_dump([{"hosts": "redis1,db1", "gather_facts": False, "tasks": [steps]}]))
    code, output = play(tmp_path, book, *files, "-e", "ansible_connection=local")
    assert code != 0, output
    assert "db1: webstack_pki_directory: differs from redis1's" in output, output

    code, output = play(
        tmp_path, PLAYBOOKS / "preflight.yml", *files, "-e", f"webstack_pki_directory={tmp_path}/one/.pki"
    )
    assert "TASK [Ask the hosts" in output, output


def test_a_list_of_hosts_has_no_place_for_an_authority(tmp_path: pathlib.Path) -> None:
    """Without an inventory file its directory is nowhere; a relative name would be a folder of the playbook."""
    book = tmp_path / "book.yml"
    ask = {"webstack.ha.certificate": {"directory": "{{ inventory_dir ~ '/.pki' }}"}}
    book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [ask]}]))
    code, output = play(tmp_path, book, "-i", "alone,", "-e", "ansible_connection=local")
    assert code != 0, output
    assert "there is no inventory file" in output or "'inventory_dir' is undefined" in output, output
    assert [path.name for path in tmp_path.iterdir()] == ["book.yml"]


def test_no_secret_leaves_with_the_application(tmp_path: pathlib.Path) -> None:
    """The inventory lies in the project, as many do it; the authority is elsewhere in it, by an expression."""
    shop = tmp_path / "shop"
    for name in ("manage.py", "app/a.py"):
        (shop / name).parent.mkdir(parents=True, exist_ok=True)
        (shop / name).write_text("1\n")
    inventory = good()
    settings(inventory)["webstack_pki_directory"] = "{{ inventory_dir }}/../certificates"
    secret = settings(inventory)["backup_slave_password"]
    (shop / "app/settings.py").write_text(f"BACKUP = {secret!r}\n")
    file = shop / "deploy/hosts.yml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    issue = {"webstack.ha.certificate": {"directory": "{{ webstack_pki_directory }}", "name": "db1"}}
    pack = {"webstack.ha.release": {"source": {"type": "directory", "path": str(shop)}}}
    book = tmp_path / "book.yml"
    book.write_text(yaml.safe_dump([{"hosts": "was1", "gather_facts": False, "tasks": [issue, pack]}]))
    code, output = play(tmp_path, book, "-i", str(file), "-e", "ansible_connection=local", "-vv")
    assert code != 0, output
    said = re.search("the source holds secrets, .*", output)
    assert said, output
    for path in ("certificates/ca.key", "certificates/db1.key", "app/settings.py", "deploy/hosts.yml"):
        assert path in said[0], output
    assert secret not in output


def test_no_secret_is_shown(tmp_path: pathlib.Path) -> None:
    inventory = good()
    host(inventory, "db2")["webstack_database_password"] = "hunter2hunter2hunter2hunter2"
    settings(inventory)["webstack_cache_password"] = ["hunter3hunter3"]
    code, output = preflight(tmp_path, inventory, "-vvv")
    assert code != 0
    assert "db2: webstack_database_password: differs from lb1's" in output
    assert "webstack_cache_password: must be a text" in output
    assert "hunter" not in output


def test_booleans_are_taken_as_ini_files_and_the_command_line_give_them(tmp_path: pathlib.Path) -> None:
    """Both give texts; what a host says in YAML is the same."""
    inventory = good()
    groups = {tier: next(iter(group["hosts"].items())) for tier, group in inventory["all"]["children"].items()}
    hosts = {tier: " ".join([name, *(f"{key}={own[key]}" for key in own)]) for tier, (name, own) in groups.items()}
    lines = [f"[{tier}]\n{line}" for tier, line in hosts.items()]
    lines += ["[all:vars]", *(f"{name}={value!r}" for name, value in settings(inventory).items())]
    (tmp_path / "hosts.ini").write_text("\n".join([*lines, "lb_nginx_cache_enabled=no", ""]), encoding="utf-8")
    run = (tmp_path, PLAYBOOKS / "preflight.yml", "-i", str(tmp_path / "hosts.ini"))
    _code, output = play(*run, "-e", "webstack_allow_single=true")
    assert "TASK [Ask the hosts" in output, output
    _code, output = play(*run, "-e", "webstack_allow_single=no")
    assert "group was: has only was1, at least 2 are needed" in output
    with (tmp_path / "hosts.ini").open("a", encoding="utf-8") as file:
        file.write("webstack_allow_single=true\n")
    _code, output = play(*run)
    assert "TASK [Ask the hosts" in output, output


def test_what_the_documents_advise_passes(tmp_path: pathlib.Path) -> None:
    inventory = good()
    settings(inventory)["lb_nginx_locations"] = [
        {"path": "/ws/", "websocket": True, "read_timeout_seconds": 3600},
        {"path": "/export/", "read_timeout_seconds": 600},
    ]
    _code, output = preflight(tmp_path, inventory)
    assert "TASK [Ask the hosts" in output, output
    settings(inventory)["was_django_request_timeout_seconds"] = 600
    # Without layer 2 there is no writer address, as mysql_replication's README says.
    settings(inventory).update(webstack_database_address="", was_django_database_host="192.0.2.18")
    _code, output = preflight(tmp_path, inventory)
    assert "TASK [Ask the hosts" in output, output


def test_a_good_inventory_passes_and_unfit_hosts_are_named_together(tmp_path: pathlib.Path) -> None:
    """The inventory is let through; then every host that cannot be reached is in one report."""
    inventory = good()
    settings(inventory).update(ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1, ansible_timeout=2)
    code, output = preflight(tmp_path, inventory)
    assert "ok: [" in output, output
    assert code != 0, output
    lines = refused(output)
    assert len(lines) == 9, output
    assert any(line.startswith("db2: connection: not reachable") for line in lines)
    assert not re.search(r"changed=[1-9]", output)


def test_the_whole_site_refuses_before_its_first_change(tmp_path: pathlib.Path) -> None:
    inventory = good()
    _no_password(inventory)
    file = tmp_path / "hosts.yml"
    file.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    code, output = play(tmp_path, PLAYBOOKS / "site.yml", "-i", str(file), "--tags", "lb_nginx")
    assert code != 0, output
    assert "webstack_database_password: is not set" in output
    assert output.count("TASK [") == 1, output


def test_secrets_are_written_once_and_make_a_site_complete(tmp_path: pathlib.Path) -> None:
    inventory = good()
    for name in SECRETS:
        del settings(inventory)[name]
    _code, output = preflight(tmp_path, inventory)
    assert "the playbook webstack.ha.secrets writes the missing secrets" in output
    run = (tmp_path, PLAYBOOKS / "secrets.yml", "-i", str(tmp_path / "hosts.yml"))
    file = tmp_path / "group_vars/all/secrets.yml"

    code, output = play(*run, "--check")
    assert code == 0, output
    assert not file.exists()

    code, output = play(*run, "--diff", "-vvv")
    assert code == 0, output
    assert "changed=1" in output
    assert str(file) in output
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert list(written) == SECRETS
    assert not any(value in output for value in written.values())
    assert file.stat().st_mode & 0o777 == 0o600

    text = file.read_text(encoding="utf-8")
    code, output = play(*run)
    assert code == 0, output
    assert "changed=0" in output
    assert file.read_text(encoding="utf-8") == text

    _code, output = preflight(tmp_path, inventory)
    assert "TASK [Ask the hosts" in output, output


@pytest.mark.parametrize(
    ("owners", "host_option", "words"),
    [
        (["lb1"], [], "lb1 is the only balancer that answers: nobody can take its addresses"),
        ([], [], "no balancer owns an address"),
        (["lb1"], ["-e", "host=lb9"], "host is lb9; the balancers that answer are lb1"),
    ],
)
def test_addresses_are_not_handed_over_to_nobody(
    tmp_path: pathlib.Path, owners: list[str], host_option: list[str], words: str
) -> None:
    """A site of one balancer, which is this machine with a `webstack` that is a fake."""
    fake = tmp_path / "webstack"
    fake.write_text(f"#!/bin/sh\ncat <<E\n{json.dumps({'host': 'lb1', 'owns': owners})}\nE\n")
    fake.chmod(0o755)
    inventory = {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_become": False,
                "ansible_python_interpreter": sys.executable,
            },
            "children": {"lb": {"hosts": {"lb1": {}}}},
        }
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [
            "ansible-playbook",
            str(PLAYBOOKS / "switchover.yml"),
            "-i",
            "hosts.yml",
            *host_option,
        ],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert words in " ".join((done.stdout + done.stderr).split())
    assert "changed=0" in done.stdout
