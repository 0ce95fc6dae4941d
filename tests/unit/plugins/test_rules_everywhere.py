"""Preflight says what a role says: every input of every role is spoiled in turn, and both are asked.

Preflight has the variables of the whole site and the defaults of all roles of a host; a role has its own.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.webstack.ha.plugins.action import preflight
from ansible_collections.webstack.ha.plugins.module_utils import _site_checks
from ansible_collections.webstack.ha.plugins.plugin_utils._role_inputs import COLLECTION, RULES, Host, Role
from good_inventory import good

ROOT = pathlib.Path(__file__).resolve().parents[3]
WORD = re.compile(r"\w+")
#: What only a site can see: hosts and roles beside each other, and the authority on the controller.
OF_THE_SITE = re.compile(r"differs from|is also used by|is no port: 1 to 65535|the balancers wait")
#: Inputs that filters read of other hosts' variables.
READ_ELSEWHERE = re.compile(
    r"^webstack_|^redis_shard_(name|weight)$|^lb_nginx_(backend|locations|sites)|^mysql_replication_server_id$"
)
WRONG_TYPE: dict[str, Any] = {"list": "text", "dict": "text", "bool": "maybe", "int": "many", "float": "many"}
EMPTY: dict[str, Any] = {"list": [], "dict": {}, "str": "", "path": ""}

#: Role, and inputs that are good by themselves and not together.
PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("vip_failover", {"vip_failover_engine": "hook"}),
    ("vip_failover", {"vip_failover_engine": "hook", "vip_failover_active_active": True}),
    ("vip_failover", {"vip_failover_classic_scheduler": "cron", "vip_failover_classic_interval_seconds": 90}),
    ("vip_failover", {"vip_failover_addresses": ["192.0.2.100/24", "192.0.2.100/24"]}),
    ("lb_nginx", {"lb_nginx_tls_mode": "files"}),
    ("lb_nginx", {"lb_nginx_tls_mode": "acme"}),
    ("lb_nginx", {"lb_nginx_cache_methods": ["POST"]}),
    ("lb_nginx", {"lb_nginx_sites": [{"name": "shop", "server_names": ["a.example.com"]}] * 2}),
    ("was_django", {"was_django_pip_arguments": ["--require-hashes"]}),
    ("was_django", {"was_django_name": "shop", "was_django_media_root": "/srv/webstack/shop/releases/media"}),
    ("was_django", {"was_django_port": 0, "was_django_threads": "none", "was_django_keep_releases": 0}),
    ("redis_cluster_client", {"redis_cluster_client_nutcracker_enabled": True}),
    ("redis_cluster_client", {"redis_cluster_client_points": 6}),
    ("redis_shard", {"redis_shard_engine": "redis_cluster"}),
    ("redis_shard", {"redis_shard_admin_password": "a" * 20, "redis_shard_password": "a" * 20}),
    ("shared_media", {"shared_media_engine": "rsync", "shared_media_password": "short"}),
    ("shared_media", {"shared_media_node_name": "other"}),
    ("mysql_replication", {"mysql_replication_server_id": 2}),
    ("mysql_replication", {"mysql_replication_writer_address": "192.0.2.18/24"}),
    ("backup_slave", {"backup_slave_environment": {"A": True}, "backup_slave_parallel": 0}),
]


class Site:
    """A good site, of which one host is given other inputs. What does not hang on them is worked out once."""

    def __init__(self, directory: pathlib.Path) -> None:
        file = directory / "hosts.yml"
        file.write_text(yaml.safe_dump(good()), encoding="utf-8")
        self.loader = DataLoader()
        manager = InventoryManager(loader=self.loader, sources=[str(file)])
        variable_manager = VariableManager(loader=self.loader, inventory=manager)
        hostvars = HostVars(manager, variable_manager, self.loader)
        self.hostvars = {host.name: dict(hostvars.raw_get(host.name)) for host in manager.get_hosts()}
        variables = {
            **variable_manager.get_vars(),
            "hostvars": self.hostvars,
            "ansible_play_hosts_all": list(self.hostvars),
        }
        self.inventory = preflight.Inventory(COLLECTION, self.loader, variables)
        assert self.inventory.problems() == []
        self.known: dict[tuple[str, str], dict[str, Any]] = {}

    def host_of(self, role: str) -> str:
        return next(name for name in self.hostvars if role in [one.name for one in self.inventory.host(name).roles])

    def says(self, name: str, role: Role, inputs: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return what preflight says of a host with these inputs, and what the role says: variable -> words."""
        own = self.hostvars[name]
        self.hostvars[name] = {**own, **inputs}
        before = self.inventory.host(name)
        self.inventory._hosts.pop(name)
        self.inventory.checked = [name]
        try:
            site_host = self.inventory.host(name)
            self._keep(site_host, before, inputs)
            # Two hosts with one value are named once, at the second of them.
            unique = self.inventory.site.unique
            told = {p.variable: p.message for p in self.inventory.problems() if p.host == name or p.variable in unique}
            host = Host(name, self._variables({**own, **inputs}, role), self.loader, self.inventory.site.secrets)
            plain = Host(name, self._variables(own, role), self.loader)
            plain._done = self.known.setdefault((name, role.name), {})
            plain.template(role.options)
            self._keep(host, plain, inputs)
            refused = {one.variable: one.message for one in _site_checks.only_first(host.inputs(role)[1])}
        finally:
            self.hostvars[name] = own
            self.inventory._hosts[name] = before
        return told, refused

    def _variables(self, own: Mapping[str, Any], role: Role) -> dict[str, Any]:
        """Return what the role sees in a play."""
        return {**role.defaults, **own, **role.vars, **self.inventory._extra, "role_path": role.path}

    @staticmethod
    def _keep(host: Host, before: Host, inputs: Mapping[str, Any]) -> None:
        changed = set(inputs)
        if any(READ_ELSEWHERE.search(name) for name in inputs):
            changed.add("hostvars")
        found = True
        while found:
            found = False
            for name, value in host.variables.items():
                if name not in changed and isinstance(value, str) and not changed.isdisjoint(WORD.findall(value)):
                    changed.add(name)
                    found = True
        host._done.update((name, value) for name, value in before._done.items() if name not in changed)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def spoiled(name: str, spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kind = spec.get("type", "str")
    if kind != "raw":
        yield {name: WRONG_TYPE.get(kind, ["text"])}
    yield {name: None}
    if kind in EMPTY:
        yield {name: EMPTY[kind]}
    if kind in ("int", "float"):
        yield from ({name: number} for number in (-1, 0))
    if spec.get("choices"):
        yield {name: "none of these"}


def assert_the_same(site: Site, name: str, role: Role, inputs: Mapping[str, Any]) -> dict[str, str]:
    told, refused = site.says(name, role, inputs)
    for variable, message in refused.items():
        if variable.endswith("_pki_directory"):
            continue  # its own check, of the whole site, has its own words
        assert variable in told, f"{inputs}: preflight lets through what {role.name} refuses, {variable}: {message}"
        assert told[variable] == message or OF_THE_SITE.search(told[variable]), (inputs, told[variable], message)
    for variable, message in told.items():
        if variable in role.options and variable not in refused and not variable.endswith("_pki_directory"):
            assert OF_THE_SITE.search(message), f"{inputs}: {role.name} lets through what preflight refuses: {message}"
    return refused


def test_every_role_has_rules(site: Site) -> None:
    assert set(RULES) == set(site.inventory.roles)


@pytest.mark.parametrize("name", sorted(RULES))
def test_preflight_says_what_the_role_says(site: Site, name: str) -> None:
    role = site.inventory.roles[name]
    host = site.host_of(name)
    for option, spec in role.options.items():
        wrong, *others = spoiled(option, spec)
        assert option in assert_the_same(site, host, role, wrong), f"{wrong} is of the wrong type and not refused"
        for inputs in others:
            assert_the_same(site, host, role, inputs)


@pytest.mark.parametrize(("name", "inputs"), PAIRS)
def test_preflight_sees_contradictions_as_the_role_does(site: Site, name: str, inputs: dict[str, Any]) -> None:
    role = site.inventory.roles[name]
    assert assert_the_same(site, site.host_of(name), role, inputs)
