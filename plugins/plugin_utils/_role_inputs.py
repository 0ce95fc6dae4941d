# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with the inputs of a role on one host. Preflight and the role's first task ask the same function."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.template import Templar
from ansible_collections.webstack.ha.plugins.module_utils import _site_checks
from ansible_collections.webstack.ha.plugins.module_utils.rules import (
    backup_slave,
    lb_nginx,
    mysql_replication,
    quorum,
    redis_cluster_client,
    redis_shard,
    shared_media,
    vip_failover,
    was_django,
)
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem

#: How Ansible says that a variable is absent.
_UNDEFINED = re.compile(r"'(?P<name>[A-Za-z_][A-Za-z0-9_]*)' is undefined")
#: A template that needs the host itself.
_FACTS = re.compile(r"\bansible_(facts|local)\b")

#: Types of which _site_checks.wrong_kind says all.
_PLAIN = ("bool", "path", "raw", "str")

COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

Spec = Mapping[str, Any]


#: The text of a file on the controller, None where there is none.
Read = Callable[[str], str | None]


def _without_files(
    rules: Callable[[Mapping[str, Any]], list[Problem]],
) -> Callable[[Mapping[str, Any], Read], list[Problem]]:
    return lambda settings, _read: rules(settings)


#: Role -> its rules. The settings are of the types of the role's specification.
RULES: dict[str, Callable[[Mapping[str, Any], Read], list[Problem]]] = {
    "backup_slave": _without_files(backup_slave.problems),
    "lb_nginx": lb_nginx.problems,
    "mysql_replication": _without_files(mysql_replication.problems),
    "quorum": _without_files(quorum.problems),
    "redis_cluster_client": _without_files(redis_cluster_client.problems),
    "redis_shard": _without_files(redis_shard.problems),
    "shared_media": _without_files(shared_media.problems),
    "vip_failover": _without_files(vip_failover.problems),
    "was_django": _without_files(was_django.problems),
}
#: Role -> what hangs on the host itself, which the role has looked at.
HOST_RULES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], list[Problem]]] = {
    "vip_failover": vip_failover.host_problems,
}


def specification(path: str) -> Any:
    """Return a file of this collection without expressions. Ansible's loader takes ten times as long for it."""
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class Role:
    """What a role says about its inputs."""

    def __init__(self, name: str, path: str, loader: Any) -> None:
        self.name = name
        self.path = path
        self._loader = loader
        file = os.path.join(path, "meta", "argument_specs.yml")
        read = specification(file) if os.path.isfile(file) else None
        self._entries: Mapping[str, Any] = (read or {}).get("argument_specs") or {}
        self.options: Mapping[str, Spec] = (self._entries.get("main") or {}).get("options") or {}

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """Return its defaults, with their expressions."""
        return self._load("defaults")

    @functools.cached_property
    def vars(self) -> dict[str, Any]:
        """Return its constants, with their expressions."""
        return self._load("vars")

    @property
    def known(self) -> set[str]:
        """Return the names of all its inputs, those of its other entry points too."""
        return {option for entry in self._entries.values() for option in entry.get("options") or {}} | set(
            self.defaults
        )

    def _load(self, directory: str) -> dict[str, Any]:
        file = os.path.join(self.path, directory, "main.yml")
        if not os.path.isfile(file):
            return {}
        # Role files are ours, like the ones that Ansible itself loads: their expressions are evaluated. What is kept
        # for others is copied value by value, which takes longer than to read the file.
        return self._loader.load_from_file(file, cache="none", trusted_as_template=True) or {}


