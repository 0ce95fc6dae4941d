# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action secrets: write the missing secrets of a site once, beside its inventory."""

from __future__ import annotations

import os
import re
import secrets
import stat
import string
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.webstack.ha.plugins.module_utils import _pki_store, _site_checks

COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Letters and digits only: safe in SQL, Redis ACLs, URLs, shells, INI and YAML. 48 of them are 285 bits.
ALPHABET = string.ascii_letters + string.digits
LENGTH = 48

HEADER = """\
---
# Secrets of this site, written once by webstack.ha.secrets, which adds what is missing and changes nothing.
# Encrypt the file before it leaves this machine: ansible-vault encrypt secrets.yml
"""

IGNORE = """\
# Passwords in plain text. Remove this line when ansible-vault has encrypted the file and it shall be committed.
/{}
"""


class ActionModule(ActionBase):
    """Write what is missing, show nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the path and the names of the secrets that were written."""
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validated, arguments = self.validate_argument_spec(
            argument_spec={"path": {"type": "path"}, "names": {"type": "list", "elements": "str"}}
        )
        path = arguments["path"] or default_path(variables.get("ansible_inventory_sources") or ())
        names = arguments["names"] or self._names()
        with _locked(path):
            text, known = self._read(path)
            elsewhere = defined(variables, names)
            empty = [name for name in names if name in known and known[name] in (None, "")]
            if empty:
                raise AnsibleActionFail(f"{path}: {', '.join(empty)}: empty; remove the line and it is written anew")
            missing = [name for name in names if name not in known and name not in elsewhere]
            loose = text is not None and bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)
            if missing and text is not None and text.startswith("$ANSIBLE_VAULT"):
                raise AnsibleActionFail(
                    f"{path} is encrypted and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: "
                    f"add {'it' if len(missing) == 1 else 'them'} with `ansible-vault edit {path}`, "
                    "or decrypt the file, run this again and encrypt it"
                )
            if missing:
                shadowed(path)
                dangling(path)
            if not self._task.check_mode:
                if missing:
                    write(path, extended(text, missing))
                    if text is None:
                        ignore(path)
                elif loose:
                    os.chmod(path, 0o600)
        result.update(changed=bool(missing) or loose, path=path, created=missing)
        if missing:
            verb = "Would write" if self._task.check_mode else "Wrote"
            result["msg"] = f"{verb} {', '.join(missing)} to {path}."
        else:
            result["msg"] = f"Nothing is missing from {path}."
        return result

    def _names(self) -> list[str]:
        data = self._loader.load_from_file(os.path.join(COLLECTION, "meta", "site_specs.yml"))
        return list(_site_checks.parse_site(data).secrets)

    def _read(self, path: str) -> tuple[str | None, Mapping[str, Any]]:
        """Return the text of the file, None when there is none, and the variables in it."""
        if not os.path.exists(path):
            return None, {}
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text.startswith("$ANSIBLE_VAULT"):
            # What is in it reached the hosts' variables, if the vault password was given.
            return text, {}
        try:
            known = self._loader.load(text, file_name=path)
        except AnsibleError as error:
            raise AnsibleActionFail(f"{path} is no valid YAML, nothing was written: {_first_line(error)}") from None
        if known is None:
            known = {}
        if not isinstance(known, Mapping):
            raise AnsibleActionFail(f"{path} must hold variables, `name: value` each; nothing was written")
        return text, known


def _first_line(error: BaseException) -> str:
    # The lines after the first quote the file.
    return str(getattr(error, "_original_message", error)).splitlines()[0]


def default_path(sources: Iterable[str]) -> str:
    """Return the file beside the first inventory that is one; a list of hosts (C(-i a,b)) has no place."""
    for source in sources:
        text = str(source)
        if "," in text or not os.path.exists(text):
            continue
        directory = text if os.path.isdir(text) else os.path.dirname(text)
        return os.path.join(os.path.abspath(directory), "group_vars", "all", "secrets.yml")
    raise AnsibleActionFail("no inventory to write the secrets to: give one with -i, a file or a directory")


def shadowed(path: str) -> None:
    """Refuse to create C(group_vars/all/) beside C(group_vars/all.yml): Ansible reads one of both and it would hide."""
    directory = os.path.dirname(path)
    if os.path.isdir(directory) or os.path.basename(directory) != "all":
        return
    for name in (directory, *(f"{directory}.{ending}" for ending in ("yml", "yaml", "json"))):
        if os.path.exists(name):
            raise AnsibleActionFail(
                f"Ansible reads either the file {name} or the directory {directory}, and the secrets need the "
                f"directory. Move the file to {os.path.join(directory, 'site.yml')} and run this again"
            )


def defined(variables: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Return the names that some host of the inventory has already, wherever they come from."""
    hostvars = variables.get("hostvars") or {}
    hosts = [*(variables.get("groups") or {}).get("all", ()), variables.get("inventory_hostname", "localhost")]
    raw = getattr(hostvars, "raw_get", None)
    found: set[str] = set()
    for host in dict.fromkeys(hosts):
        own = raw(host) if raw else hostvars.get(host, {})
        found.update(name for name in names if name in own)
    return found


def extended(text: str | None, names: Iterable[str]) -> str:
    """Return the text of the file with a new secret for each name. What stands in it stays as it is."""
    before = HEADER if text is None or not text.strip() else text
    # A closing document marker would make what follows a second document.
    before = re.sub(r"\n\.\.\.\s*\Z", "\n", before)
    if not before.endswith("\n"):
        before += "\n"
    return before + "".join(f'{name}: "{generated()}"\n' for name in names)


def generated() -> str:
    """Return a new secret."""
    return "".join(secrets.choice(ALPHABET) for _position in range(LENGTH))


def dangling(path: str) -> None:
    """Refuse a link to nothing: where it leads to may be a place that is not there today, with the secrets in it."""
    if os.path.islink(path) and not os.path.exists(path):
        raise AnsibleActionFail(f"{path} is a link to {os.readlink(path)}, which is not there; nothing was written")


def write(path: str, text: str) -> None:
    """Replace the file at once: whoever reads it sees the old one or the new one, and nobody else can read it.

    A link to it stays one. The copy lies beside the file itself, so that it can take its place.
    """
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # The copy has a hidden name: Ansible does not take it for a file of variables.
    _pki_store.write_file(path, text, 0o600)


def ignore(path: str) -> None:
    """Keep a new file out of version control, as long as it is plain text."""
    file = os.path.join(os.path.dirname(path), ".gitignore")
    if not os.path.lexists(file):
        _pki_store.write_file(file, IGNORE.format(os.path.basename(path)), 0o644)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Let one run write at a time: two at once would each generate a value, and one of them would be lost."""
    directory = os.path.dirname(path)
    # The directory of the inventory, because the others may not be there yet.
    while os.path.basename(directory) in ("all", "group_vars") or not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            _pki_store.take(handle, directory)
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from None
        yield
    finally:
        os.close(handle)
