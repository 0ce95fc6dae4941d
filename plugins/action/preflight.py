# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action preflight: refuse a bad inventory, on the controller, before the first change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar, trust_as_template
from ansible_collections.webstack.ha.plugins.module_utils import (
    _authority,
    _balancer_sites,
    _pki_store,
    _shard_layout,
    _site_checks,
)
from ansible_collections.webstack.ha.plugins.module_utils._site_checks import Problem
from ansible_collections.webstack.ha.plugins.plugin_utils._role_inputs import (
    COLLECTION,
    Role,
    SiteHost,
    raw,
    specification,
)


class ActionModule(ActionBase):
    """Check the inventory, or what the hosts answered."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    #: Where roles/ and meta/site_specs.yml are.
    collection = COLLECTION

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the problems, failed when there is one."""
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validated, arguments = self.validate_argument_spec(
            argument_spec={
                "check": {"type": "str", "default": "inventory", "choices": ["inventory", "hosts", "authority"]},
                "answers": {"type": "str", "default": "__webstack_look"},
                "role": {"type": "str"},
            }
        )
        head = ""
        if arguments["check"] == "hosts":
            head = "not every host can be managed"
            problems = self._check_hosts(variables, arguments["answers"])
            count = len(variables["ansible_play_hosts_all"])
        elif arguments["check"] == "authority":
            head = "the internal authority is not the one of the hosts"
            role = arguments["role"]
            inventory = None if role else Inventory(self.collection, self._loader, variables)
            problems = Authority(self._loader, variables, arguments["answers"], role, inventory).problems()
            count = len(variables["ansible_play_hosts_all"])
        else:
            missing = _site_checks.missing_library()
            if missing:
                raise AnsibleActionFail(missing)
            inventory = Inventory(self.collection, self._loader, variables)
            problems = inventory.problems()
            count = len(inventory.checked)
            if inventory.warnings:
                result["warnings"] = inventory.warnings
        result["changed"] = False
        result["failed"] = bool(problems)
        result["msg"] = _site_checks.report(problems, head) if problems else f"{count} hosts, nothing to refuse."
        return result

    @staticmethod
    def _check_hosts(variables: Mapping[str, Any], answers: str) -> list[Problem]:
        problems: list[Problem] = []
        for host in variables["ansible_play_hosts_all"]:
            answer = raw(variables["hostvars"], host).get(answers)
            if answer and answer.get("skipped"):
                continue  # a host of the inventory, but of no group of ours
            problems.extend(_site_checks.check_host(host, answer))
        return problems


