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
from ansible_collections.webstack.ha.plugins.module_utils._host_program import MOVED, HostProgram, notices

OPTIONS = frozenset({"files", "validate", "validate_always", "host_program", "notices", "settled"})


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
            program = HostProgram() if _files.boolean(args.get("host_program", False), "host_program") else None
            if program is not None:
                # First of all: what checks the files may be the program.
                items = _files.entries(program.links()) + items
            if args.get("notices"):
                items += _files.entries(notices(args["notices"]))
            validate = args.get("validate")
            payload: dict[str, Any] = {
                "files": items,
                "validate": _files.command(validate, "validate", placeholder=False) if validate else None,
                "validate_always": _files.boolean(args.get("validate_always", False), "validate_always"),
            }
            if args.get("settled") is not None:
                payload["settled"] = _files.settled(args["settled"])
        except ValueError as exc:
            raise AnsibleActionFail(f"webstack.ha.files: {exc}") from exc

        if args.get("notices") and args["notices"]["metrics_directory"]:
            payload["running"] = ["cron.service"]
        for item in items:
            if item["state"] == "file":
                if "src" in item:
                    item["content"] = self._read(item, task_vars)
                # The host needs neither the name of the template nor its variables.
                item.pop("src", None)
                item.pop("vars", None)

        if not items and "settled" not in payload and not (payload["validate"] and payload["validate_always"]):
            # A list that a role built from its variables may be empty: that is no reason to bother the host.
            result.update(changed=False, changed_files=[])
            return result

        if program is not None:
            payload.update(program=program.digest, moved=MOVED)
        answer = self._send(payload, task_vars)
        if program is not None and answer.pop("program_missing", False):
            # Complete and on the disk before a link leads to it.
            sent = answer = self._send({"files": _files.entries(program.content()), "compile": program.home}, task_vars)
            if not sent.get("failed"):
                answer = self._send({**payload, "program": ""}, task_vars)
                current = items[0]["dest"]
                if sent.get("changed") and not answer.get("failed") and current not in answer["changed_files"]:
                    # The link was right, and what it leads to was not there.
                    answer.update(changed=True, changed_files=[current, *answer["changed_files"]])
                    if "settled" in payload:
                        answer.update(settled=False, unsettled=["files changed"])
        result.update(answer)
        return result

    def _send(self, payload: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Run the module.

        One opaque argument: file contents appear neither in an invocation nor in debug output, and travel compressed.
        The module's own marker stays free of quotes this way, too.
        """
        packed = base64.b64encode(zlib.compress(json.dumps(payload).encode("ascii"), 6)).decode("ascii")
        answer: dict[str, Any] = self._execute_module(
            module_name="webstack.ha.files", module_args={"payload": packed}, task_vars=task_vars
        )
        return answer

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
