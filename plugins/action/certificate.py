# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the site's certificate authority and the hosts' certificates in a directory on the controller."""

from __future__ import annotations

import fcntl
import os
import pathlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.webstack.ha.plugins.module_utils import _pki

SPEC: dict[str, Any] = {
    "directory": {"type": "path", "required": True},
    "name": {"type": "str"},
    "dns": {"type": "list", "elements": "str", "default": []},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "days": {"type": "int", "default": 825},
    "renew_days": {"type": "int", "default": 30},
}


@contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """Hosts are handled by processes side by side; the authority is made once."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(directory: pathlib.Path, name: str) -> _pki.Pair | None:
    """Return the pair `name`, or None when there is none."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    if not certificate.exists() and not key.exists():
        return None
    return _pki.Pair(certificate.read_text(), key.read_text())


def write(directory: pathlib.Path, name: str, pair: _pki.Pair) -> None:
    """Write the pair; the key first, so that a certificate never stands alone."""
    for suffix, text, mode in (("key", pair.key, 0o600), ("crt", pair.certificate, 0o644)):
        target = directory / f"{name}.{suffix}"
        temporary = directory / f".{name}.{suffix}.new"
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


class ActionModule(ActionBase):
    """All of webstack.ha.certificate: nothing runs on the host."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the authority's certificate and, with a name, that name's certificate and key."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=SPEC)
        directory = pathlib.Path(os.path.expanduser(options["directory"]))
        name = options["name"]
        if name is not None and (not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "ca"):
            raise AnsibleActionFail(f"webstack.ha.certificate: {name!r} cannot be the name of a certificate")
        try:
            if self._task.check_mode and not directory.is_dir():
                changed, authority, leaf = self._ensure(directory, options, write_files=False)
            else:
                with locked(directory):
                    changed, authority, leaf = self._ensure(directory, options, not self._task.check_mode)
        except (OSError, ValueError) as exc:
            raise AnsibleActionFail(f"webstack.ha.certificate: {directory}: {exc}") from exc
        result.update(changed=changed, ca=authority.certificate)
        if leaf is not None:
            result.update(certificate=leaf.certificate, private_key=leaf.key)
        return result

    @staticmethod
    def _ensure(
        directory: pathlib.Path, options: dict[str, Any], write_files: bool
    ) -> tuple[bool, _pki.Pair, _pki.Pair | None]:
        """Read what there is, make what is missing; in check mode what is made is not kept."""
        changed = False
        authority = read(directory, "ca")
        if authority is None:
            authority, changed = _pki.make_authority(), True
            if write_files:
                write(directory, "ca", authority)
        name = options["name"]
        if name is None:
            return changed, authority, None
        wanted = (name, options["dns"], options["addresses"])
        leaf = read(directory, name)
        if leaf is None or not _pki.still_good(authority, leaf, *wanted, renew_days=options["renew_days"]):
            leaf, changed = _pki.make_certificate(authority, *wanted, options["days"]), True
            if write_files:
                write(directory, name, leaf)
        return changed, authority, leaf