class Authority:
    """The authority on the controller, beside what the hosts said that they carry."""

    def __init__(
        self, loader: Any, task_vars: Mapping[str, Any], answers: str, role: str | None, inventory: Inventory | None
    ) -> None:
        self._loader = loader
        self._hostvars = task_vars["hostvars"]
        self._me = task_vars["inventory_hostname"]
        self._role = role
        self._carried: list[_authority.Carried] = []
        self._unasked: dict[str, str] = {}
        #: Host -> role -> directory, of those who need one. Without a role the whole site is meant.
        self._used = inventory.directories()[0] if inventory else {}
        here = {host: raw(self._hostvars, host).get(answers) for host in task_vars["ansible_play_hosts_all"]}
        # The hosts that this play leaves out were asked in a loop, if at all; the later answer counts.
        loops = [raw(self._hostvars, host).get(f"{answers}_elsewhere") or {} for host in here]
        answered = [one for loop in loops for one in loop.get("results") or () if not one.get("skipped")]
        elsewhere = {one["__webstack_host"]: one for one in answered}
        for host, answer in {**here, **elsewhere}.items():
            self._take(host, answer or {})

    def _take(self, host: str, answer: Mapping[str, Any]) -> None:
        """Keep what a host said, or why it said nothing."""
        if answer.get("skipped"):
            return  # a host of the inventory, but of no group of ours
        if "carried" not in answer:
            self._unasked[host] = " ".join(str(answer.get("msg") or "it was not reached").split())
            return
        if self._role and "directory" in answer:
            self._used[host] = {self._role: _authority.Directory(answer["directory"])}
        self._carried.extend(
            _authority.Carried(host, one["role"], one["path"], one["authority"]) for one in answer["carried"]
        )
        if answer["unreadable"]:
            self._unasked[host] = ", ".join(f"{path}: {why}" for path, why in sorted(answer["unreadable"].items()))

    def problems(self) -> list[Problem]:
        """Return what is refused: no directory, two of them, or another authority than a host carries."""
        problems = self._of_one_role() if self._role else []
        if problems:
            return problems
        paths: dict[str, str] = {}
        for roles in self._used.values():
            for role, found in roles.items():
                paths.setdefault(
                    found.path, _authority.SITE_VARIABLE if found.is_default else _authority.variable(role)
                )
        hosts = dict.fromkeys([self._me, *self._used, *(one.host for one in self._carried)])
        may_replace = {one for host in hosts for one in _authority.replaced(self._value(host, _authority.REPLACES))}
        for path, name in sorted(paths.items()):
            carried = [one for one in self._carried if self._directory(one.host, one.role) == path]
            unasked = {
                host: why
                for host, why in self._unasked.items()
                if any(found.path == path for found in self._used.get(host, {}).values())
                # Of the hosts of other plays, one role alone does not know what they need.
                or (self._role and host not in self._used)
            }
            problems.extend(_authority.check(path, _pki_store.look(path), carried, unasked, may_replace, name=name))
        return list(dict.fromkeys(problems))

    def _of_one_role(self) -> list[Problem]:
        """Return what is wrong with the directory of the role that asks, and put the clean names in its place."""
        role = str(self._role)
        problems = []
        for host, roles in self._used.items():
            error = _pki_store.directory_error(roles[role].path)
            if error:
                problems.append(Problem(host, _authority.variable(role), error))
            else:
                is_default = _authority.variable(role) not in raw(self._hostvars, host)
                roles[role] = _authority.Directory(_pki_store.absolute(roles[role].path), is_default)
        return problems or _authority.check_directories(self._used)

    def _directory(self, host: str, role: str) -> str | None:
        """Return where a role of a host has its authority, None where that is not known or where it has none."""
        if role in self._used.get(host, {}):
            return self._used[host][role].path
        if not self._role:
            return None  # a file that a role left behind
        found = self._value(host, _authority.variable(role))
        if found is None:
            found = self._template(host, trust_as_template(_authority.DEFAULT))
        return None if _pki_store.directory_error(found) else _pki_store.absolute(found)

    def _value(self, host: str, name: str) -> Any:
        own = raw(self._hostvars, host)
        return self._template(host, own[name]) if name in own else None

    def _template(self, host: str, expression: Any) -> Any:
        try:
            return Templar(loader=self._loader, variables=raw(self._hostvars, host)).template(expression)
        except AnsibleError:
            return None  # refused elsewhere, by name


