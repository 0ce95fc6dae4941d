# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The encrypted restic repository: lists its backups, stores new ones, and removes old ones."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core import files
from ..core.errors import Problem
from ..core.run import Done
from .full import ended_when_idle, failure
from .notes import Notes
from .tools import Tools, last_message, stamp

NOTES = "/webstack-notes.json"
CACHE = pathlib.Path("/var/cache/webstack/backup")


def gtid_tag(gtid: str) -> str:
    """Return the tag for a position. A tag of restic cannot contain a comma."""
    return "gtid=" + gtid.replace(",", "+")


def tags_of(snapshot: Mapping[str, Any]) -> dict[str, str]:
    return dict(tag.split("=", 1) for tag in snapshot.get("tags") or [] if "=" in tag)


def normal_time(text: str) -> str:
    """Return a time of restic's in UTC, in a form that sorts as text."""
    moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def parse_snapshots(text: str, site: str) -> list[dict[str, Any]]:
    """Return the site's backups, oldest first. A shared repository may hold others, which are left out."""
    found = []
    for snapshot in json.loads(text) or []:
        if site not in (snapshot.get("tags") or []):
            continue
        tags = tags_of(snapshot)
        found.append(
            {
                "id": snapshot["short_id"],
                "time": normal_time(snapshot["time"]),
                "host": snapshot["hostname"],
                "kind": tags.get("kind", ""),
                "gtid": tags.get("gtid", "").replace("+", ","),
                "bytes": int(tags.get("bytes", "0")),
                "server": tags.get("server", ""),
            }
        )
    return sorted(found, key=lambda one: str(one["time"]))


def note_ids(text: str, tag: str) -> list[str]:
    """Return the notes among what restic lists, oldest first."""
    found = [one for one in json.loads(text) or [] if tag in (one.get("tags") or [])]
    return [str(one["id"]) for one in sorted(found, key=lambda one: normal_time(one["time"]))]


