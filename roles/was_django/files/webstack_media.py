"""Uploads of a site with several servers: names that no other server gives, and files that are still on their way."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.core.files.storage import FileSystemStorage

#: A server of the same network that takes longer to be reached, or to begin its answer, is down. It is not asked again
#: for a while.
CONNECT_SECONDS = 0.5
SILENT_SECONDS = 2
DOWN_SECONDS = 10
#: What a file system takes for one name.
NAME_BYTES = 255
#: What spreads uploads leaves out files of these names, and Apache does not serve them.
PREFIX, SUFFIX = ".syncthing.", ".tmp"

#: Who deletes a file says so here, so that it is not taken back from a server that still has it. It spreads as the
#: uploads do, which takes less than a day.
DELETED = ".webstack-deleted"
DELETED_SECONDS = 86_400

_down: dict[str, float] = {}
_swept: dict[str, float] = {}


class UploadStorage(FileSystemStorage):
    """Django's own, for a directory that several servers have and that something spreads between them.

    A field of a model never gets a name that another server may give at the same time. A file that is missing here is
    taken from another server before anybody is told that there is none.
    """

    _here = threading.local()

    def generate_filename(self, filename: str) -> str:
        """Return a name for a new file of a field, with a random part as Django's own for a name that is taken."""
        name: str = super().generate_filename(filename)
        if getattr(self, "_allow_overwrite", False):
            return name
        folder, file = os.path.split(name)
        extension = "".join(pathlib.PurePath(file).suffixes)
        root = file.removesuffix(extension)
        while len(os.fsencode(made := self.get_alternative_name(root, extension))) > NAME_BYTES and root:
            root = root[:-1]
        return os.path.join(folder, made)

    def path(self, name: str) -> str:
        """Return the path of a file, which is there afterwards if any server has it."""
        path: str = super().path(name)
        if path != getattr(self._here, "path", "") and not os.path.lexists(path):
            self._take(path)
        return path

    def _save(self, name: str, content: Any) -> str:
        with self._only_here(name):
            saved: str = super()._save(name, content)
        return saved

    def delete(self, name: str) -> None:
        """Delete a file, which is then taken back from no other server."""
        with self._only_here(name):
            if name and self._shared() and servers()[1]:
                self._say_deleted(self.path(name))
            super().delete(name)

    @contextlib.contextmanager
    def _only_here(self, name: str) -> Iterator[None]:
        """Ask no other server for this file: what is written or deleted is here or nowhere."""
        before = getattr(self._here, "path", "")
        self._here.path = super().path(name)
        try:
            yield
        finally:
            self._here.path = before

    def _shared(self) -> bool:
        """Say whether the other servers have this directory and serve it."""
        return os.path.realpath(self.location) == os.path.realpath(settings.MEDIA_ROOT)

    def _take(self, path: str) -> None:
        """Take a file from the first server that has it. Where none has it, nothing changes."""
        if not self._shared():
            return
        name = os.path.relpath(path, self.location)
        try:
            address = quote(os.fsencode(f"{urlsplit(settings.MEDIA_URL).path}{name}"))
            deleted = self._deleted(path)
            host, others = servers()
            for other in others:
                with contextlib.suppress(BrokenOff), _asked(other, address, host) as answer:
                    if answer is not None and answer.status == 200 and _changed(answer) > deleted:
                        self._keep(answer, path)
                        return
        except UnicodeEncodeError:
            pass  # no file system has such a name
        except OSError as error:
            _say(f"{name!r} cannot be taken from another server: {error}")

    def _marker(self, path: str) -> str:
        name = os.fsencode(os.path.relpath(path, self.location))
        # With a dot, so that Apache does not serve it.
        return os.path.join(self.location, DELETED, f".{hashlib.sha256(name).hexdigest()[:32]}")

    def _deleted(self, path: str) -> float:
        """Return when a file was deleted; long ago, if nobody says so."""
        try:
            moment = os.stat(self._marker(path)).st_mtime
        except FileNotFoundError:
            return -1
        return moment if moment > time.time() - DELETED_SECONDS else -1

    def _say_deleted(self, path: str) -> None:
        """Leave a marker, and remove those of earlier days. What cannot be marked is deleted all the same."""
        try:
            marker = self._marker(path)
            self._make(os.path.dirname(marker))
            pathlib.Path(marker).touch()
            now = time.time()
            if now > _swept.get(self.location, 0) + DELETED_SECONDS / 24:
                _swept[self.location] = now
                for entry in os.scandir(os.path.dirname(marker)):
                    with contextlib.suppress(FileNotFoundError):
                        if entry.stat().st_mtime < now - DELETED_SECONDS:
                            os.unlink(entry.path)
        except (OSError, UnicodeEncodeError) as error:
            _say(f"{path!r} is deleted, and may come back from another server: {error}")

    def _keep(self, answer: http.client.HTTPResponse, path: str) -> None:
        """Write what a server sends. The file appears in one step, and only whole."""
        folder = os.path.dirname(path)
        self._make(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX, suffix=SUFFIX) as file:
            while piece := _read(answer):
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), self.file_permissions_mode or 0o644)
            if moment := _changed(answer):
                os.utime(file.name, (moment, moment))
            with contextlib.suppress(FileExistsError):  # it has come meanwhile
                os.link(file.name, path)

    def _make(self, folder: str) -> None:
        """Make a folder and those above it, with the mode that Django gives them."""
        above = [pathlib.Path(folder), *pathlib.Path(folder).parents]
        missing = [one for one in above if not os.path.lexists(one)]
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(one)
                if self.directory_permissions_mode is not None:
                    os.chmod(one, self.directory_permissions_mode)


