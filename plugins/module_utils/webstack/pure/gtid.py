# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Positions in MariaDB's history (GTID sets), as mariadb-backup writes them beside a copy of the data."""

from __future__ import annotations

import re
from typing import NamedTuple


class Position(NamedTuple):
    """How far a copy of the data has come: in that server's binary log, and in the history of the site."""

    file: str = ""
    offset: str = ""
    gtid: str = ""


def binlog_position(text: str) -> Position:
    """Read the tool's file ..._binlog_info: binary log, offset and, if the server ever wrote, a GTID set.

    If the set has several domains, each further one stands on a line of its own.
    """
    fields = re.sub(r",\s*\n", ",", text).strip().split("\n")[0].split("\t")
    fields += [""] * (3 - len(fields))
    return Position(fields[0], fields[1], fields[2].strip())


def replica_position(text: str) -> str:
    """Read the tool's file ..._slave_info: the GTID set of a replica that writes no binary log."""
    match = re.search(r"gtid_slave_pos\s*=\s*'([^']*)'", text)
    return re.sub(r"\s", "", match[1]) if match else ""
