# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads what the role wrote: shards, sentinels, this host's place among them, and the files of the servers."""

from __future__ import annotations

import hashlib
import pathlib
import re
import shutil
from typing import Any

from ..core.config import Settings, load
from ..core.errors import Problem
from ..core.files import as_account, read, write
from ..core.resp import Access

SITE = pathlib.Path("/etc/webstack/redis-shard.json")
RUN = pathlib.Path("/run")
UNITS = pathlib.Path("/etc/systemd/system")
MARK = "# Written by the role redis_shard"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Program:
    """A server program, redis or valkey. Debian names its account, directories and units after it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.configuration = pathlib.Path("/etc") / name
        self.state = pathlib.Path("/var/lib") / name
        self.sentinel_static = self.configuration / "sentinel-shards.conf"
        self.sentinel_file = self.state / "sentinel.conf"
        self.sentinel_unit = f"{name}-sentinel.service"

    def read(self, path: pathlib.Path) -> str | None:
        """Read a file in a directory of the servers' account."""
        with as_account(self.name):
            return read(path)

    def write(self, path: pathlib.Path, text: str, mode: int = 0o644) -> None:
        """Write a file in such a directory."""
        with as_account(self.name):
            write(path, text, mode)

    def remove(self, path: pathlib.Path) -> None:
        """Remove a file or a directory in such a directory."""
        try:
            with as_account(self.name):
                if path.is_symlink() or not path.is_dir():
                    path.unlink(missing_ok=True)
                else:
                    shutil.rmtree(path)
        except OSError as error:
            raise Problem(f"{path} cannot be removed: {error.strerror}") from error

    def unit(self, shard: str) -> str:
        return f"{self.name}-server@{shard}.service"

    def file(self, shard: str) -> pathlib.Path:
        return self.configuration / f"{self.name}-{shard}.conf"

    def runtime(self, shard: str) -> pathlib.Path:
        return RUN / f"{self.name}-{shard}"

    def instance_files(self, shard: str) -> list[pathlib.Path]:
        """Return the files that a server reads only when it starts."""
        return [self.file(shard), UNITS / f"{self.unit(shard)}.d/shard.conf"]

    def sentinel_files(self) -> list[pathlib.Path]:
        return [self.sentinel_static, UNITS / f"{self.sentinel_unit}.d/shards.conf"]

    def accounts(self, sentinel: bool = False) -> pathlib.Path:
        return self.configuration / ("sentinel-users.acl" if sentinel else "users.acl")

    def certificates(self) -> list[pathlib.Path]:
        return [self.configuration / "tls" / name for name in ("ca.pem", "cert.pem", "key.pem")]

    def placed(self) -> list[str]:
        """Return the shards that the role once placed here."""
        start = f"{self.name}-"
        found = []
        for path in self.configuration.glob(f"{start}*.conf"):
            name = path.name.removeprefix(start).removesuffix(".conf")
            # Check the name strictly: it becomes part of a path that is deleted.
            if SHARD_NAME.fullmatch(name) and (read(path) or "").startswith(MARK):
                found.append(name)
        return sorted(found)


PROGRAMS = {name: Program(name) for name in ("redis", "valkey")}


class Site:
    """The role's list of shards and sentinels, and this host's place in it."""

    def __init__(self, data: Settings) -> None:
        self.me = data.text("node")
        if data.text("program") not in PROGRAMS:
            raise Problem(f"{data.where}: 'program' has to be one of {', '.join(PROGRAMS)}")
        self.program = PROGRAMS[data.text("program")]
        self.engine = data.text("engine")
        self.access = Access("admin", data.words("passwords"), data["tls"] and data.text("tls"))
        self.persistent = data.flag("persistent")
        self.overcommit = data.flag("overcommit")
        self.timing: dict[str, int] = dict(data.table("timing"))
        self.shards: dict[str, dict[str, Any]] = {shard.text("name"): dict(shard) for shard in data.tables("shards")}
        self.sentinels: list[dict[str, Any]] = [dict(sentinel) for sentinel in data.tables("sentinels")]

    @classmethod
    def load(cls) -> Site:
        """Read what the role wrote."""
        return cls(load(SITE, "redis_shard"))

    def own(self, name: str) -> dict[str, Any] | None:
        """Return this host's server of a shard, if it has one."""
        return next((node for node in self.shards.get(name, {"nodes": []})["nodes"] if node["name"] == self.me), None)

    @property
    def mine(self) -> list[str]:
        return [name for name in self.shards if self.own(name)]

    @property
    def sentinel(self) -> dict[str, Any] | None:
        return next((item for item in self.sentinels if item["name"] == self.me), None)

    def peers(self, name: str) -> list[dict[str, Any]]:
        return [node for node in self.shards[name]["nodes"] if node["name"] != self.me]


def fingerprint(*files: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        text = read(file)
        digest.update(b"absent" if text is None else text.encode())
    return digest.hexdigest()


def live_files(program: Program, sentinel: bool = False) -> list[pathlib.Path]:
    """Return the files that a running server can read again."""
    return [program.accounts(sentinel), *program.certificates()]
