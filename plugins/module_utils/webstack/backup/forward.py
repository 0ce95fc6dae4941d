# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings restored data forward: to a moment, or to just before one transaction, from this host's binary logs."""

from __future__ import annotations

import calendar
import contextlib
import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core import files
from ..core.errors import Problem
from ..db import role
from . import trial
from .server import Server
from .ship import program
from .take import METADATA
from .tools import GENTLE

#: What `mariadb-binlog` writes before each transaction: its time, and its GTID.
HEADER = re.compile(rb"#(\d\d)(\d\d)(\d\d) +(\d+):(\d\d):(\d\d) server id \d+ +end_log_pos \d+ .*\tGTID (\d+-\d+-\d+)")
PLACE = re.compile(rb"# at \d+\n?$")
MOMENT = "%Y-%m-%d %H:%M:%S"


class Until(NamedTuple):
    """Where to stop: before the first transaction of a later time, or before this one."""

    moment: float = 0.0
    before: str = ""

    @property
    def wanted(self) -> bool:
        return bool(self.moment or self.before)


def until(moment: str, before: str) -> Until:
    """Read what a person asked for; a time is in UTC."""
    if moment and before:
        raise Problem("--until and --before are two places: take one")
    if before and not re.fullmatch(r"\d+-\d+-\d+", before):
        raise Problem(f"--before {before!r} is no GTID such as 0-1-500; `webstack backup find` shows them")
    if not moment:
        return Until(before=before)
    try:
        return Until(float(calendar.timegm(time.strptime(moment.removesuffix(" UTC"), MOMENT))))
    except ValueError:
        raise Problem(f"--until {moment!r} is no time such as '2026-11-28 10:41:06' (UTC)") from None


@dataclass
class Transactions:
    """Reads what `mariadb-binlog` writes, and knows the transaction in which each line stands."""

    lines: Iterable[bytes]
    gtid: str = ""
    at: float = 0.0
    #: Of each domain the last transaction that was read whole.
    last: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[bytes]:
        after_place = False
        for line in self.lines:
            # A statement may have a line that looks like a header, but hardly both.
            if after_place and (found := HEADER.match(line)):
                year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
                self.at = calendar.timegm((2000 + year, month, day, hour, minute, second, 0, 0, 0))
                self.gtid = found[7].decode()
            after_place = bool(PLACE.match(line))
            yield line

    def until(self, stop: Until) -> Iterator[bytes]:
        """Yield the lines up to the place where to stop. `gtid` is the transaction before which that was, or empty."""
        seen = ""
        for line in self:
            if self.gtid != seen:
                if self.gtid == stop.before or (stop.moment and self.at > stop.moment):
                    return
                seen = self.gtid
                self.last[seen.partition("-")[0]] = seen
            yield line
        self.gtid = ""


def usable(snapshots: Sequence[Mapping[str, Any]], stop: Until) -> list[Mapping[str, Any]]:
    """Return the backups from which one can get there: those of this host that are not beyond it."""
    own = [one for one in snapshots if one["host"] == os.uname().nodename]
    if not stop.before:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stop.moment))
        return [one for one in own if one["time"][:19] <= moment]
    domain, _server, number = stop.before.split("-")
    return [one for one in own if role.gtid_sequences(one["gtid"]).get(domain, 0) < int(number)]


def facts_of(copy: pathlib.Path, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the backup says of itself; it has to be the one that the repository says it is."""
    try:
        facts = dict(json.loads(files.read(copy / METADATA) or ""))
    except ValueError:
        raise Problem(f"it has no {METADATA}") from None
    if facts.get("gtid") != snapshot["gtid"]:
        raise Problem(f"it says that it stands at {facts.get('gtid')}, the repository says {snapshot['gtid']}")
    return facts


def logs_of(server: Server, first: str) -> list[pathlib.Path]:
    """Return this host's binary logs from this one on; the server need not run."""
    base = server.datadir() / (server.option("log_bin", "") or "binlog")
    stem = base.with_name(base.name.rpartition(".")[0]) if re.search(r"\.\w+$", base.name) else base
    found = sorted(path for path in stem.parent.glob(f"{stem.name}.*") if re.fullmatch(r"\d{6,}", path.suffix[1:]))
    names = [path.name for path in found]
    if first and first not in names:
        raise Problem(f"{first}, where the backup ends, is no longer among the binary logs of this host")
    return found[names.index(first) :] if first else found


def reader(seconds: float, logs: Sequence[pathlib.Path], start: int) -> Any:
    """Run mariadb-binlog, with times in UTC."""
    words = [*GENTLE, "env", "TZ=UTC", "mariadb-binlog", f"--start-position={start}", *map(str, logs)]
    return program(seconds, *words, stdout=subprocess.PIPE)


def forward(server: Server, copy: pathlib.Path, facts: Mapping[str, Any], stop: Until) -> dict[str, Any]:
    """Start a server on the copy, replay what came after it up to the place where to stop, and shut it down cleanly.

    The copy then says of itself that it stands there.
    """
    if facts.get("host") != os.uname().nodename:
        raise Problem(f"the backup is of {facts.get('host')}, whose binary logs are not on this host: restore it there")
    logs = logs_of(server, str(facts["binlog_file"]))
    seconds = server.config.whole("timeout_seconds")
    with (
        trial.place(pathlib.Path(server.config.text("staging_directory"))) as home,
        trial.server_on(home, copy, seconds),
        reader(seconds, logs, int(facts["binlog_position"])) as log,
    ):
        read = Transactions(log.stdout)
        # Its exit code says more than a pipe that broke.
        with trial.client(home, seconds, stdin=subprocess.PIPE) as client, contextlib.suppress(BrokenPipeError):
            for line in read.until(stop):
                client.stdin.write(line)
            client.stdin.close()
        if read.gtid:
            log.kill()
        if client.returncode != 0 or (not read.gtid and log.wait(60) != 0):
            raise Problem("the binary logs cannot be replayed: the journal says why")
        if stop.before and read.gtid != stop.before:
            raise Problem(f"{stop.before} is not in the binary logs since the backup ({facts['gtid']})")
    owner = copy.stat()
    position = merged(str(facts["gtid"]), read.last)
    files.write(copy / METADATA, json.dumps({**facts, "gtid": position}, indent=2) + "\n", 0o600)
    os.chown(copy / METADATA, owner.st_uid, owner.st_gid)
    return {"gtid": position, "next": read.gtid or "nothing", "last_write": time.strftime(MOMENT, time.gmtime(read.at))}


def merged(base: str, last: Mapping[str, str]) -> str:
    """Return the position of a copy after these transactions."""
    found = {gtid.partition("-")[0]: gtid for gtid in base.split(",")}
    return ",".join({**found, **last}.values())


class Hit(NamedTuple):
    """A statement that was found."""

    gtid: str
    time: str
    text: str


def find(lines: Iterable[bytes], words: str) -> Iterator[Hit]:
    """Return the transactions whose statements have these words, whatever their case."""
    read, wanted, told = Transactions(lines), words.lower().encode(), ""
    for line in read:
        # Of rows, the server keeps the statement as a remark.
        text = line[3:] if line.startswith(b"#Q>") else b"" if line.startswith(b"#") else line
        if wanted in text.lower() and read.gtid and read.gtid != told:
            told = read.gtid
            said = text.decode(errors="replace").strip()[:200]
            yield Hit(told, time.strftime(f"{MOMENT} UTC", time.gmtime(read.at)), said)
