# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The internal authority on the controller: create once, issue, renew, return as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.webstack.ha.plugins.module_utils import _pki, _pki_store
from ansible_collections.webstack.ha.plugins.module_utils._pki_store import Store

OPTIONS = frozenset({"directory", "name", "dns", "addresses", "days", "renew_days"})


def provide(store: Store, name: str | None, wanted: frozenset[str], days: int, renew_days: int) -> dict[str, Any]:
    """Return the texts of the authority and, with a name, of a certificate; issue what is missing or outdated."""
    moment = _pki.now()
    with store.locked():
        ca = store.read("ca")
        if ca is None:
            ca = _pki.issue_ca(moment)
            store.write("ca", ca, "created")
        else:
            _pki.check_ca(ca, store.path("ca", "crt"))
            if _pki.ca_must_renew(ca, moment, days) and _pki.is_own(ca):
                ca = _pki.issue_ca(moment, previous=ca)
                store.write("ca", ca, "continued with the same key, since it would expire before what it signs")
        result: dict[str, Any] = {"ca": ca.certificate_pem}
        if name is not None:
            try:
                pair = store.read(name)
                reason = "created" if pair is None else _pki.why_renew(pair, ca, wanted, renew_days, moment)
            except ValueError as exc:
                # Half a pair, or a damaged one: unlike the authority it can be made anew at no loss.
                pair, reason = None, str(exc)
            if pair is None or reason:
                pair = _pki.issue(ca, name, wanted, days, moment)
                store.write(name, pair, reason)
            result.update(certificate=pair.certificate_pem, private_key=pair.key_pem)
    return {**result, "changed": store.changed, "reasons": store.reasons}


def _texts(raw: Any, option: str) -> list[str]:
    if raw is None:
        return []
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise ValueError(f"{option}: expected a list, got {type(raw).__name__}")
    return [str(one) for one in raw]


def _days(raw: Any, option: str, lowest: int, highest: int) -> int:
    try:
        value = int(str(raw))
    except ValueError:
        raise ValueError(f"{option}: expected a number of days, got {raw!r}") from None
    if not lowest <= value <= highest:
        raise ValueError(f"{option}: {value} is not between {lowest} and {highest}")
    return value


class ActionModule(ActionBase):
    """webstack.ha.certificate: needs no host at all."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Translate arguments and errors."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        args = self._task.args
        try:
            unknown = sorted(set(args) - OPTIONS)
            if unknown:
                raise ValueError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(OPTIONS))}")
            if not _pki.available():
                raise ValueError("the Python library cryptography is missing on the controller")
            directory = args.get("directory")
            error = _pki_store.directory_error(directory)
            if error:
                raise ValueError(f"directory: {error}")
            name = args.get("name")
            if name is not None:
                name = _pki.check_name(str(name))
            wanted = _pki.alternative_names(_texts(args.get("dns"), "dns"), _texts(args.get("addresses"), "addresses"))
            if name is None and wanted:
                raise ValueError("name: required with dns or addresses")
            if name is not None and not wanted:
                wanted = _pki.alternative_names([name], [])
            days = _days(args.get("days") or 825, "days", 1, _pki.MAX_DAYS)
            renew_days = _days(args.get("renew_days", 30), "renew_days", 0, days - 1)
            store = Store(_pki_store.absolute(directory), writable=not self._task.check_mode)
            result.update(provide(store, name, wanted, days, renew_days))
        except (ValueError, OSError) as exc:
            raise AnsibleActionFail(f"webstack.ha.certificate: {exc}") from exc
        # The key leaves by register only, whatever the task forgot.
        result["_ansible_no_log"] = True
        return result
