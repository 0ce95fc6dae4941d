# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The errors that an operator can act on, and the exit code of each."""

from __future__ import annotations

GOOD = 0
FAILED = 1
#: It works, but not as it should.
DEGRADED = 2
USAGE = 64
#: Another command holds the lock.
BUSY = 75


class Problem(Exception):
    """Something that the operator can act on. The command prints its text, without a traceback."""

    code = FAILED


class Busy(Problem):
    """Another command holds the lock. The text says which."""

    code = BUSY
