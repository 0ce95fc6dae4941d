# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lookup _derived: what a role makes of its inputs. Of this collection's own roles and playbooks, for nobody else."""

from __future__ import annotations

DOCUMENTATION = """
name: _derived
author: The maintainers of webstack.ha (@webstack-ha)
version_added: 0.1.0
short_description: What a role makes of its inputs
description:
  - Of the collection's own roles and playbooks. It may change with any version.
options:
  _terms:
    description: Name of a module of plugins/module_utils/derived, a dot, name of the function.
    required: true
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from ansible.errors import AnsibleLookupError, AnsibleUndefinedVariable
from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase

PACKAGE = "ansible_collections.webstack.ha.plugins.module_utils.derived"
#: Ansible's own, handed on as they are: to work them out would be to work out all variables of all hosts.
MAGIC = ("groups", "hostvars")


class Variables:
    """The variables of this host, worked out when one is asked for."""

    def __init__(self, lookup: LookupBase, variables: dict[str, Any]) -> None:
        self._lookup = lookup
        self._variables = variables
        self._known: dict[str, Any] = {name: variables[name] for name in MAGIC if name in variables}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            if name not in self._variables:
                raise AnsibleUndefinedVariable(f"'{name}' is undefined")
            self._known[name] = self._lookup._templar.template(self._variables[name])
        return self._known[name]

    def get(self, name: str, default: Any) -> Any:
        return self[name] if name in self._variables else default

    def read(self, path: str) -> str:
        return self._other("ansible.builtin.file", path)

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        return self._other("ansible.builtin.template", template, template_vars=dict(variables))

    def _other(self, name: str, term: str, **options: Any) -> str:
        lookup = lookup_loader.get(name, loader=self._lookup._loader, templar=self._lookup._templar)
        (text,) = lookup.run([term], variables=self._variables, **options)
        return str(text)


class LookupModule(LookupBase):
    """Call one function with the variables of this host."""

    def run(self, terms: Sequence[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """Return its value, alone in a list."""
        (term,) = terms
        module, _dot, function = term.partition(".")
        try:
            return [getattr(import_module(f"{PACKAGE}.{module}"), function)(Variables(self, variables or {}), **kwargs)]
        except (KeyError, TypeError, ValueError) as exc:
            raise AnsibleLookupError(f"webstack.ha: {term}: {exc}") from exc
