# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action host_info: ask a host what it is and carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.webstack.ha.plugins.module_utils import _authority, _pki
from ansible_collections.webstack.ha.plugins.module_utils._host_program import earlier

#: Groups of a site, as in meta/site_specs.yml; a unit test compares them.
GROUPS = ("lb", "was", "redis", "db", "sentinel", "quorum")


class ActionModule(ActionBase):
    """webstack.ha.host_info: the module reads the files, the certificates are understood here."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return which authorities the host carries, and where the role that asks has its own."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = task_vars or {}
        unknown = sorted(set(self._task.args) - {"role"})
        if unknown:
            raise AnsibleActionFail(f"webstack.ha.host_info: unknown option {', '.join(unknown)}")
        if not _pki.available():
            raise AnsibleActionFail("webstack.ha.host_info: the Python library cryptography is missing here")
        role = self._task.args.get("role")
        if role is not None:
            if role not in _authority.FILES:
                raise AnsibleActionFail(f"webstack.ha.host_info: {role} is none of {', '.join(_authority.FILES)}")
            result["directory"] = self._templar.template(variables[_authority.variable(role)])
        roles = {
            place: role
            for role, paths in _authority.FILES.items()
            for path in paths
            for place in (path, earlier(path))
            if place
        }
        answer = self._execute_module(
            module_name="webstack.ha.host_info", module_args={"paths": list(roles)}, task_vars=task_vars
        )
        if answer.get("failed") or "texts" not in answer:
            result.update(answer, failed=True)
            return result
        unreadable = dict(answer["unreadable"])
        carried: list[dict[str, str]] = []
        for path, text in answer["texts"].items():
            try:
                found = _pki.carried(text)
            except ValueError as exc:
                unreadable[path] = str(exc)
                continue
            carried.extend({"role": roles[path], "path": path, "authority": one} for one in found)
        result.update({name: answer[name] for name in ("installed", "ring") if name in answer})
        if not self._task.delegate_to and "ansible_facts" in answer:
            # Ansible would take those of another host for the ones of the host that asks.
            result["ansible_facts"] = answer["ansible_facts"]
        result.update(changed=False, carried=carried, unreadable=unreadable, others=others(variables))
        return result


def others(variables: Mapping[str, Any]) -> list[str]:
    """Return the hosts of the site that this play does not ask: left out by --limit, of other plays, not yet up."""
    groups: Mapping[str, list[str]] = variables.get("groups") or {}
    asked = set(variables.get("ansible_play_batch") or variables.get("ansible_play_hosts_all") or ())
    hosts = [host for group in GROUPS for host in groups.get(group, ())]
    hosts += variables.get("ansible_play_hosts_all") or ()
    return [host for host in dict.fromkeys(hosts) if host not in asked]
