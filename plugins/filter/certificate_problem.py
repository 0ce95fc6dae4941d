"""Filter `certificate_problem`: why a certificate and a key cannot serve a site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _certificate_problem


def certificate_problem(
    certificate: str,
    key: str,
    certificate_name: str = "certificate",
    key_name: str = "key",
    *,
    names: Sequence[str] = (),
    chain_required: bool = True,
) -> str:
    return _certificate_problem.problem(
        str(certificate),
        str(key),
        certificate_name,
        key_name,
        names=[str(name) for name in names],
        chain_required=chain_required,
    )


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"certificate_problem": certificate_problem}