class Inventory:
    """One look at all variables of the hosts of the play, and at the site as a whole."""

    def __init__(self, collection: str, loader: Any, task_vars: Mapping[str, Any]) -> None:
        self._loader = loader
        self._hostvars = task_vars["hostvars"]
        self.groups: Mapping[str, Sequence[str]] = task_vars["groups"]
        self.checked: list[str] = list(task_vars["ansible_play_hosts_all"])
        self.warnings: list[str] = []
        self.site = _site_checks.parse_site(specification(os.path.join(collection, "meta", "site_specs.yml")))
        roles = os.path.join(collection, "roles")
        names = sorted(name for name in os.listdir(roles) if os.path.isdir(os.path.join(roles, name)))
        self.roles = {name: Role(name, os.path.join(roles, name), loader) for name in names}
        self.names = _site_checks.Names.build(
            known=[
                *self.site.options,
                *self.site.secrets,
                *(name for role in self.roles.values() for name in role.known),
            ],
            prefixes=["webstack_", *(f"{name}_" for name in self.roles)],
            ignored_prefixes=self.site.ignored_prefixes,
        )
        self._extra = {"hostvars": self._hostvars, "groups": self.groups}
        # The roles' own plays have fewer hosts, but some value lets their expressions be checked.
        for name in ("ansible_play_hosts", "ansible_play_hosts_all", "ansible_play_batch"):
            self._extra[name] = self.checked
        self._hosts: dict[str, SiteHost] = {}
        self._sentinels, self._no_sentinels = _sentinels(self.groups, self._engine())
        self._no_quorum = ""
        try:
            self.groups = {**self.groups, "quorum": _shard_layout.quorum_hosts(self.groups, self._has_quorum())}
        except ValueError as error:
            self._no_quorum = str(error)

    def _engine(self) -> str:
        """Return what the cache is: it decides which hosts run a sentinel. What is no engine is reported elsewhere."""
        for host in self.groups.get("redis", ()):
            engine = self._hostvars[host].get("webstack_cache_engine")
            if engine in _shard_layout.ENGINES:
                return str(engine)
        return _shard_layout.RING

    def _has_quorum(self) -> bool:
        """Say whether the site wants one without a group of its own."""
        given = (self._hostvars[name].get("webstack_quorum_enabled") for name in self.checked)
        return any(_site_checks.boolean(value) for value in given)

    def host(self, name: str) -> SiteHost:
        """Return a host with the defaults of the roles of its groups."""
        if name not in self._hosts:
            names = dict.fromkeys(
                role
                for group, shape in self.site.groups.items()
                if name in self.groups.get(group, ()) or (group == "sentinel" and name in self._sentinels)
                for role in shape.roles
            )
            roles = [self.roles[role] for role in names if role in self.roles]
            self._hosts[name] = SiteHost(
                name, roles, self._hostvars, self._loader, extra=self._extra, secrets=self.site.secrets
            )
        return self._hosts[name]

    def problems(self) -> list[Problem]:
        """Return everything that is refused, causes before consequences."""
        members = _site_checks.members(self.site, self.groups)
        found: list[Problem] = []
        settings: dict[str, dict[str, Any]] = {}
        failed: set[tuple[str, str]] = set()
        for name in members:
            settings[name], errors = self.host(name).template(self.site.options)
            failed.update(
                (name, option)
                for option in self.site.options
                if option in self.host(name).variables and option not in settings[name]
            )
            found.extend(errors)
        allow_single = any(_site_checks.boolean(own.get("webstack_allow_single")) for own in settings.values())
        found.extend(_site_checks.check_groups(self.site, self.groups, allow_single))
        if self._no_sentinels and self.groups.get("redis") and not self.groups.get("sentinel"):
            found.append(Problem("", "group redis", self._no_sentinels))
        if self._no_quorum:
            found.append(Problem("", "webstack_quorum_enabled", self._no_quorum))
        found.extend(_site_checks.check_settings(self.site, self.groups, settings, failed))
        found.extend(_site_checks.check_addresses(self.site, self.groups, settings))
        found.extend(self._authority())
        found.extend(self._unknown())
        between = list(self._between())
        twice = {problem.variable for problem in between if problem.variable in self.site.unique}
        # What is one for the site is reported of its first host, and is wrong on all.
        of_all = {name for name, spec in self.site.options.items() if spec.get("scope") == "site"}
        # Lists of hosts and addresses are made of these two.
        lists = {"groups"} if any(problem.variable.startswith("group ") for problem in found) else set()
        if any(problem.variable == "webstack_address" for problem in found):
            lists.add("hostvars")
        for name in self.checked:
            host = self.host(name)
            blamed = lists | {
                problem.variable for problem in found if problem.host == name or problem.variable in of_all
            }
            found.extend(
                problem
                for problem in self._inputs(host)
                # Two hosts with one value are named once, in the site's words.
                if problem.variable not in twice and not host.derived(problem.variable, blamed)
            )
        found.extend(between)
        return _site_checks.only_first(found)

    def directories(self) -> tuple[dict[str, dict[str, _authority.Directory]], list[Problem]]:
        """Return where each role that needs the internal authority has it, on each host, and what is no directory."""
        used: dict[str, dict[str, _authority.Directory]] = {}
        problems = []
        for name in _site_checks.members(self.site, self.groups):
            host = self.host(name)
            for role in (role.name for role in host.roles if role.name in _authority.FILES):
                variable = _authority.variable(role)
                values, _errors = host.template([variable, *_authority.NEEDS[role]])
                if variable not in values or not _authority.needed(role, values):
                    continue
                is_default = variable not in host.own
                error = _pki_store.directory_error(values[variable])
                if error:
                    problems.append(Problem(name, _authority.SITE_VARIABLE if is_default else variable, error))
                    continue
                where = _authority.Directory(_pki_store.absolute(values[variable]), is_default)
                used.setdefault(name, {})[role] = where
        return used, problems

    def _authority(self) -> list[Problem]:
        """Check the directories of the internal authority: paths of the controller, and one for the site."""
        used, problems = self.directories()
        return problems or _authority.check_directories(used)

    def _unknown(self) -> Iterable[Problem]:
        unusual: set[str] = set()
        for name in self.checked:
            yield from self.names.unknown(name, self.host(name).own)
            unusual.update(self.host(name).own)
        for variable, guess in self.names.suspicious(sorted(unusual)):
            self.warnings.append(f"The variable {variable} is not one of this collection; was {guess} meant?")

    def _inputs(self, host: SiteHost) -> Iterable[Problem]:
        """Check a host's inputs: those of each role by themselves, then those of all together."""
        everything: dict[str, Any] = {}
        for role in host.roles:
            host.variables["role_path"] = role.path
            values, problems = host.inputs(role)
            everything.update(values)
            yield from problems
        roles = {role.name for role in host.roles}
        ports = _site_checks.listening_ports(self.site, host.name, roles, everything)
        yield from _site_checks.check_ports(host.name, ports)

    def _between(self) -> Iterable[Problem]:
        """Compare role inputs of the hosts of a group, also of those that --limit leaves out."""
        compared: list[tuple[str, str, Any]] = [
            *((name, group, _site_checks.check_unique) for name, group in self.site.unique.items()),
            *((name, group, _site_checks.check_equal) for name, group in self.site.equal.items()),
        ]
        for name, group, check in compared:
            hosts = list(self.groups.get(group, ()))
            values = {host: self.host(host).template([name])[0] for host in hosts}
            yield from check(name, hosts, values)
        yield from self._waits()

    def _waits(self) -> Iterable[Problem]:
        """Compare how long an application may take with how long the balancers wait; what is no number is reported."""
        names = ("backend_read_timeout_seconds", "locations", "sites", "backends")
        balancers = {
            name: self.host(name).template([f"lb_nginx_{word}" for word in names])[0]
            for name in self.groups.get("lb", ())
        }
        for name in self.groups.get("was", ()):
            own = self.host(name).template(["was_django_request_timeout_seconds", "was_django_port"])[0]
            try:
                waits = {
                    balancer: _balancer_sites.longest_wait(values, own["was_django_port"])
                    for balancer, values in balancers.items()
                }
            except (AttributeError, KeyError, TypeError, ValueError):
                return
            yield from _site_checks.check_wait(name, own.get("was_django_request_timeout_seconds"), waits)


def _sentinels(groups: Mapping[str, Sequence[str]], engine: str) -> tuple[set[str], str | None]:
    """Return the hosts that run a sentinel, whatever their group, or why there are none."""
    names = {host for members in groups.values() for host in members}
    placeholders = {name: {_shard_layout.ADDRESS_VARIABLE: name} for name in names}
    try:
        chosen = _shard_layout.sentinels(groups, placeholders, engine=engine)
    except ValueError as error:
        return set(), str(error)
    return {str(sentinel["name"]) for sentinel in chosen}, None
