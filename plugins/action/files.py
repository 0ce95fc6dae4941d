# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Render every file of a role on the controller, then compare and write them in one module execution."""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template
from ansible_collections.webstack.ha.plugins.module_utils import _files

OPTIONS = frozenset({"files", "validate", "validate_always"})


class ActionModule(ActionBase):
    """The controller's half of webstack.ha.files."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the arguments, render, and hand everything to the module."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp

        args = self._task.args
        unknown = sorted(set(args) - OPTIONS)
        if unknown:
            raise AnsibleActionFail(
                f"webstack.ha.files: unknown option {', '.join(unknown)}; known are {', '.join(sorted(OPTIONS))}"
            )
        if "files" not in args:
            raise AnsibleActionFail("webstack.ha.files: files is required")
        try:
            items = _files.entries(args["files"])
            validate = args.get("validate")
            payload: dict[str, Any] = {
                "files": items,
                "validate": _files.command(validate, "validate", placeholder=False) if validate else None,
                "validate_always": _files.boolean(args.get("validate_always", False), "validate_always"),
            }
        except ValueError as exc:
            raise AnsibleActionFail(f"webstack.ha.files: {exc}") from exc

        for item in items:
            if item["state"] == "file":
                if "src" in item:
                    item["content"] = self._read(item, task_vars)
                # The host needs neither the name of the template nor its variables.
                item.pop("src", None)
                item.pop("vars", None)

        if not items and not (payload["validate"] and payload["validate_always"]):
            # A list that a role built from its variables may be empty: that is no reason to bother the host.
            result.update(changed=False, changed_files=[])
            return result

        # One opaque argument: file contents appear neither in an invocation nor in debug output, and
        # travel compressed. The module's own marker stays free of quotes this way, too.
        packed = base64.b64encode(zlib.compress(json.dumps(payload).encode("ascii"), 6)).decode("ascii")
        result.update(
            self._execute_module(
                module_name="webstack.ha.files",
                module_args={"payload": packed},
                task_vars=task_vars,
            )
        )
        return result

    def _read(self, item: dict[str, Any], task_vars: dict[str, Any]) -> str:
        """Return the text of an entry's src; bytes that are no UTF-8 survive as surrogates."""
        src = item["src"]
        try:
            path = self._find(src)
            if os.path.isdir(path):
                raise AnsibleError("is a directory")
            if src.endswith(".j2"):
                return self._render(path, item, task_vars)
            real = self._loader.get_real_file(path)
            try:
                # What the controller keeps encrypted must not appear in a diff.
                item["secret"] = item["secret"] or real != path
                with open(real, "rb") as handle:
                    return handle.read().decode("utf-8", "surrogateescape")
            finally:
                self._loader.cleanup_tmp_file(real)
        except (AnsibleError, OSError) as exc:
            raise AnsibleActionFail(f"webstack.ha.files: {src} (for {item['dest']}): {exc}") from exc

    def _find(self, src: str) -> str:
        try:
            return str(self._find_needle("templates", src))
        except AnsibleError:
            return str(self._find_needle("files", src))

    def _render(self, path: str, item: dict[str, Any], task_vars: dict[str, Any]) -> str:
        """Render a template as ansible.builtin.template does."""
        search: list[str] = []
        for base in [*task_vars.get("ansible_search_path", []), self._loader.get_basedir(), os.path.dirname(path)]:
            search += [os.path.join(base, "templates"), base]

        # Defaults of ansible_managed and the template_* names first, so that the caller's own win.
        meta = generate_ansible_template_vars(path=item["src"], fullpath=path, dest_path=item["dest"])
        if "ansible_managed" in task_vars:
            meta.pop("ansible_managed", None)
        templar = self._templar.copy_with_new_env(
            searchpath=search,
            available_variables={**task_vars, **meta, **item["vars"]},
        )
        text = templar.template(
            trust_as_template(self._loader.get_text_file_contents(path)),
            escape_backslashes=False,
            overrides={"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"},
        )
        return "" if text is None else str(text)