class Host:
    """The variables of one host, templated one by one, so that each one can fail alone."""

    def __init__(self, name: str, variables: dict[str, Any], loader: Any, secrets: Collection[str] = ()) -> None:
        self.name = name
        self.variables = variables
        self._secrets = secrets
        self._loader = loader
        self._templar = Templar(loader=loader, variables=variables)
        self._done: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        """Return the templated value of a variable. It must exist."""
        if name not in self._done:
            self._done[name] = self._templar.template(self.variables[name])
        return self._done[name]

    def template(self, names: Iterable[str]) -> tuple[dict[str, Any], list[_site_checks.Problem]]:
        """Return the values of those variables that are set, and the problems of those that fail."""
        values: dict[str, Any] = {}
        missing: dict[str, list[str]] = {}
        broken: dict[str, list[str]] = {}
        for name in names:
            if name not in self.variables:
                continue
            try:
                values[name] = self.value(name)
            except AnsibleUndefinedVariable as error:
                root = _undefined(error)
                if _FACTS.search(str(error.obj or "")):
                    continue  # made from facts, which no host has been asked for yet
                if root is None:
                    broken.setdefault(_reason(error), []).append(name)
                else:
                    missing.setdefault(root, []).append(name)
            except Exception as error:  # whatever an expression raises is a refused input
                broken.setdefault(_reason(error), []).append(name)
        problems = [
            _site_checks.not_set(self.name, root, self._secrets, needed_by) for root, needed_by in missing.items()
        ]
        problems.extend(_site_checks.unworkable(self.name, reason, failed) for reason, failed in broken.items())
        return values, problems

    def inputs(self, role: Role) -> tuple[dict[str, Any], list[_site_checks.Problem]]:
        """Return the values of a role's inputs, and what is wrong with them.

        What is of the wrong type is refused as that; the rules see the others.
        """
        values, problems = self.template(role.options)
        typed: dict[str, Any] = {}
        for name, spec in role.options.items():
            problem = self._input(name, spec, values)
            if problem:
                problems.append(problem)
            elif values.get(name) is not None:
                typed[name] = _site_checks.converted(values[name], spec)
        texts: dict[str, list[Problem]] = {}
        for found in RULES[role.name](typed, self._read):
            texts.setdefault(found.variable, []).append(found)
        for variable, several in texts.items():
            # Whoever reads a report of many hosts has the variable before the words.
            message = "; ".join(found.message for found in several)
            sentence = "; ".join(found.text for found in several)
            problems.append(_site_checks.Problem(self.name, variable, message, sentence))
        return values, problems

    def settings(self, role: Role) -> dict[str, Any]:
        """Return the inputs of a role, all of which are good."""
        values = self.template(role.options)[0]
        return {
            name: _site_checks.converted(value, role.options[name])
            for name, value in values.items()
            if value is not None
        }

    def _read(self, path: str) -> str | None:
        """Return the text of a file on the controller, decrypted where it is in a vault."""
        return self._loader.get_text_file_contents(path) if os.path.isfile(path) else None

    def _input(self, name: str, spec: Spec, values: Mapping[str, Any]) -> _site_checks.Problem | None:
        """Check one input; what could not be templated is reported already."""
        value = values.get(name)
        if value is None:
            if spec.get("required") and (name not in self.variables or name in values):
                return _site_checks.not_set(self.name, name, self._secrets)
            if name in values and spec.get("default") is not None:
                return _site_checks.Problem(self.name, name, "has no value: leave the line out for the default")
            return None
        if value == "" and spec.get("required"):
            return _site_checks.Problem(self.name, name, "is empty")
        secret = _site_checks.is_secret(name, spec)
        wrong = _site_checks.wrong_kind(value, spec, secret)
        if not wrong and name.endswith("_directory") and str(spec.get("default")).startswith("/"):
            wrong = _site_checks.directory_error(value)
        if not wrong:
            words = [_site_checks.plain_words(said, name, spec, secret) for said in _validate(name, spec, value)]
            wrong = "; ".join(dict.fromkeys(words))
        return _site_checks.Problem(self.name, name, wrong) if wrong else None


class SiteHost(Host):
    """A host outside of any role: its own variables together with the defaults of its roles."""

    def __init__(
        self,
        name: str,
        roles: Sequence[Role],
        hostvars: Any,
        loader: Any,
        *,
        extra: Mapping[str, Any],
        secrets: Collection[str],
    ) -> None:
        self.roles = roles
        self.own = raw(hostvars, name)
        variables: dict[str, Any] = {}
        for role in roles:
            variables.update(role.defaults)
        variables.update(self.own)
        for role in roles:
            variables.update(role.vars)
        variables.update(extra)
        super().__init__(name, variables, loader, secrets)

    def derived(self, name: str, causes: set[str]) -> bool:
        """Tell whether a value is a default that is made from one of these variables, or of defaults that are."""
        known: set[str] = set()
        wanted = {name}
        while wanted:
            known |= wanted
            made_of = {
                word
                for variable in wanted
                if variable in self.variables and variable not in self.own
                for word in re.findall(r"\w+", str(self.variables[variable]))
            }
            if not causes.isdisjoint(made_of):
                return True
            wanted = made_of - known
        return False


def misspelt(
    role: Role, host: str, variables: Iterable[str], site: Mapping[str, Any] | None = None
) -> list[_site_checks.Problem]:
    """Return what begins like the inputs of a role and is none: it would be left out without a word."""
    known = {*role.known, *((site or {}).get("secrets") or ())}
    ignored = (site or {}).get("ignored_prefixes") or ()
    return _site_checks.Names.build(known, [f"{role.name}_"], ignored).unknown(host, sorted(variables))


def raw(hostvars: Any, host: str) -> dict[str, Any]:
    """Return a host's variables with their expressions still in them, so that each one can fail alone."""
    get = getattr(hostvars, "raw_get", None)
    return dict(get(host) if get else hostvars[host])


def _undefined(error: BaseException) -> str | None:
    """Return the name of the variable that is absent, when that is what happened."""
    match = None
    cause: BaseException | None = error
    while cause is not None:
        match = _UNDEFINED.search(str(cause)) or match
        cause = cause.__cause__
    return match["name"] if match else None


def _reason(error: BaseException) -> str:
    """Return the innermost message of a failed expression: it names the cause, the outer ones only the way."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return getattr(cause, "message", None) or str(cause) or type(cause).__name__


def _validate(name: str, spec: Spec, value: Any) -> list[str]:
    """Return the messages of Ansible's own validation for one input, where it can say more than its kind."""
    if spec.get("type", "str") in _PLAIN and not spec.get("choices"):
        return []
    try:
        validated = ArgumentSpecValidator({name: dict(spec)}).validate({name: value}, validate_role_argument_spec=True)
    except AnsibleError as error:
        return [str(error)]
    return list(validated.error_messages)
