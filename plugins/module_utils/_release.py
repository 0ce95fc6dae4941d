# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What makes a release: which files belong to it, its identity, and one archive that is the same every time."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TYPES = ("directory", "git", "archive")
KEYS = {
    "directory": frozenset({"type", "path", "subdirectory"}),
    "git": frozenset({"type", "url", "version", "subdirectory"}),
    "archive": frozenset({"type", "path", "url", "checksum", "subdirectory"}),
}
#: Every file gets this time, 2000-01-01: the archive shall not depend on when somebody checked it out.
TIME = 946684800
DIGITS = 12


@dataclass(frozen=True)
class Entry:
    """A file (content) or a symbolic link (target) of the source, by its path inside of it."""

    path: str
    content: bytes = b""
    executable: bool = False
    target: str | None = None


def source(raw: Any) -> dict[str, str]:
    """Return the checked description of a source."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"source must be a dictionary, got {type(raw).__name__}")
    given = {str(key): value for key, value in raw.items() if value not in (None, "")}
    kind = given.get("type", "directory")
    if kind not in TYPES:
        raise ValueError(f"source.type must be one of {', '.join(TYPES)}, got {kind!r}")
    for key, value in given.items():
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise ValueError(f"source.{key} must be text, got {type(value).__name__}")
    misplaced = sorted(set(given) - KEYS[kind])
    if misplaced:
        raise ValueError(f"source.{', source.'.join(misplaced)} means nothing with type {kind}")
    if kind == "directory" and "path" not in given:
        raise ValueError("source.path is required with type directory")
    if kind == "git" and "url" not in given:
        raise ValueError("source.url is required with type git")
    if kind == "archive" and ("path" in given) == ("url" in given):
        raise ValueError("an archive needs exactly one of source.path and source.url")
    if kind == "archive" and "url" in given and "checksum" not in given:
        raise ValueError("source.checksum (SHA-256, 64 hexadecimal digits) is required with source.url")
    checked = {key: str(value) for key, value in given.items()}
    checked["type"] = kind
    checked["subdirectory"] = inside(checked.get("subdirectory", ""), "source.subdirectory")
    return checked


def inside(path: str, where: str) -> str:
    """Return a relative path without a trailing slash; refuse one that leads out."""
    clean = posixpath.normpath(path) if path else ""
    if clean.startswith(("/", "../")) or clean == "..":
        raise ValueError(f"{where} must stay inside the source, got {path!r}")
    return "" if clean == "." else clean


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Say whether a path, or a folder above it, matches a pattern. A pattern with a slash is from the top."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        above = "/".join(parts[: index + 1])
        for pattern in patterns:
            if fnmatch.fnmatchcase(above if "/" in pattern else part, pattern.strip("/")):
                return True
    return False


def select(entries: Iterable[Entry], subdirectory: str = "", exclude: Sequence[str] = ()) -> list[Entry]:
    """Return what belongs to the release, sorted, with paths relative to the sub-directory."""
    chosen = []
    for entry in entries:
        path = inside(entry.path, "a path of the source")
        if subdirectory:
            if not path.startswith(f"{subdirectory}/"):
                continue
            path = path[len(subdirectory) + 1 :]
        if not path or excluded(path, exclude):
            continue
        if entry.target is not None:
            inside(posixpath.join(posixpath.dirname(path), entry.target), f"the link {path}")
        chosen.append(Entry(path, entry.content, entry.executable, entry.target))
    if not chosen:
        raise ValueError(f"the source has no file{f' below {subdirectory}' if subdirectory else ''}")
    return sorted(chosen, key=lambda entry: entry.path.encode())


def without_top(entries: Sequence[Entry]) -> list[Entry]:
    """Take away the one folder that archives often wrap around everything."""
    tops = {entry.path.split("/", 1)[0] for entry in entries}
    if len(tops) != 1 or any("/" not in entry.path for entry in entries):
        return list(entries)
    return [Entry(e.path.split("/", 1)[1], e.content, e.executable, e.target) for e in entries]


def digest(entries: Iterable[Entry]) -> str:
    """Return the identity of sorted entries: names, contents, modes and links, nothing else."""
    total = hashlib.sha256()
    for entry in entries:
        kind = "link" if entry.target is not None else "program" if entry.executable else "file"
        content = entry.target.encode() if entry.target is not None else entry.content
        head = f"{kind} {len(entry.path.encode())} {entry.path} {len(content)}\n"
        total.update(head.encode() + content)
    return total.hexdigest()


def inputs_digest(inputs: Any) -> str:
    """Return the identity of whatever else a build depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def release_id(identity: str, inputs: Any) -> str:
    """Return the release's name: 12 digits of the source (a commit, or the digest) and 8 of the other inputs."""
    return f"{identity[:DIGITS]}-{inputs_digest(inputs)[:8]}"


def archive(entries: Iterable[Entry]) -> bytes:
    """Return a gzipped tar of sorted entries. The same entries give the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.mtime = TIME
            member.mode = 0o755 if entry.executable else 0o644
            if entry.target is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
                tar.addfile(member)
            else:
                member.size = len(entry.content)
                tar.addfile(member, io.BytesIO(entry.content))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def from_tar(data: bytes) -> list[Entry]:
    """Return the files of a tar archive, compressed or not."""
    entries = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
        for member in tar:
            if member.issym():
                entries.append(Entry(member.name, target=member.linkname))
            elif member.isfile() or member.islnk():
                stream = tar.extractfile(member)
                content = stream.read() if stream else b""
                entries.append(Entry(member.name, content, bool(member.mode & 0o100)))
    return entries


def missing(entries: Iterable[Entry], required: Iterable[str]) -> list[str]:
    """Return the required files that the release does not have."""
    names = {entry.path for entry in entries}
    return [name for name in required if inside(name, "a required file") not in names]
