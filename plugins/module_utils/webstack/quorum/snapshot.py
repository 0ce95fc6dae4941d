# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A copy of the store for the day when too many members are lost, and the way back from it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import pathlib
import secrets
import shutil
import time

from ..core import files, systemd
from ..core.errors import Problem
from ..core.run import environment, run
from . import config, settle, view
from .config import Member, Settings
from .gateway import Gateway

SECONDS = 120
CHECKSUM = 32


def newest(member: Member) -> pathlib.Path | None:
    found = sorted(member.snapshots.glob("quorum-*.db"))
    return found[-1] if found else None


def take(settings: Settings) -> pathlib.Path:
    """Copy what the member of this host holds, check it, and keep the newest ones. It needs no leader."""
    member = settings.here()
    gateway = Gateway([settings.endpoint(member.name)], settings.tls, SECONDS)
    content = bytearray()
    for line in gateway.stream("maintenance/snapshot", {}, SECONDS):
        content += base64.b64decode((line.get("result") or {}).get("blob", ""))
    if not content:
        raise Problem(
            f"{member.name} gives no snapshot: a member that started without the others waits for them. If they are "
            "lost for good, stop it (systemctl disable --now webstack-quorum) and begin again with what it has "
            f"(webstack quorum restore {database(member)})"
        )
    checked(bytes(content), member.name)
    member.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = member.snapshots / f"quorum-{time.strftime('%Y%m%dT%H%M%S')}.db"
    part = place.with_suffix(".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(place)
        files.sync_folder(member.snapshots)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise Problem(f"{place} cannot be written: {error.strerror}") from error
    for old in sorted(member.snapshots.glob("quorum-*.db"))[: -member.snapshot_keep]:
        files.remove(old)
    return place


def database(member: Member) -> pathlib.Path:
    """Return the file in which a member keeps what the store holds."""
    return member.data / "member/snap/db"


def checked(content: bytes, name: str) -> None:
    """Refuse half a snapshot: its end is the checksum of what is before it."""
    body, end = content[:-CHECKSUM], content[-CHECKSUM:]
    if not body or hashlib.sha256(body).digest() != end:
        raise Problem(f"the snapshot of {name} is not complete ({len(content)} bytes came); nothing was kept")


def restore(settings: Settings, source: pathlib.Path) -> str:
    """Begin a new store of this member alone with what a snapshot holds. The others join it by the role.

    Refused while anybody works. What this host had is moved aside.
    """
    member = settings.here()
    # A member's own file has no checksum, and is whole while nobody writes to it.
    own = source.resolve() == database(member).resolve()
    try:
        content = source.read_bytes()
    except OSError as error:
        raise Problem(f"{source} cannot be read: {error.strerror}") from error
    if not own:
        checked(content, str(source))
    elif systemd.is_active(config.UNIT):
        raise Problem(f"{source} is in use: stop the member first (systemctl disable --now webstack-quorum)")
    if working := [one.endpoint.name for one in view.look(settings) if one.works]:
        raise Problem(
            f"the quorum works ({', '.join(working)}): a restore would throw away what it holds. To do so all the same "
            "stop every member first (systemctl disable --now webstack-quorum)"
        )
    place = member.data / f"restored-{time.strftime('%Y%m%dT%H%M%S')}"
    run(
        "etcdctl", "snapshot", "restore", str(source),
        "--name", member.name,
        "--initial-cluster", f"{member.name}={member.peer_url}",
        "--initial-advertise-peer-urls", member.peer_url,
        # Clients see by it that this is another store.
        "--initial-cluster-token", f"webstack-{secrets.token_hex(8)}",
        "--data-dir", str(place),
        *(["--skip-hash-check"] if own else []),
        seconds=SECONDS,
        env=environment({"ETCDCTL_API": "3"}),
    )  # fmt: skip
    systemd.tell("stop", config.UNIT)
    if member.has_data():
        settle.set_aside(member)
    try:
        run("chown", "-R", "--reference", str(member.data), str(place), seconds=60)
        (place / "member").rename(member.data / "member")
        shutil.rmtree(place)
        files.sync_folder(member.data)
    except OSError as error:
        raise Problem(f"{place} cannot take the place of {member.data}/member: {error.strerror}") from error
    systemd.tell("enable", config.UNIT)
    settle.start(member, "start")
    return (
        "a new store was begun with what the snapshot holds. Run the role quorum on the other members with "
        "quorum_discard_data=true, so that they join it"
    )
