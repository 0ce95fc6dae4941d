# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The environment of a build, which is the same whoever calls."""

from __future__ import annotations

import os

from ..core.errors import Problem
from ..core.run import SEARCH_PATH, run

# Variables that come from a login, a locale or another virtual environment, or that would install elsewhere.
#: To make an empty environment. On a slow disk, unpacking pip takes minutes.
BUILD_SECONDS = 900
FOREIGN = ("PYTHON", "VIRTUAL_ENV", "DJANGO_", "LC_", "LANG", "XDG_", "SUDO_", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
FOREIGN_NAMES = frozenset({"TZ", "TMPDIR", "USER", "LOGNAME", "MAIL", "PIP_USER", "PIP_PYTHON", "PIP_DRY_RUN"})


def surroundings() -> dict[str, str]:
    """Return the environment of a build. Only what a play sets goes through: a proxy, a package index, flags."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(FOREIGN) and name not in FOREIGN_NAMES
    }
    path = ":".join(dict.fromkeys([*SEARCH_PATH.split(":"), *filter(None, kept.get("PATH", "").split(":"))]))
    return {**kept, "PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def build(*command: str) -> str:
    done = run(*command, seconds=BUILD_SECONDS, env=surroundings(), check=False)
    if done.code != 0:
        said = " ".join((done.out + done.err).split()) or f"exit code {done.code}"
        raise Problem(f"{' '.join(command[:3])}: {said[-1000:]}")
    return done.out