def choose(snapshots: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    """Return the backup that `latest` or an id stands for."""
    if not snapshots:
        raise Problem("the repository has no backup of this site")
    if wanted == "latest":
        return snapshots[-1]
    if not re.fullmatch(r"[0-9a-f]{4,64}", wanted):
        raise Problem(f"{wanted!r} is not a snapshot id; `webstack backup list` shows them")
    hits = [one for one in snapshots if wanted.startswith(one["id"]) or one["id"].startswith(wanted)]
    if len(hits) != 1:
        raise Problem(f"snapshot {wanted} is {'ambiguous' if hits else 'not in the repository'}")
    return hits[0]


def retention_arguments(retention: Mapping[str, int], last: int = 1) -> list[str]:
    """Return the policy for `restic forget`. The newest backup always stays, even when every number is 0."""
    arguments = ["--keep-last", str(last)]
    for word in ("hourly", "daily", "weekly", "monthly"):
        if retention.get(word, 0) > 0:
            arguments += [f"--keep-{word}", str(retention[word])]
    return arguments


def restic_version(text: str) -> tuple[int, int]:
    match = re.match(r"restic (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def new_snapshot(output: str) -> str | None:
    """Return the snapshot's id from the output of `restic backup --json`."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(json.JSONDecodeError):
            message = json.loads(line)
            if isinstance(message, dict) and message.get("message_type") == "summary":
                return str(message["snapshot_id"])[:8] or None
    return None


class Repository:
    """The repository of the settings. Secrets are read from files, and restic gets them by its environment only."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.config = tools.config

    def restic(self, *arguments: str, cwd: pathlib.Path | None = None, text: str | None = None) -> Done:
        environment = {
            "RESTIC_REPOSITORY": self.config.text("repository"),
            "RESTIC_PASSWORD_FILE": self.config.text("password_file"),
            "RESTIC_CACHE_DIR": str(CACHE),
            "RESTIC_PROGRESS_FPS": "0.02",
        }
        secrets = json.loads(files.read(self.config.text("environment_file")) or "{}")
        environment.update({key: str(value) for key, value in secrets.items()})
        return self.tools.gently("restic", *arguments, more=environment, cwd=cwd, text=text)

    def watched(self, *arguments: str, cwd: pathlib.Path | None = None, text: str | None = None) -> Done:
        """Run a restic that writes into the repository, be it a lock alone, and end it where it only waits."""
        with ended_when_idle(self.disk()) as ended:
            done = self.restic(*arguments, cwd=cwd, text=text)
        for seconds in ended:
            done = replace(done, err=f"{done.err}\nFatal: it hung, and was ended after {seconds:.0f} s without work")
        return done

    def disk(self) -> pathlib.Path | None:
        """Return where the repository lies, if that is a directory of this host."""
        path = pathlib.Path(self.config.text("repository").removeprefix("local:"))
        return path if path.is_absolute() else None

    def retry_lock(self) -> list[str]:
        """Return the options that let restic wait while another host holds the lock. restic 0.14 cannot wait."""
        return ["--retry-lock", "10m"] if restic_version(self.tools.run("restic", "version").out) >= (0, 16) else []

    def opens(self) -> bool:
        """Say whether it opens. False means that there is none. All else is an error, never a reason to make one."""
        done = self.restic("cat", "config", "--quiet")
        if done.code == 0:
            return True
        if "Is there a repository at" in done.err or "repository does not exist" in done.err:
            return False
        if "wrong password" in done.err:
            raise Problem(
                "the repository does not open with backup_slave_password; was it changed? "
                "The old password is needed: restic key add, then remove the old key"
            )
        raise Problem(f"the repository cannot be opened: {last_message(done.err or done.out)}")

    def make(self) -> str:
        """Make it if there is none, else check that it opens. Return which of the two."""
        if self.opens():
            return "opened"
        done = self.restic("init", "--quiet")
        # If hosts share the repository, another one may have made it just before.
        if done.code != 0 and not self.opens():
            raise Problem(f"the repository cannot be made: {last_message(done.err or done.out)}")
        return "made" if done.code == 0 else "opened"

    def unlock(self) -> None:
        """Remove stale locks only: those of dead processes on this host, and those older than half an hour."""
        self.restic("unlock", "--quiet")

    def listing(self) -> str:
        """Return what restic says of the site's backups and of the notes about them, in one question."""
        words = ("--tag", self.config.text("site"), "--tag", self.notes_tag, "--tag", self.room_tag)
        done = self.restic("snapshots", "--json", "--no-lock", *words)
        if done.code != 0:
            raise Problem(f"the repository cannot be read: {last_message(done.err)}")
        return done.out

    def snapshots(self) -> list[dict[str, Any]]:
        """Return the site's backups, oldest first."""
        return parse_snapshots(self.listing(), self.config.text("site"))

    def known(self) -> tuple[list[dict[str, Any]], Notes]:
        """Return the backups, and what is known about single ones."""
        listing = self.listing()
        return parse_snapshots(listing, self.config.text("site")), self.notes(note_ids(listing, self.notes_tag))

    def store(self, directory: pathlib.Path, tags: Sequence[str]) -> str:
        """Store the directory as one snapshot and check the repository. If that fails, remove the snapshot."""
        run = f"run={stamp()}-{os.getpid()}"
        arguments = [word for tag in (*tags, run) for word in ("--tag", tag)]
        try:
            done = self.watched(
                "backup", "--json", "--quiet", "--host", socket.gethostname(), *arguments, ".", cwd=directory
            )
            # 3 means that some files could not be read. restic keeps such a snapshot; we remove it.
            snapshot = new_snapshot(done.out)
            if done.code != 0 or snapshot is None:
                raise failure(self.disk(), done)
            done = self.watched("check", "--quiet", *self.retry_lock())
            if done.code != 0:
                raise Problem(f"restic check failed with {done.code}: {last_message(done.err or done.out)}")
        except BaseException:
            signal.alarm(0)
            halves = self.restic("snapshots", "--json", "--no-lock", "--tag", run).out
            with contextlib.suppress(ValueError):
                for half in json.loads(halves) or []:
                    self.restic("forget", "--quiet", half["id"])
            raise
        return snapshot

    def must(self, *words: str, text: str | None = None) -> None:
        done = self.watched(*words, *self.retry_lock(), text=text)
        if done.code != 0:
            raise Problem(last_message(done.err or done.out))

    def old(self, coming: bool = False) -> list[str]:
        """Return what the retention removes: no pinned backup, not the newest proven one, nor the last notes."""
        listing = self.listing()
        notes, room = note_ids(listing, self.notes_tag), note_ids(listing, self.room_tag)
        kept = self.notes(notes).kept(parse_snapshots(listing, self.config.text("site")))
        # restic lists what it removes by their short names.
        old = [one for one in self.surplus(coming) if one not in kept and one not in [name[:8] for name in room]]
        return old + notes[:-1] + room

    def retain(self) -> bool:
        """Remove old backups after a good one. The newest always stays."""
        try:
            old = self.old()
            # Also without any: a run that failed has left packs that nobody needs.
            self.must(*(["forget", "--quiet", "--prune", *old] if old else ["prune", "--quiet"]))
        except Problem as problem:
            print(f"webstack-backup: retention failed: {problem}", file=sys.stderr)
            return False
        return True

    def surplus(self, coming: bool) -> list[str]:
        """Return the backups that the numbers of the retention do not keep, or will not keep beside the coming one."""
        tags = ["--tag", self.config.text("site"), *(["--tag", self.room_tag] if coming else [])]
        last = 2 if coming else 1
        done = self.restic(
            "forget", "--dry-run", "--json", "--quiet", "--no-lock", *tags, "--group-by",
            "", *retention_arguments(dict(self.config.table("retention")), last),
        )  # fmt: skip
        if done.code != 0:
            raise Problem(last_message(done.err or done.out))
        groups = json.loads(done.out) or []
        return [str(one["short_id"]) for group in groups for one in group.get("remove") or []]

    # --- what is known about single backups ---------------------------------------------------------

    @property
    def notes_tag(self) -> str:
        """Not the site's own tag: these are no backups."""
        return f"{self.config.text('site')}.notes"

    @property
    def room_tag(self) -> str:
        """Of an empty one that stands for a coming backup."""
        return f"{self.config.text('site')}.room"

    def notes(self, found: Sequence[str]) -> Notes:
        """Return pins and proofs, as the last of these notes has them; none where nobody has noted anything."""
        if not found:
            return Notes()
        done = self.restic("dump", "--quiet", "--no-lock", found[-1], NOTES)
        if done.code != 0:
            raise Problem(f"the notes of pins and proofs cannot be read: {last_message(done.err)}")
        return Notes.decode(done.out)

    def keep_notes(self, notes: Notes, snapshots: Sequence[Mapping[str, Any]]) -> None:
        """Store them. Older ones go with the next retention."""
        notes.only(str(one["id"]) for one in snapshots)
        words = ("backup", "--quiet", "--host", "notes", "--tag", self.notes_tag, "--stdin", "--stdin-filename", NOTES)
        done = self.watched(*words, *self.retry_lock(), text=notes.encode())
        if done.code != 0:
            raise Problem(f"the notes of pins and proofs cannot be stored: {last_message(done.err or done.out)}")

    def read_part(self, part: int, parts: int) -> None:
        """Check the repository, and read one part of all its data back."""
        done = self.restic("check", "--quiet", f"--read-data-subset={part}/{parts}", *self.retry_lock())
        if done.code != 0:
            raise Problem(f"the repository is damaged (restic check): {last_message(done.err or done.out)}")

    def fetch(self, snapshot: str, target: pathlib.Path) -> None:
        """Write the files of a snapshot into a directory."""
        done = self.restic("restore", snapshot, "--quiet", "--target", str(target))
        if done.code != 0:
            raise Problem(f"restic restore failed with {done.code}: {last_message(done.err or done.out)}")
