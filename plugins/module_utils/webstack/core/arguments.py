# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line of a tier."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from .errors import USAGE


class Parser(argparse.ArgumentParser):
    """Reads the words after `webstack TIER`. The help is the tier's docstring. A wrong word ends with exit code 64."""

    def __init__(self, tier: str = "", text: str | None = None, **more: Any) -> None:
        if tier:
            more.update(prog=f"webstack {tier}", description=text)
            more.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**more)

    def error(self, message: str) -> NoReturn:
        self.print_usage()
        self.exit(USAGE, f"{self.prog}: {message}\n")
