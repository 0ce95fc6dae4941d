# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action rules: what a role refuses before its first change, by the rules that preflight asks as well."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.webstack.ha.plugins.module_utils import _site_checks
from ansible_collections.webstack.ha.plugins.plugin_utils._role_inputs import (
    COLLECTION,
    HOST_RULES,
    Host,
    Role,
    misspelt,
    specification,
)


class ActionModule(ActionBase):
    """Check the inputs of one role on one host. Everything happens on the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the problems, failed when there is one."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validated, arguments = self.validate_argument_spec(
            argument_spec={"role": {"type": "str", "required": True}, "seen": {"type": "dict"}}
        )
        name = variables["inventory_hostname"]
        role = Role(arguments["role"], os.path.join(COLLECTION, "roles", arguments["role"]), self._loader)
        site = specification(os.path.join(COLLECTION, "meta", "site_specs.yml"))
        host = Host(name, variables, self._loader, site["secrets"])
        if arguments["seen"] is None:
            unknown = misspelt(role, name, variables, site)
            said = [problem.sentence for problem in [*unknown, *_site_checks.only_first(host.inputs(role)[1])]]
        else:
            said = [problem.text for problem in HOST_RULES[role.name](host.settings(role), arguments["seen"])]
        result["changed"] = False
        result["failed"] = bool(said)
        result["msg"] = f"{name}: {'; '.join(said)}" if said else "Nothing to refuse."
        return result
