# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The members of the quorum and this host's place among them, as the role quorum wrote them down."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..core import config
from ..core.errors import Problem
from .gateway import Endpoint, Tls

ROLE = "quorum"
CONFIG = pathlib.Path("/etc/webstack/quorum.json")
#: What only this boot knows: the permission to begin, and what the member that runs was started with.
RUN = pathlib.Path("/run/webstack/quorum")
UNIT = "webstack-quorum.service"


@dataclass(frozen=True)
class Member:
    """This host as a member."""

    name: str
    peer_url: str
    data: pathlib.Path
    snapshots: pathlib.Path
    snapshot_hours: int
    snapshot_keep: int
    quota: int
    #: Of these the running member knows what they were when it was started.
    files: Sequence[pathlib.Path]

    def has_data(self) -> bool:
        """Say whether there is a write-ahead log: without one a member has forgotten what it promised."""
        try:
            return any((self.data / "member/wal").glob("*.wal"))
        except OSError as error:
            raise Problem(f"{self.data} cannot be looked at: {error.strerror}") from error


@dataclass(frozen=True)
class Settings:
    """What every client needs; `member` is None on a host that only asks."""

    endpoints: Sequence[Endpoint]
    #: Name -> where the members speak with each other.
    peers: dict[str, str]
    tls: Tls
    seconds: float
    member: Member | None

    def here(self) -> Member:
        if self.member is None:
            raise Problem(f"this host is no member of the quorum: {', '.join(self.peers)} are")
        return self.member

    def endpoint(self, name: str) -> Endpoint:
        return next(one for one in self.endpoints if one.name == name)


def load(path: pathlib.Path | None = None) -> Settings:
    """Read the file of this host."""
    raw = config.load(path or CONFIG, ROLE)
    members = raw.tables("members")
    endpoints = [Endpoint(one.text("name"), one.text("address"), one.whole("port")) for one in members]
    peers = {one.text("name"): url(one.text("address"), raw.whole("peer_port")) for one in members}
    tls = raw.table("tls")
    member = None
    if "member" in raw:
        own = raw.table("member")
        name = own.text("name")
        if name not in peers:
            raise Problem(f"{raw.where}: {name} is not among the members: run the role {ROLE} again")
        member = Member(
            name,
            peers[name],
            pathlib.Path(own.text("data")),
            pathlib.Path(own.text("snapshots")),
            own.whole("snapshot_hours"),
            own.whole("snapshot_keep"),
            own.whole("quota_bytes"),
            [pathlib.Path(file) for file in own.words("files")],
        )
    files = Tls(tls.text("ca"), tls.text("certificate"), tls.text("key"))
    return Settings(endpoints, peers, files, raw.number("answer_seconds"), member)


def url(address: str, port: int) -> str:
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
