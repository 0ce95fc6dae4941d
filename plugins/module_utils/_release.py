# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What makes a release: which files belong to it, its identity, and one archive that is the same every time."""

from __future__ import annotations

import configparser
import fnmatch
import gzip
import hashlib
import io
import json
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TYPES = ("directory", "git", "archive")
KEYS = {
    "directory": frozenset({"type", "path", "subdirectory"}),
    "git": frozenset({"type", "url", "version", "subdirectory"}),
    "archive": frozenset({"type", "path", "url", "checksum", "subdirectory"}),
}
#: How a file begins that stands in place of another one, what it is and how to get that one.
STAND_INS = (
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "git lfs install, then git lfs pull"),
    (b"version https://hawser.github.com/spec/", "a pointer of Git LFS", "git lfs install, then git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex", "git annex get"),
    (b"\0GITCRYPT\0", "encrypted by git-crypt", "git-crypt unlock, and name the checkout as a directory"),
)
#: What a broken archive raises, beside ValueError and OSError.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, RuntimeError)
#: As many paths are named in one message.
PATHS_IN_A_MESSAGE = 5
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


def archive(entries: Sequence[Entry]) -> bytes:
    """Return a gzipped tar of sorted entries. The same entries give the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        # Folders too: one that the archive does not name would get the umask of whoever unpacks it.
        for folder in sorted(folders(entries), key=str.encode):
            member = tarfile.TarInfo(folder)
            member.mtime, member.mode, member.type = TIME, 0o755, tarfile.DIRTYPE
            tar.addfile(member)
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


def folders(entries: Iterable[Entry]) -> set[str]:
    """Return every folder that holds an entry."""
    found = set()
    for entry in entries:
        parent = posixpath.dirname(entry.path)
        while parent and parent not in found:
            found.add(parent)
            parent = posixpath.dirname(parent)
    return found


def from_archive(data: bytes) -> list[Entry]:
    """Return the files of a tar archive, compressed or not, or of a zip archive. One that is cut off is refused."""
    try:
        # In this order: a tar whose last file is a zip looks like a zip too.
        if tarfile.is_tarfile(io.BytesIO(data)):
            return from_tar(data)
        if zipfile.is_zipfile(io.BytesIO(data)):
            return from_zip(data)
    except BROKEN as exc:
        raise ValueError(f"the archive cannot be read: {exc}") from exc
    raise ValueError("the archive is neither tar nor zip, or it is cut off")


def from_tar(data: bytes) -> list[Entry]:
    """Return the files of a tar archive, compressed or not."""
    entries = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
        for member in tar:
            path = inside(member.name, "a path of the archive")
            if member.issym():
                entries.append(Entry(path, target=member.linkname))
            elif member.isfile() or member.islnk():
                content = tar.extractfile(member)
                if content is None:
                    raise ValueError(f"{path} links to {member.linkname}, which the archive does not have")
                entries.append(Entry(path, content.read(), bool(member.mode & 0o100)))
            elif not member.isdir():
                raise ValueError(f"{path} is neither a file, a link nor a folder; exclude it")
        # tarfile takes whatever is no header for the end; the real one is a block of zeros.
        stream = tar.fileobj
        stream.seek(tar.offset)  # type: ignore[union-attr]
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # type: ignore[union-attr]
            raise ValueError("the archive is cut off, or damaged in the middle")
        while stream.read(1 << 20):  # type: ignore[union-attr]
            pass  # a compressed one has its check sum at the very end
    return entries


def from_zip(data: bytes) -> list[Entry]:
    """Return the files of a zip archive. The upper half of external_attr is the Unix mode."""
    entries = []
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        for member in bundle.infolist():
            if member.is_dir():
                continue
            mode, content = member.external_attr >> 16, bundle.read(member)
            path = inside(member.filename, "a path of the archive")
            if stat.S_ISLNK(mode):
                entries.append(Entry(path, target=content.decode()))
            else:
                entries.append(Entry(path, content, bool(mode & 0o100)))
    return entries


def named(paths: Sequence[str]) -> str:
    """Return some paths for a message, and how many more there are."""
    more = f" and {len(paths) - PATHS_IN_A_MESSAGE} more" if len(paths) > PATHS_IN_A_MESSAGE else ""
    return ", ".join(paths[:PATHS_IN_A_MESSAGE]) + more


def incomplete(entries: Sequence[Entry]) -> list[str]:
    """Return what the files of a release say that they lack: stand-ins of other files, and links that lead nowhere."""
    problems = []
    for start, what, way in STAND_INS:
        paths = [entry.path for entry in entries if entry.target is None and entry.content.startswith(start)]
        if paths:
            problems.append(f"{named(paths)}: {what}, not the file; on the controller: {way} (or exclude it)")
    known = {entry.path for entry in entries} | folders(entries) | {""}
    links = {entry.path: entry.target for entry in entries if entry.target is not None}
    paths = [f"{path} -> {target}" for path, target in links.items() if _resolved(path, links) not in known]
    if paths:
        problems.append(f"{named(paths)}: a link to what is not in the source, or is excluded; exclude the link too")
    return problems


def _resolved(path: str, links: Mapping[str, str]) -> str | None:
    """Return where a path leads to when all links are followed, as the kernel does; None for a circle."""
    for _step in range(40):
        parts = path.split("/")
        for index in range(1, len(parts) + 1):
            above = "/".join(parts[:index])
            if above in links:
                rest = parts[index:]
                path = posixpath.normpath("/".join([posixpath.dirname(above) or ".", links[above], *rest]))
                path = "" if path == "." else path
                break
        else:
            return path
    return None


def submodules(text: str, where: str) -> dict[str, str]:
    """Return path -> url of what a .gitmodules names; the address is empty where it has none."""
    # Git's own format is close enough to INI: sections in quotes, tabs before the keys.
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False, allow_no_value=True)
    try:
        parser.read_string("\n".join(line.strip() for line in text.splitlines()))
    except configparser.Error as exc:
        raise ValueError(f"{where} cannot be read: {exc}") from exc
    found = {}
    for section in parser.sections():
        if path := (parser[section].get("path") or "").strip('"'):
            url = (parser[section].get("url") or "").strip('"')
            found[inside(path, f"a submodule of {where}")] = url
    return found


def absent_submodules(
    entries: Sequence[Entry], subdirectory: str, exclude: Sequence[str], outer: Iterable[str] = ()
) -> list[str]:
    """Return the submodules that a source names and of which it has no file.

    `outer` are paths that a .gitmodules above the source names, relative to it.
    """
    wanted = set(outer)
    for entry in entries:
        if posixpath.basename(entry.path) == ".gitmodules":
            here = posixpath.dirname(entry.path)
            text = entry.content.decode(errors="replace")
            wanted |= {posixpath.join(here, path) for path in submodules(text, entry.path)}
    present = folders(entries)
    return sorted(path for path in wanted if path not in present and concerns(path, subdirectory, exclude))


def concerns(path: str, subdirectory: str, exclude: Sequence[str]) -> bool:
    """Say whether a folder of the source has, or would have, a part in the release."""
    if not subdirectory:
        return not excluded(path, exclude)
    if f"{subdirectory}/".startswith(f"{path}/"):
        return True
    return path.startswith(f"{subdirectory}/") and not excluded(path[len(subdirectory) + 1 :], exclude)


def missing(entries: Iterable[Entry], required: Iterable[str]) -> list[str]:
    """Return the required files that the release does not have."""
    names = {entry.path for entry in entries}
    return [name for name in required if inside(name, "a required file") not in names]
