# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Messages, for the journal or for the person at the terminal."""

from __future__ import annotations

import os
import sys

ERROR, WARNING, INFO = 3, 4, 6


def say(text: str, level: int = INFO) -> None:
    """Write to standard error. For systemd each line begins with its level; a person does not see that."""
    prefix = f"<{level}>" if "JOURNAL_STREAM" in os.environ else ""
    for line in text.splitlines() or [""]:
        print(f"{prefix}{line}", file=sys.stderr, flush=True)
