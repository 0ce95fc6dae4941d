# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One cheap look at dpkg; ansible.builtin.apt only when something is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Debian policy 5.6.7, and optionally an architecture.
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?")
#: Where playbooks/preflight.yml keeps what the host said.
LOOK = "__webstack_look"
# What apt says when its lists are older than the archive, or empty.
STALE = re.compile(r"No package matching|Unable to locate|404\s+Not Found|Failed to fetch", re.IGNORECASE)


def names(raw: Any) -> list[str]:
    """Return the wanted names, each once; ValueError for what is no name."""
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise ValueError(f"name: expected a list of package names, got {type(raw).__name__}")
    for name in raw:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"name: {name!r} is no package name (versions and patterns are not supported)")
    return list(dict.fromkeys(str(name) for name in raw))


class ActionModule(ActionBase):
    """The controller's half of webstack.ha.packages."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look, and install what is missing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        unknown = sorted(set(self._task.args) - {"name"})
        if unknown:
            raise AnsibleActionFail(f"webstack.ha.packages: unknown option {', '.join(unknown)}; known is name")
        try:
            wanted = names(self._task.args.get("name"))
        except ValueError as exc:
            raise AnsibleActionFail(f"webstack.ha.packages: {exc}") from exc

        if set(wanted) <= self._told(task_vars or {}):
            result.update(changed=False, missing=[])
            return result
        found = self._execute_module(
            module_name="webstack.ha.packages", module_args={"name": wanted}, task_vars=task_vars
        )
        missing = found.get("missing")
        if found.get("failed") or not missing:
            result.update(found)
            return result
        if self._task.check_mode:
            result["changed"] = True
        else:
            result.update(self._install(missing, task_vars))
        result["missing"] = missing
        if self._task.diff and result.get("changed"):
            lines = "".join(f"{name}\n" for name in missing)
            result["diff"] = {"before_header": "packages", "after_header": "packages", "before": "", "after": lines}
        return result

    def _told(self, variables: dict[str, Any]) -> set[str]:
        """Return the packages of which the host said in this run, to webstack.ha.host_info, that it has them.

        No role of this collection removes one, and what it did not have then is asked again.
        """
        look = variables.get(LOOK)
        if self._task.delegate_to or not isinstance(look, Mapping):
            return set()
        return set(str(look.get("installed") or "").split())

    def _install(self, missing: list[str], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        def apt(cache_valid_time: int) -> dict[str, Any]:
            done: dict[str, Any] = self._execute_module(
                module_name="ansible.legacy.apt",
                module_args={
                    "name": list(missing),
                    "state": "present",
                    "install_recommends": False,
                    "update_cache": True,
                    "cache_valid_time": cache_valid_time,
                    # 101: the answer of policy-rc.d that forbids every start.
                    "policy_rc_d": 101,
                    "lock_timeout": 300,
                },
                task_vars=task_vars,
            )
            return done

        done = apt(cache_valid_time=3600)
        if done.get("failed") and STALE.search(f"{done.get('msg', '')} {done.get('stderr', '')}"):
            # Young lists can still be empty (a trimmed image) or behind the archive: once with fresh ones.
            done = apt(cache_valid_time=0)
        return done