class BrokenOff(Exception):
    """A server ended its answer before the file was whole."""


@contextlib.contextmanager
def _asked(other: Mapping[str, Any], address: str, host: str) -> Iterator[http.client.HTTPResponse | None]:
    """Ask a server for a file. No answer is None, and whoever gives none, or half of one, is left alone for a while."""
    name = f"{other['address']}:{other['port']}"
    if _down.get(name, 0) > time.monotonic():
        yield None
        return
    with contextlib.closing(
        http.client.HTTPConnection(other["address"], other["port"], timeout=CONNECT_SECONDS)
    ) as line:
        answer = None
        try:
            line.connect()
            line.sock.settimeout(SILENT_SECONDS)
            line.request("GET", address, headers={"Host": host})
            answer = line.getresponse()
        except (OSError, http.client.HTTPException):
            _down[name] = time.monotonic() + DOWN_SECONDS
        try:
            with answer or contextlib.nullcontext():
                yield answer
        except BrokenOff:
            _down[name] = time.monotonic() + DOWN_SECONDS
            raise


def _changed(answer: http.client.HTTPResponse) -> float:
    """Return when the file of an answer was written, as far as the server says."""
    said = answer.headers["Last-Modified"]
    return parsedate_to_datetime(said).timestamp() if said else 0


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Return the next piece of an answer, nothing at its end."""
    try:
        piece = answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenOff from error
    if not piece and answer.length:
        raise BrokenOff
    return piece


def _say(text: str) -> None:
    """Leave a line in the journal."""
    sys.stderr.write(f"webstack_media: {text}\n")
    sys.stderr.flush()


def servers() -> tuple[str, Sequence[Mapping[str, Any]]]:
    """Return the name of the site and the other servers, as the host knows them now."""
    path = settings.WEBSTACK_MEDIA_SERVERS_FILE
    try:
        changed = os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return "", []
    return _servers(path, changed)


@functools.lru_cache(maxsize=1)
def _servers(path: str, _changed: int) -> tuple[str, Sequence[Mapping[str, Any]]]:
    with open(path, encoding="utf-8") as file:
        said = json.load(file)
    return said["host"], said["servers"]
