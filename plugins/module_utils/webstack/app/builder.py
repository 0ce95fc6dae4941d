# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes releases, marks them as complete, and deletes old ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import stat
import time
from collections.abc import Sequence

from ..core import lock
from ..core.errors import Problem
from .packages import digest
from .site import CONFIGURATION, MARKER, Site, refuse
from .surroundings import build

#: Of a release: for what its packages were asked.
PACKAGES = ".packages"
#: How long a build waits for another one of the same application, which makes an environment.
LOCK_SECONDS = 600
# What an empty virtual environment is made of: this Python, and the files that bring pip.
INGREDIENTS = """
import ensurepip, os, sys, sysconfig
folders = [sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")]
files = [entry for folder in folders if folder and os.path.isdir(folder) for entry in os.scandir(folder)]
print(sys.executable, sys.version, sorted((file.path, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
"""


def take_over(path: str, folder: int, shared: pathlib.Path) -> None:
    """Make root the owner of a static file. The application's account wrote it and may have put a link there."""
    handle = os.open(os.path.basename(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        info = os.fstat(handle)
        # If it has two names, an interrupted run has shared it already, or it is another account's file.
        second = info.st_nlink > 1 and not (shared.is_file() and os.path.samestat(shared.lstat(), info))
        if not stat.S_ISREG(info.st_mode) or second:
            kind = "a link" if stat.S_ISLNK(info.st_mode) or second else "no file"
            raise Problem(
                f"{path} is {kind}: collectstatic leaves files only. Find out who put it there, remove it,"
                " and run the role again"
            )
        os.chown(f"/proc/self/fd/{handle}", 0, 0)
        # The application's FILE_UPLOAD_PERMISSIONS may have given it another mode, but that is meant for uploads.
        os.chmod(f"/proc/self/fd/{handle}", 0o644)
    finally:
        os.close(handle)


class Builder(Site):
    """Makes releases, and keeps as many as the role says."""

    def begin(self, identity: str) -> list[str]:
        """Make an empty directory for the release, without what an interrupted build left: that had other settings."""
        release = self.release(identity)
        left = self._clear(identity)
        for path in (release.parent, release, release / "src", release / "static"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
        # The application's account owns it until the release is complete, for it collects its static files there.
        shutil.chown(release / "static", self.setting("user"), self.setting("group"))
        return [f"began {identity} anew" if left else f"began {identity}"]

    def discard(self, identity: str) -> list[str]:
        """Remove a build that failed. What it has migrated stays known."""
        if not self.release(identity).is_dir():
            return []
        self._clear(identity)
        with contextlib.suppress(OSError):  # it keeps what it has migrated
            self.release(identity).rmdir()
        return [f"removed the build of {identity}"]

    def _clear(self, identity: str) -> bool:
        """Empty the directory of a release that is not complete, and say whether there was anything."""
        release = self.release(identity)
        if (release / MARKER).is_file():
            raise Problem(f"{identity} is complete already")
        left = [path for path in release.glob("*") if not path.name.startswith(".migrated-")]
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return bool(left)

    def empty_environment(self, python: str, key: str) -> pathlib.Path:
        """Return a virtual environment with nothing but pip in it. All releases copy it, since making one is slow.

        Nothing is ever installed there. With another Python, or other files of pip, another one is made.
        """
        kept = self.base / f".environment-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not kept.is_dir():
            for old in self.base.glob(".environment-*"):
                shutil.rmtree(old)
            # It gets its own name only when it is complete and on the disk.
            new = self.base / f"{kept.name}.{os.getpid()}"
            build(python, "-m", "venv", str(new / "venv"))
            os.sync()
            new.rename(kept)
        return kept / "venv"

    def environment(self, identity: str, python: str, words: Sequence[str] | None = None) -> list[str]:
        """Make the virtual environment of a release: a copy, with the copy's path in its files.

        It is of the newest complete release that asks pip for the very same packages by these words, else of the
        empty one. pip looks at it afterwards all the same.
        """
        made = self.release(identity) / "venv"
        # Another run may be making it, or doing away with an older one.
        with lock.hold("environment", f"the environment of {identity}", LOCK_SECONDS, CONFIGURATION / self.name):
            ingredients = build(python, "-I", "-c", INGREDIENTS)
            asked = "" if words is None else digest(ingredients, words, self.release(identity) / "src")
            like = next((one for one in self.finished() if asked and self._packages(one) == asked), "")
            origin = self.release(like) / "venv" if like else self.empty_environment(python, ingredients)
            shutil.copytree(origin, made, symlinks=True)
        # The empty one was made under another name than it has now.
        here = re.compile(re.escape(os.fsencode(origin.parent)) + (b"" if like else rb"(?:\.[0-9]+)?") + rb"/venv\b")
        for path in (made / "pyvenv.cfg", *(made / "bin").iterdir()):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(here.sub(lambda _: os.fsencode(made), path.read_bytes()))
        if asked:
            (self.release(identity) / PACKAGES).write_text(asked)
        return [f"made the environment of {identity}" + (f" as that of {like}" if like else "")]

    def _packages(self, identity: str) -> str:
        """Return what the packages of a complete release were asked for by, if they may be had again."""
        file = self.release(identity) / PACKAGES
        return file.read_text() if file.is_file() else ""

    def finish(self, identity: str) -> list[str]:
        """Put the static files of all kept releases into one directory, then mark this release as complete."""
        release = self.release(identity)
        together = self.base / "static"
        for folder, _, names, handle in os.fwalk(release / "static", onerror=refuse, follow_symlinks=False):
            target = together / os.path.relpath(folder, release / "static")
            target.mkdir(parents=True, exist_ok=True)
            # From here on no other account can add anything to this directory. What it contains may still be anything.
            os.fchown(handle, 0, 0)
            os.fchmod(handle, 0o755)
            for name in names:
                copy = target / f".{name}.new"
                copy.unlink(missing_ok=True)
                take_over(os.path.join(folder, name), handle, target / name)
                os.link(name, copy, src_dir_fd=handle, follow_symlinks=False)
                os.replace(copy, target / name)
                copy.unlink(missing_ok=True)  # replace does nothing when both are the same file
        os.sync()  # a power cut must not leave a mark without the files
        (release / MARKER).touch()
        return [f"finished {identity}"]

    def prune(self) -> list[str]:
        """Keep the current release and the newest that ran. Delete static files that no kept release has."""
        good = [one for one in self.finished() if self.ran(one)]
        kept = {self.current(), *good[: max(1, int(self.setting("keep")))]}
        # A release without the marker may still be in the making; after a day it is not.
        old = [
            path
            for path in self.base.glob("releases/*")
            if path.name not in kept and ((path / MARKER).is_file() or path.stat().st_mtime < time.time() - 86400)
        ]
        for path in old:
            shutil.rmtree(path)
        if old:
            self.tidy_static()
        if all((self.release(one) / "environment").exists() for one in self.finished()):
            # Earlier versions of the role had one set of settings for all releases.
            shared = CONFIGURATION / self.name
            (shared / "environment").unlink(missing_ok=True)
            shutil.rmtree(shared / "python", ignore_errors=True)
        return [f"removed {path.name}" for path in old]

    def tidy_static(self) -> None:
        """Delete shared static files that no kept release has any more."""
        together = self.base / "static"
        for folder, _, names in os.walk(together, onerror=refuse):
            for name in names:
                file = pathlib.Path(folder, name)
                if file.lstat().st_nlink > 1:
                    continue
                # The release that it was linked from is gone. An older release may have a file of the same name.
                same = file.relative_to(together)
                left = [
                    path for path in (self.release(one) / "static" / same for one in self.finished()) if path.exists()
                ]
                if left:
                    copy = file.with_name(f".{name}.new")
                    copy.unlink(missing_ok=True)
                    os.link(left[0], copy, follow_symlinks=False)
                    os.replace(copy, file)
                else:
                    file.unlink()
