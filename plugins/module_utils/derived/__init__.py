# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the roles make of their inputs: settings and lists of files. Each module is named after its role, or after
what of a role it is about.

Every function takes the variables of one host and returns the value of one variable of the role's vars/main.yml, which
calls it by the lookup webstack.ha._derived. It asks for the variables that it needs and for no others: the rest may
not be known yet. One that makes a default is given what it is made of, so that a reader of the defaults sees it. None
does any I/O: what it reads, the lookup reads for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ansible_collections.webstack.ha.plugins.module_utils import _site_checks

#: An entry of webstack.ha.files.
File = dict[str, Any]


class Role(Protocol):
    """The variables of a role on one host, worked out when one is asked for."""

    def __getitem__(self, name: str) -> Any:
        """Return the value of a variable."""

    def get(self, name: str, default: Any) -> Any:
        """Return the value of a variable, or the default when nobody has set it."""

    def read(self, path: str) -> str:
        """Return the text of a file on the controller, as ansible.builtin.file reads it."""

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return the text of a template of the role."""


def flag(role: Role, name: str) -> bool:
    """Return a boolean input: an INI file and -e name=value give texts."""
    return bool(_site_checks.boolean(role[name]))
