#!/usr/bin/python3
"""Back up the MariaDB server of this host into an encrypted restic repository, and bring a backup back.

  webstack-backup run [--kind hourly|daily]      take a backup; on the primary: skip it
  webstack-backup list [--json]                  the backups in the repository
  webstack-backup restore --snapshot latest|ID --target DIR
                                                 a prepared data directory in DIR, nothing else is touched
  webstack-backup status [--json]                what this server is, and how the last runs went

The other subcommands are the steps of playbooks/restore.yml: receive and send ship a data directory between
hosts over mutual TLS, replication holds and resumes the replica, replace-data exchanges the data of the stopped
server, recover undoes such an exchange that was cut off, take-over makes it the writer, fingerprint compares.
`init` makes the repository or proves that it opens.

`run`, `restore` and `init` end with one line on stdout and exit with 0 when all is well, 1 when not, 75 when
another run holds the lock. Secrets come from files and reach restic through its environment only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import glob
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

sys.path.insert(0, "/usr/local/lib/webstack")
import data_swap
from data_swap import SwapError

CONFIG = "/etc/webstack-backup/config.json"
STATE = pathlib.Path("/var/lib/webstack-backup")
CACHE = pathlib.Path("/var/cache/webstack-backup")
# Not in /run/lock, where every account may put a link.
LOCK = pathlib.Path("/run/webstack-backup.lock")
METADATA = "webstack-backup.json"
ROLE_COMMAND = pathlib.Path("/usr/local/sbin/webstack-db")
# Says that this server was the primary; goes and comes with the data.
MARKER = pathlib.Path("/var/lib/webstack-db/primary")
KEPT_MARKER = "webstack-primary.json"
KEPT_LOGS = "binary-logs"
KINDS = ("hourly", "daily")
LOCKED = 75  # EX_TEMPFAIL
SYSTEM_SCHEMAS = ("mysql", "sys", "information_schema", "performance_schema")
# The tool renamed its files between 10.11 and 11; the prefix is all that differs.
PREFIXES = ("mariadb_backup_", "xtrabackup_")
# A backup has to give way to the server beside it.
GENTLE = ("nice", "-n", "10", "ionice", "-c", "2", "-n", "7")


class BackupError(Exception):
    """No good backup, or no restore; the text is the reason that the operator reads."""


class LockedError(BackupError):
    """Another run is under way."""


class Skipped(Exception):
    """Nothing to do on this server, and that is fine."""


# --- pure parts -------------------------------------------------------------------------------------


def summary(word: str, fields: Mapping[str, object]) -> str:
    """`webstack-backup: ok kind=daily ...`; a value with spaces is quoted, a line break never gets through."""
    parts = []
    for key, value in fields.items():
        text = " ".join(str(value).split()).replace('"', "'")
        parts.append(f'{key}="{text}"' if " " in text or not text else f"{key}={text}")
    return " ".join([f"webstack-backup: {word}", *parts])


def unescape(text: str) -> str:
    """The client's batch output writes line breaks, tabs and backslashes as escapes."""
    known = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
    return re.sub(r"\\(.)", lambda match: known.get(match[1], match[1]), text)


def parse_rows(output: str) -> list[dict[str, str]]:
    """Rows of `mariadb --batch`: a header line, then one line for each row."""
    if not output:
        return []
    # A row that is one empty field is an empty line: only the end of the last line is no row.
    header, *lines = output.removesuffix("\n").split("\n")
    names = header.split("\t")
    return [dict(zip(names, map(unescape, line.split("\t")), strict=True)) for line in lines]


def replica_state(rows: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """What SHOW ALL SLAVES STATUS says, or None for a server that replicates from nobody."""
    sources = [row for row in rows if row.get("Master_Host")]
    if not sources:
        return None
    lags = [row["Seconds_Behind_Master"] for row in sources]
    numbers = [int(lag) for lag in lags if lag.isdigit()]
    errors = [row[key] for row in sources for key in ("Last_IO_Error", "Last_SQL_Error") if row.get(key)]
    return {
        "io": all(row["Slave_IO_Running"] == "Yes" for row in sources),
        "sql": all(row["Slave_SQL_Running"] == "Yes" for row in sources),
        "lag_seconds": max(numbers) if len(numbers) == len(lags) else None,
        "error": "; ".join(errors),
        "source": ",".join(row["Master_Host"] for row in sources),
    }


def role(replica: Mapping[str, Any] | None, read_only: bool) -> str:
    """primary: writable and not following anybody. Left-over settings of a promoted server do not count."""
    if replica is not None and (replica["io"] or replica["sql"] or read_only):
        return "replica"
    return "none" if read_only else "primary"


def refusal(replica: Mapping[str, Any], lag_limit: int) -> str | None:
    """Why a backup of this replica would not be worth having, or None."""
    if not replica["io"] or not replica["sql"]:
        stopped = " and ".join(name for name in ("io", "sql") if not replica[name])
        detail = f": {replica['error']}" if replica["error"] else ""
        return f"replication is not running ({stopped} thread stopped){detail}"
    if replica["lag_seconds"] is None:
        return "the replica does not know its lag"
    if replica["lag_seconds"] > lag_limit:
        return f"the replica lags {replica['lag_seconds']} s, the limit is {lag_limit} s"
    return None


def gtid_tag(gtid: str) -> str:
    """A tag of restic cannot hold a comma."""
    return "gtid=" + gtid.replace(",", "+")


def tags_of(snapshot: Mapping[str, Any]) -> dict[str, str]:
    return dict(tag.split("=", 1) for tag in snapshot.get("tags") or [] if "=" in tag)


def normal_time(text: str) -> str:
    """restic's time, in UTC and in a form that sorts as text."""
    moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def parse_snapshots(text: str, site: str) -> list[dict[str, Any]]:
    """The site's backups, oldest first; foreign snapshots in a shared repository are not ours."""
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


def choose(snapshots: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    """The one backup that `latest` or an id means."""
    if not snapshots:
        raise BackupError("the repository has no backup of this site")
    if wanted == "latest":
        return snapshots[-1]
    if not re.fullmatch(r"[0-9a-f]{4,64}", wanted):
        raise BackupError(f"{wanted!r} is not a snapshot id; `webstack-backup list` shows them")
    hits = [one for one in snapshots if wanted.startswith(one["id"]) or one["id"].startswith(wanted)]
    if len(hits) != 1:
        raise BackupError(f"snapshot {wanted} is {'ambiguous' if hits else 'not in the repository'}")
    return hits[0]


def retention_arguments(retention: Mapping[str, int]) -> list[str]:
    """Policy for `restic forget`. The newest backup always stays, even when every number is 0."""
    arguments = ["--keep-last", "1"]
    for word in ("hourly", "daily", "weekly", "monthly"):
        if retention.get(word, 0) > 0:
            arguments += [f"--keep-{word}", str(retention[word])]
    return arguments


def binlog_position(text: str) -> dict[str, str]:
    """First line of ..._binlog_info: file, position and, with GTID, the last one."""
    fields = (text.splitlines() or [""])[0].split("\t")
    fields += [""] * (3 - len(fields))
    return {"file": fields[0], "position": fields[1], "gtid": fields[2].strip()}


def slave_gtid(text: str) -> str:
    """The position that ..._slave_info sets; what counts where the replica writes no binlog of its own."""
    match = re.search(r"gtid_slave_pos\s*=\s*'([^']*)'", text)
    return match[1].replace("\n", "") if match else ""


def last_message(log: str) -> str:
    """The line of mariadb-backup's or restic's output that says most."""
    lines = [re.sub(r"^\[\d+\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    telling = [
        line for line in lines if re.search(r"error|fatal|fail|no space|can't|cannot|denied", line, re.IGNORECASE)
    ]
    return (telling or lines or ["no output"])[-1][:300]


def restic_version(text: str) -> tuple[int, int]:
    match = re.match(r"restic (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def new_snapshot(output: str) -> str | None:
    """Id in the summary message of `restic backup --json`."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(json.JSONDecodeError):
            message = json.loads(line)
            if isinstance(message, dict) and message.get("message_type") == "summary":
                return str(message["snapshot_id"])[:8] or None
    return None


def surplus(names: Iterable[str], keep: int) -> list[str]:
    """The oldest of dated names beyond `keep`; 0 keeps all."""
    ordered = sorted(names)
    return ordered[:-keep] if keep > 0 else []


def metrics(state: Mapping[str, Any]) -> str:
    """node_exporter textfile."""
    lines = []
    for name, kind_of_value, text in (
        ("last_success_timestamp_seconds", "finished", "When the last good backup ended."),
        ("last_success_bytes", "bytes", "Size of the last good backup before compression."),
        ("last_success_duration_seconds", "seconds", "How long the last good backup took."),
    ):
        lines += [f"# HELP webstack_backup_{name} {text}", f"# TYPE webstack_backup_{name} gauge"]
        for kind in KINDS:
            last = state.get(kind, {}).get("success")
            if last:
                lines.append(f'webstack_backup_{name}{{kind="{kind}"}} {last[kind_of_value]}')
    lines += ["# HELP webstack_backup_last_run_ok Whether the last run took a good backup.",
              "# TYPE webstack_backup_last_run_ok gauge"]  # fmt: skip
    for kind in KINDS:
        if "ok" in state.get(kind, {}):
            lines.append(f'webstack_backup_last_run_ok{{kind="{kind}"}} {int(state[kind]["ok"])}')
    return "\n".join(lines) + "\n"


def certificate_names(certificate: Mapping[str, Any]) -> set[str]:
    return {str(value) for _, value in certificate.get("subjectAltName", ())}


# --- the machine ------------------------------------------------------------------------------------


def stamp(moment: float | None = None) -> str:
    now = (
        datetime.datetime.now(datetime.UTC) if moment is None else datetime.datetime.fromtimestamp(moment, datetime.UTC)
    )
    return now.strftime("%Y%m%dT%H%M%SZ")


def size_of(directory: str, skip: Sequence[str] = ()) -> int:
    """Bytes in use below a directory, without the files whose path starts with one of `skip`."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if not any(path.startswith(prefix) for prefix in skip):
                with contextlib.suppress(FileNotFoundError):
                    total += os.lstat(path).st_blocks * 512
    return total


def existing_parent(path: pathlib.Path) -> pathlib.Path:
    while not path.exists():
        path = path.parent
    return path


def need_room(path: pathlib.Path, size: int, factor: float, earlier: Sequence[pathlib.Path] = ()) -> None:
    status = os.statvfs(existing_parent(path))
    free = status.f_bavail * status.f_frsize
    if free < size * factor:
        text = f"{path} has {free} bytes free and {int(size * factor)} are needed ({factor} x {size} bytes of data)"
        if earlier:
            text += f"; copies that nobody may need any more: {', '.join(map(str, earlier))}"
        raise BackupError(text)


def write_whole(path: pathlib.Path, text: str, mode: int = 0o600) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        path.parent.chmod(mode | (mode & 0o444) >> 2)
    # A new file of a name that nobody can guess: the directory for metrics may belong to another account.
    handle, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(new, path)


def read_text(path: pathlib.Path) -> str:
    """Return what a file holds, nothing when there is none. What lies in its place is not followed or waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise BackupError(f"{path} is a link or cannot be read ({error.strerror}); it is not followed") from error
    with os.fdopen(handle, errors="replace") as file:
        return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else ""


def tool_file(directory: pathlib.Path, name: str) -> str:
    """One of mariadb-backup's own files, under either of its names."""
    return next((text for prefix in PREFIXES if (text := read_text(directory / (prefix + name)))), "")


class Program:
    """Everything that touches this host. One object for each command."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.lock_fd: int | None = None
        self.child: subprocess.Popen[Any] | None = None

    # Running other programs

    def execute(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        text_in: str | None = None,
        merged: bool = False,
        user: str | None = None,
    ) -> tuple[int, str, str]:
        """Run to the end. The lock is inherited: should this process be killed, it lasts as long as the child."""
        try:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if text_in is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                text=True,
                errors="replace",
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": "/root",
                    "LC_ALL": "C.UTF-8",
                    **(environment or {}),
                },
                cwd=cwd,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                pass_fds=() if self.lock_fd is None else (self.lock_fd,),
            )
        except FileNotFoundError as error:
            raise BackupError(f"{command[0]} is not installed") from error
        with self.child as process:
            try:
                output, errors = process.communicate(text_in)
            except BaseException:
                # The tools clean up on SIGTERM: restic takes its lock off, the server ends its backup stage.
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()
                raise
        return process.returncode, output, errors or ""

    def gently(self, *command: str, **options: Any) -> tuple[int, str, str]:
        return self.execute([*GENTLE, *command], **options)

    # MariaDB

    def query(self, statement: str) -> list[dict[str, str]]:
        code, output, errors = self.execute(
            [
                "mariadb",
                "--batch",
                "--user=root",
                "--connect-timeout=5",
                f"--socket={self.config['socket']}",
                # What is said to a replica stays out of its binary log: the primary never had it. The second is for a
                # former primary, which webstack-db closes for everybody.
                "--init-command=SET SESSION sql_log_bin = 0, tx_read_only = 0",
            ],
            text_in=statement,
        )
        if code != 0:
            raise BackupError(last_message(errors))
        return parse_rows(output)

    def server(self) -> dict[str, Any]:
        """What this server is, by its own word. A server that does not answer has the role none."""
        fields: dict[str, Any] = {"role": "none", "running": False, "read_only": None, "gtid": "", "replica": None}
        fields["datadir"] = str(self.datadir())
        try:
            variables = self.query(
                "SELECT @@read_only AS read_only, @@gtid_current_pos AS gtid, @@version AS version,"
                " @@datadir AS datadir, COALESCE(@@log_bin_basename, '') AS log_bin, @@relay_log AS relay_log,"
                " (SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%') AS followers"
            )[0]
            fields["replica"] = replica_state(self.query("SHOW ALL SLAVES STATUS"))
        except BackupError as error:
            return {**fields, "error": str(error)}
        read_only = variables["read_only"] not in ("0", "OFF")
        return {
            **fields,
            "role": role(fields["replica"], read_only),
            "running": True,
            "read_only": read_only,
            "gtid": variables["gtid"],
            "version": variables["version"],
            "datadir": os.path.normpath(variables["datadir"]),
            "log_bin": variables["log_bin"],
            "relay_log": variables["relay_log"],
            "followers": int(variables["followers"]),
            "error": "",
        }

    def disk(self) -> dict[str, Any]:
        """Whether the server can write, by the word of the program that owns its role; a problem too if it has none."""
        if not ROLE_COMMAND.is_file():
            return {"problem": None, "error": f"{ROLE_COMMAND} is not installed"}
        code, output, errors = self.execute([str(ROLE_COMMAND), "status", "--json"])
        try:
            # 2: it runs and cannot write.
            return (
                dict(json.loads(output)["disk"]) if code in (0, 2) else {"problem": None, "error": last_message(errors)}
            )
        except (KeyError, TypeError, ValueError):
            return {"problem": None, "error": f"{ROLE_COMMAND.name} status: {last_message(errors or output)}"}

    def option(self, name: str, default: str) -> str:
        """A setting of the server from its option files, for the time when it does not run."""
        _, output, _ = self.execute(["my_print_defaults", "--mysqld"])
        word = name.replace("_", "[-_]")
        hits = re.findall(rf"^--(?:loose[-_])?{word}(?:=(.*))?$", output, re.MULTILINE)
        return hits[-1].strip() or default if hits else default

    def datadir(self) -> pathlib.Path:
        return pathlib.Path(os.path.normpath(self.option("datadir", "/var/lib/mysql")))

    def earlier(self, target: pathlib.Path) -> list[pathlib.Path]:
        """Copies of the data that earlier restores and seeds left where a new one shall go."""
        try:
            where = data_swap.place(self.datadir())
        except (SwapError, OSError):
            return []
        return where.earlier() if target.parent == where.base else []

    # restic

    def restic(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        environment = {
            "RESTIC_REPOSITORY": self.config["repository"],
            "RESTIC_PASSWORD_FILE": self.config["password_file"],
            "RESTIC_CACHE_DIR": str(CACHE),
            "RESTIC_PROGRESS_FPS": "0.02",
        }
        secrets = pathlib.Path(self.config["environment_file"])
        if secrets.is_file():
            environment.update({key: str(value) for key, value in json.loads(secrets.read_text()).items()})
        return self.gently("restic", *arguments, environment=environment, **options)

    def retry_lock(self) -> list[str]:
        """A repository that is shared may be locked by another host for a while. restic 0.14 cannot wait."""
        _, output, _ = self.execute(["restic", "version"])
        return ["--retry-lock", "10m"] if restic_version(output) >= (0, 16) else []

    def open_repository(self) -> bool:
        """True when it opens, False when there is none; other trouble is an error and never a reason to make one."""
        code, output, errors = self.restic("cat", "config", "--quiet")
        if code == 0:
            return True
        if "Is there a repository at" in errors or "repository does not exist" in errors:
            return False
        if "wrong password" in errors:
            raise BackupError(
                "the repository does not open with backup_slave_password; was it changed? "
                "The old password is needed: restic key add, then remove the old key"
            )
        raise BackupError(f"the repository cannot be opened: {last_message(errors or output)}")

    def snapshots(self) -> list[dict[str, Any]]:
        code, output, errors = self.restic("snapshots", "--json", "--no-lock", "--tag", self.config["site"])
        if code != 0:
            raise BackupError(f"the repository cannot be read: {last_message(errors)}")
        return parse_snapshots(output, self.config["site"])

    # Lock and state

    def lock(self, name: str, wait: float) -> None:
        """One run at a time on this host. Who holds it stands in the file."""
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = " ".join(os.pread(descriptor, 500, 0).decode(errors="replace").split())
                    os.close(descriptor)
                    raise LockedError(f"another run holds the lock {LOCK}: {holder or 'unknown'}") from None
                time.sleep(min(1.0, max(0.05, deadline - time.monotonic())))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"'{name}' pid {os.getpid()} since {stamp()}\n".encode(), 0)
        self.lock_fd = descriptor

    @staticmethod
    def state() -> dict[str, Any]:
        try:
            return dict(json.loads((STATE / "state.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def record(self, kind: str, ok: bool, fields: Mapping[str, Any]) -> None:
        state = self.state()
        entry = state.setdefault(kind, {})
        entry["ok"] = ok
        entry["success" if ok else "failure"] = dict(fields)
        write_whole(STATE / "state.json", json.dumps(state, indent=2) + "\n")
        if self.config["textfile_directory"]:
            write_whole(pathlib.Path(self.config["textfile_directory"]) / "webstack_backup.prom", metrics(state), 0o644)

    # The work

    def may_back_up(self, server: Mapping[str, Any], *, require: bool, allow_primary: bool) -> None:
        if not server["running"]:
            raise BackupError(f"the server does not answer: {server['error']}")
        if server["role"] == "replica":
            reason = refusal(server["replica"], self.config["lag_limit_seconds"])
            if reason:
                raise BackupError(reason)
        elif server["role"] == "none":
            raise BackupError("this server is read-only and replicates from nobody: neither primary nor replica")
        # By configuration a primary is backed up only while nobody follows it: else there would be two each time.
        elif not allow_primary and (not self.config["allow_primary"] or server["followers"] > 0):
            if require:
                raise BackupError("this server is the primary")
            raise Skipped("this server is the primary")

    @contextlib.contextmanager
    def staging(self) -> Iterator[pathlib.Path]:
        """An empty directory for one backup, gone afterwards however it went."""
        directory = pathlib.Path(self.config["staging_directory"]) / "data"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        directory.parent.chmod(0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def copy_server(self, server: Mapping[str, Any], directory: pathlib.Path) -> None:
        datadir = pathlib.Path(str(server["datadir"]))
        if astray := data_swap.led_astray(datadir, datadir.stat().st_uid):
            raise BackupError(
                f"{astray} leads to a file that is not the server's: look who put it there, and remove it"
            )
        command = [
            "mariadb-backup",
            "--backup",
            "--user=root",
            f"--socket={self.config['socket']}",
            f"--target-dir={directory}",
            f"--parallel={self.config['parallel']}",
            # Following the redo log closely keeps the server's last stop short.
            "--log-copy-interval=50",
        ]
        if server["replica"] is not None:
            command.append("--slave-info")
        code, output, _ = self.gently(*command, merged=True)
        write_whole(STATE / "mariadb-backup.log", output)
        if code != 0 or "completed OK!" not in output[-500:]:
            raise BackupError(f"mariadb-backup failed with {code}: {last_message(output)}")

    def store(self, directory: pathlib.Path, tags: Sequence[str]) -> str:
        """Store the directory as one snapshot and prove the repository sound. Leaves none behind when it fails."""
        run = f"run={stamp()}-{os.getpid()}"
        arguments = [word for tag in (*tags, run) for word in ("--tag", tag)]
        try:
            code, output, errors = self.restic(
                "backup", "--json", "--quiet", "--host", socket.gethostname(), *arguments, ".", cwd=directory
            )
            # 3: some files could not be read. restic keeps such a snapshot, we do not.
            snapshot = new_snapshot(output)
            if code != 0 or snapshot is None:
                raise BackupError(f"restic backup failed with {code}: {last_message(errors)}")
            code, output, errors = self.restic("check", "--quiet", *self.retry_lock())
            if code != 0:
                raise BackupError(f"restic check failed with {code}: {last_message(errors or output)}")
        except BaseException:
            signal.alarm(0)
            _, output, _ = self.restic("snapshots", "--json", "--no-lock", "--tag", run)
            with contextlib.suppress(ValueError):
                for half in json.loads(output) or []:
                    self.restic("forget", "--quiet", half["id"])
            raise
        return snapshot

    def retain(self) -> bool:
        """Apply the retention. Called after a good backup only, so there is always one to keep."""
        code, output, errors = self.restic(
            "forget", "--quiet", "--prune", "--tag", self.config["site"], "--group-by", "",
            *retention_arguments(self.config["retention"]), *self.retry_lock(),
        )  # fmt: skip
        if code != 0:
            print(f"webstack-backup: retention failed: {last_message(errors or output)}", file=sys.stderr)
        return code == 0

    def run(self, kind: str, *, require: bool, allow_primary: bool) -> dict[str, Any]:
        started = time.time()
        server = self.server()
        self.may_back_up(server, require=require, allow_primary=allow_primary)
        # Binary and relay logs are no part of the backup.
        logs = [
            os.path.join(server["datadir"], name) + "." for name in (server["log_bin"], server["relay_log"]) if name
        ]
        # Nor are the copies that a data directory of its own disk keeps inside of itself.
        logs += [os.path.join(server["datadir"], name) + os.sep for name in data_swap.KEEP]
        need_room(
            pathlib.Path(self.config["staging_directory"]),
            size_of(server["datadir"], logs),
            self.config["free_disk_factor"],
        )
        if not self.open_repository():
            raise BackupError("the repository is missing; is its disk mounted? `webstack-backup init` makes a new one")
        # Takes off only locks that are stale: of dead processes on this host, or older than half an hour.
        self.restic("unlock", "--quiet")
        with self.staging() as directory:
            self.copy_server(server, directory)
            position = binlog_position(tool_file(directory, "binlog_info"))
            gtid = position["gtid"] or slave_gtid(tool_file(directory, "slave_info"))
            if not gtid:
                raise BackupError("the backup has no GTID position; replication by GTID is needed")
            size = size_of(str(directory))
            facts = {
                "format": 1,
                "site": self.config["site"],
                "kind": kind,
                "host": socket.gethostname(),
                "role": server["role"],
                "server": server["version"],
                "gtid": gtid,
                "binlog_file": position["file"],
                "binlog_position": position["position"],
                "started": stamp(started),
                "bytes": size,
            }
            write_whole(directory / METADATA, json.dumps(facts, indent=2) + "\n")
            snapshot = self.store(
                directory,
                [
                    self.config["site"],
                    f"kind={kind}",
                    gtid_tag(gtid),
                    f"bytes={size}",
                    f"server={server['version'].split()[0]}",
                ],
            )
        fields: dict[str, Any] = {"kind": kind, "host": socket.gethostname(), "snapshot": snapshot, "bytes": size}
        if self.config["retention_enabled"] and not self.retain():
            fields["retention"] = "failed"
        fields["seconds"] = round(time.time() - started, 1)
        fields["gtid"] = gtid
        return fields

    def restore(self, wanted: str, target: pathlib.Path) -> dict[str, Any]:
        """Leave a data directory in `target` that a server of this version can start on."""
        started = time.monotonic()
        if not target.is_absolute():
            raise BackupError(f"--target {target} is not an absolute path")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise BackupError(f"--target {target} exists and is not an empty directory; nothing is overwritten")
        snapshot = choose(self.snapshots(), wanted)
        need_room(target, snapshot["bytes"], self.config["free_disk_factor"], self.earlier(target))
        partial = partial_of(target)
        try:
            code, output, errors = self.restic("restore", snapshot["id"], "--quiet", "--target", str(partial))
            if code != 0:
                raise BackupError(f"restic restore failed with {code}: {last_message(errors or output)}")
            code, output, _ = self.gently("mariadb-backup", "--prepare", f"--target-dir={partial}", merged=True)
            write_whole(STATE / "prepare.log", output)
            if code != 0 or "completed OK!" not in output[-500:]:
                raise BackupError(f"mariadb-backup --prepare failed with {code}: {last_message(output)}")
            give_to_server(partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return {
            "snapshot": snapshot["id"],
            "time": snapshot["time"],
            "target": target,
            "bytes": size_of(str(target)),
            "seconds": round(time.monotonic() - started, 1),
            "gtid": snapshot["gtid"],
        }

    def replace_data(self, source: pathlib.Path, keep: int) -> dict[str, str]:
        """Put a prepared directory in the place of the stopped server's. The old one is kept under a dated name."""
        where = data_swap.place(self.datadir())
        data_swap.need_stopped(where.data)
        # Of a restore that was cut off; otherwise the start of the server would do it.
        data_swap.recover()
        if not re.search(
            r"^backup_type = (log-applied|full-prepared)$", tool_file(source, "checkpoints"), re.MULTILINE
        ):
            raise BackupError(f"{source} is not a prepared data directory")
        old = where.folder("{}.before-restore-" + stamp())
        carry_over(where.data, source)
        data_swap.exchange(where, source, old, self.companions(where.data, old))
        shutil.rmtree(source, ignore_errors=True)
        before = where.folder("{}.before-restore-").name
        kept = [str(path) for path in where.earlier() if path.name.startswith(before)]
        for name in surplus(kept, keep):
            shutil.rmtree(name)
        return {"datadir": str(where.data), "old": str(old)}

    def companions(self, datadir: pathlib.Path, old: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
        """What lies elsewhere and belongs to the data: marker and binary logs go where it goes."""
        pairs = [(pathlib.Path(log), old / KEPT_LOGS / pathlib.Path(log).name) for log in self.outside_logs(datadir)]
        return [*pairs, (MARKER, old / KEPT_MARKER)] if MARKER.is_file() else pairs

    def undo_replace(self, old: pathlib.Path) -> dict[str, str]:
        where = data_swap.place(self.datadir())
        if not old.is_dir() or old.parent != where.base:
            raise BackupError(f"{old} is not an earlier data directory in {where.base}")
        failed = where.folder("{}.failed-restore-" + stamp())
        bring = [(old / KEPT_MARKER, MARKER)] if (old / KEPT_MARKER).is_file() else []
        logs = old / KEPT_LOGS
        if os.path.lexists(logs):
            data_swap.no_link(logs)
            home = pathlib.Path(self.option("log_bin", "")).parent
            bring += [(path, home / path.name) for path in sorted(logs.iterdir())]
        data_swap.exchange(where, old, failed, self.companions(where.data, failed), bring)
        shutil.rmtree(old, ignore_errors=True)
        return {"datadir": str(where.data), "old": str(failed)}

    def outside_logs(self, datadir: pathlib.Path) -> list[str]:
        """Binary logs that do not live in the data directory: they tell the history that the restore leaves behind."""
        basename = self.option("log_bin", "")
        if not os.path.isabs(basename) or datadir in pathlib.Path(os.path.realpath(basename)).parents:
            return []
        stem = os.path.splitext(basename)[0]
        return [path for path in glob.glob(glob.escape(stem) + ".*") if os.path.isfile(path)]

    def take_over(self) -> dict[str, str]:
        """Make the restored server the writer, once it knows where in the history it stands."""
        datadir = pathlib.Path(str(self.query("SELECT @@datadir AS datadir")[0]["datadir"]))
        facts = json.loads((datadir / METADATA).read_text())
        gtid = str(facts["gtid"])
        if not re.fullmatch(r"[0-9,-]+", gtid):
            raise BackupError(f"{datadir / METADATA} has no GTID position")
        if self.query("SELECT @@gtid_slave_pos AS gtid")[0]["gtid"] != gtid:
            self.query(f"SET GLOBAL gtid_slave_pos = '{gtid}'")
        if ROLE_COMMAND.is_file():
            # It owns the server's role. Forced, since the other server rightly knows more than this one now.
            code, output, errors = self.execute([str(ROLE_COMMAND), "promote", "--force"])
            if code != 0:
                raise BackupError(f"{ROLE_COMMAND.name} promote: {last_message(errors or output)}")
        else:
            self.query("SET GLOBAL read_only = 0")
        return {"gtid": gtid}

    def replication(self, wish: str) -> dict[str, Any]:
        """Hold or resume replication on this server, if there is any."""
        try:
            following = bool(self.query("SHOW ALL SLAVES STATUS"))
        except BackupError:
            following = False
        if following:
            self.query("STOP ALL SLAVES" if wish == "stop" else "START ALL SLAVES")
        return {"replication": wish if following else "none"}

    def fingerprint(self) -> dict[str, Any]:
        """Rows and checksum of every table, with the position before and after: equal ones make it comparable."""
        quoted = ", ".join(f"'{name}'" for name in SYSTEM_SCHEMAS)
        before = self.query("SELECT @@gtid_current_pos AS gtid")[0]["gtid"]
        tables = self.query(
            "SELECT CONCAT('`', REPLACE(table_schema, '`', '``'), '`.`', REPLACE(table_name, '`', '``'), '`') AS name"
            f" FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ({quoted})"
            " ORDER BY 1"
        )
        names = [row["name"] for row in tables]
        found: dict[str, str] = {}
        rows = 0
        for start in range(0, len(names), 100):
            some = names[start : start + 100]
            sums = self.query(f"CHECKSUM TABLE {', '.join(some)} EXTENDED")
            found.update(zip(some, (row["Checksum"] for row in sums), strict=True))
            counts = self.query(" UNION ALL ".join(f"SELECT COUNT(*) AS n FROM {name}" for name in some))
            rows += sum(int(row["n"]) for row in counts)
        after = self.query("SELECT @@gtid_current_pos AS gtid")[0]["gtid"]
        return {"before": before, "after": after, "tables": found, "rows": rows}

    # Shipping between hosts

    def tls(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        names = self.config["tls"]
        try:
            context = ssl.create_default_context(purpose, cafile=names["ca"])
            context.load_cert_chain(names["certificate"], names["key"])
        except OSError as error:
            raise BackupError(f"no TLS with the files of backup_slave_tls_*: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def receive(self, target: pathlib.Path, address: str, port: int, sender: str, patience: float) -> dict[str, Any]:
        """Take one directory from `sender`, whose certificate must carry its address."""
        if target.exists():
            raise BackupError(f"{target} exists; nothing is overwritten")
        context = self.tls(ssl.Purpose.CLIENT_AUTH)
        partial = partial_of(target)
        try:
            with socket.create_server((address, port), backlog=1) as listener:
                listener.settimeout(patience)
                try:
                    plain, peer = listener.accept()
                except TimeoutError:
                    raise BackupError(f"{sender} did not connect to port {port} within {patience:.0f} s") from None
                plain.settimeout(60)
                with context.wrap_socket(plain, server_side=True) as stream:
                    if sender not in certificate_names(stream.getpeercert() or {}):
                        raise BackupError(f"the certificate of {peer[0]} is not that of {sender}")
                    received = self.unpack(stream, partial)
                    give_to_server(partial)
                    partial.rename(target)
                    stream.sendall(b"stored\n")
        except (ssl.SSLError, OSError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise BackupError(f"receiving from {sender} failed: {error}") from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return {"target": target, "bytes": size_of(str(target)), "received": received}

    def unpack(self, stream: ssl.SSLSocket, directory: pathlib.Path) -> int:
        """Everything up to the marker of length 0; a broken stream never counts as its end."""
        total = 0
        with (
            subprocess.Popen(["zstd", "-dc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd,
            subprocess.Popen(["tar", "-C", str(directory), "-xpf", "-"], stdin=zstd.stdout) as tar,
        ):
            assert zstd.stdin is not None and zstd.stdout is not None
            zstd.stdout.close()
            try:
                while True:
                    length = int.from_bytes(exactly(stream, 4), "big")
                    if length == 0:
                        break
                    zstd.stdin.write(exactly(stream, length))
                    total += length
                zstd.stdin.close()
            except BaseException:
                zstd.kill()
                tar.kill()
                raise
        if zstd.returncode != 0 or tar.returncode != 0:
            raise BackupError("the received stream does not unpack; is the disk full?")
        return total

    def send(self, source: pathlib.Path, address: str, port: int) -> dict[str, Any]:
        if not source.is_dir():
            raise BackupError(f"{source} is not a directory")
        context = self.tls(ssl.Purpose.SERVER_AUTH)
        started = time.monotonic()
        total = 0
        try:
            plain = connect(address, port, 60)
            with context.wrap_socket(plain, server_hostname=address) as stream:
                with (
                    subprocess.Popen(["tar", "-C", str(source), "-cf", "-", "."], stdout=subprocess.PIPE) as tar,
                    subprocess.Popen([*GENTLE, "zstd", "-qc", "-1"], stdin=tar.stdout, stdout=subprocess.PIPE) as zstd,
                ):
                    assert zstd.stdout is not None and tar.stdout is not None
                    tar.stdout.close()
                    while chunk := zstd.stdout.read(1 << 18):
                        stream.sendall(len(chunk).to_bytes(4, "big") + chunk)
                        total += len(chunk)
                if tar.returncode != 0 or zstd.returncode != 0:
                    raise BackupError(f"reading {source} failed")
                stream.sendall(bytes(4))
                stream.settimeout(600)
                if stream.recv(16) != b"stored\n":
                    raise BackupError(f"{address} did not store the data")
        except (ssl.SSLError, OSError) as error:
            raise BackupError(f"sending to {address}:{port} failed: {error}") from error
        return {"bytes": total, "seconds": round(time.monotonic() - started, 1)}


def exactly(stream: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = stream.recv(length - len(data))
        if not chunk:
            raise BackupError("the connection broke off before the end")
        data += chunk
    return bytes(data)


def connect(address: str, port: int, patience: float) -> socket.socket:
    """The receiver is started at the same time, so its port may open a little later."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection((address, port), timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def give_to_server(directory: pathlib.Path) -> None:
    """Give it to the server's account, the directory itself last: until then nobody else gets at what is in it."""
    owner = pwd.getpwnam("mysql")
    for folder, folders, files in os.walk(directory, topdown=False):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    os.chown(directory, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def partial_of(target: pathlib.Path) -> pathlib.Path:
    """An empty directory beside `target`, which it becomes when it is complete."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    owner = pwd.getpwnam("mysql")
    data_swap.make_work(partial, owner.pw_uid, owner.pw_gid)
    partial.mkdir(mode=0o700)
    return partial


def carry_over(old: pathlib.Path, new: pathlib.Path) -> None:
    """Debian's marks in the data directory, which no backup contains. The note that the system tables were
    upgraded is true of the restored ones only when they come from the very same version."""
    names = ["debian-*.flag"]
    version = str(json.loads((new / METADATA).read_text())["server"]) if (new / METADATA).is_file() else ""
    for name in ("mariadb_upgrade_info", "mysql_upgrade_info"):
        upgraded = read_text(old / name).strip()
        if upgraded and version.startswith(upgraded):
            names.append(name)
    data_swap.carry_notes(old, new, names)


# --- command line -----------------------------------------------------------------------------------


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="webstack-backup", description="Back up and restore this host's MariaDB server."
    )
    parser.add_argument("--config", default=CONFIG, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def waits(one: argparse.ArgumentParser) -> None:
        one.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for another run to end")

    run = command("run", "Take a backup now; on the primary: skip it.")
    run.add_argument("--kind", choices=KINDS, default="daily")
    run.add_argument("--require", action="store_true", help="fail on the primary instead of skipping it")
    run.add_argument("--allow-primary", action="store_true", help="back up a primary too")
    waits(run)
    listing = command("list", "Show the backups in the repository, oldest first.")
    listing.add_argument("--json", action="store_true")
    restore = command("restore", "Restore a backup into an empty directory, ready for a server to start on.")
    restore.add_argument("--snapshot", required=True, help="latest, or an id from `list`")
    restore.add_argument("--target", required=True, type=pathlib.Path, metavar="DIR")
    waits(restore)
    status = command("status", "Say what this server is and how the last runs went.")
    status.add_argument("--json", action="store_true")
    status.add_argument("--snapshots", action="store_true", help="list the backups too")
    command("init", "Make the repository, or prove that it opens.")
    replace = command("replace-data", "Exchange the data of the stopped server.")
    which = replace.add_mutually_exclusive_group(required=True)
    which.add_argument("--source", type=pathlib.Path, metavar="DIR", help="a prepared directory on its file system")
    which.add_argument("--undo", type=pathlib.Path, metavar="DIR", help="the old directory that comes back")
    replace.add_argument("--keep", type=int, default=0, help="old directories that stay, 0: all")
    command("recover", "Undo an exchange of the data that was cut off; the server does it before it starts.")
    command("take-over", "Set the restored server's position to that of its backup and let it accept writes.")
    replication = command("replication", "Hold or resume replication on this server.")
    replication.add_argument("wish", choices=("stop", "start"))
    command("fingerprint", "Rows and checksum of every table.")
    receive = command("receive", "Receive a data directory over mutual TLS.")
    receive.add_argument("--target", required=True, type=pathlib.Path, metavar="DIR")
    receive.add_argument("--address", required=True, help="own address to listen on")
    receive.add_argument("--sender", required=True, help="address in the sender's certificate")
    receive.add_argument("--expect", type=int, default=0, metavar="BYTES", help="room that the data needs")
    receive.add_argument("--patience", type=float, default=120, metavar="SECONDS")
    send = command("send", "Send a data directory over mutual TLS.")
    send.add_argument("--source", required=True, type=pathlib.Path, metavar="DIR")
    send.add_argument("--address", required=True)
    for one in (receive, send):
        one.add_argument("--port", type=int, required=True)
    return parser.parse_args(words)


def where_data_goes(datadir: pathlib.Path) -> dict[str, str]:
    """For the restore: the beginning of the names of copies of the data, or why it cannot be exchanged."""
    try:
        return {"copies": str(data_swap.place(datadir).folder("{}.")), "datadir_problem": ""}
    except (SwapError, OSError) as error:
        return {"copies": "", "datadir_problem": str(error)}


def show(value: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(value, default=str))


def guarded(program: Program, arguments: argparse.Namespace) -> int:
    """run, restore, init: within the time limit, one line at the end; the first two under the lock."""
    kind = getattr(arguments, "kind", None)
    name = f"{arguments.command} --kind {kind}" if kind else arguments.command
    started = time.time()
    try:
        if arguments.command != "init":
            program.lock(name, arguments.wait)
        signal.alarm(program.config["timeout_seconds"])
        fields: dict[str, Any]
        if arguments.command == "run":
            fields = program.run(arguments.kind, require=arguments.require, allow_primary=arguments.allow_primary)
            program.record(kind or "", True, {**fields, "finished": int(time.time())})
        elif arguments.command == "restore":
            fields = {"restored": arguments.snapshot, **program.restore(arguments.snapshot, arguments.target)}
        else:
            fields = {"repository": "opened"}
            if not program.open_repository():
                code, output, errors = program.restic("init", "--quiet")
                # Where hosts share a repository another one may have been faster.
                if code != 0 and not program.open_repository():
                    raise BackupError(f"the repository cannot be made: {last_message(errors or output)}")
                fields = {"repository": "made" if code == 0 else "opened"}
    except Skipped as reason:
        print(f"webstack-backup: skipped: {reason}")
        return 0
    except (BackupError, SwapError, OSError) as error:
        signal.alarm(0)
        failure: dict[str, Any] = {"kind": kind} if kind else {}
        failure.update(host=socket.gethostname(), seconds=round(time.time() - started, 1), reason=str(error))
        print(summary("FAILED", failure), flush=True)
        if kind and not isinstance(error, LockedError):
            program.record(kind, False, {**failure, "finished": int(time.time())})
        return LOCKED if isinstance(error, LockedError) else 1
    print(summary("ok", fields))
    return 0


def main(words: Sequence[str]) -> int:
    arguments = arguments_of(words)
    try:
        program = Program(json.loads(pathlib.Path(arguments.config).read_text()))
    except (OSError, ValueError) as error:
        print(summary("FAILED", {"reason": f"{arguments.config}: {error}"}))
        return 1

    def interrupted(number: int, _frame: object) -> NoReturn:
        what = (
            "the time limit backup_slave_timeout_seconds" if number == signal.SIGALRM else signal.Signals(number).name
        )
        raise BackupError(f"interrupted by {what}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, interrupted)
    os.umask(0o077)

    if arguments.command in ("run", "restore", "init"):
        return guarded(program, arguments)
    try:
        if arguments.command == "list":
            snapshots = program.snapshots()
            if arguments.json:
                show(snapshots)
            else:
                for one in snapshots:
                    size = f"{one['bytes']:>14}"
                    print(one["id"], one["time"], f"{one['kind']:<6}", size, one["host"], one["gtid"], sep="  ")
        elif arguments.command == "status":
            status = {**program.server(), "disk": program.disk(), "last": program.state()}
            status.update(where_data_goes(pathlib.Path(status["datadir"])))
            if arguments.snapshots:
                status.update(snapshots=[], snapshots_error="")
                try:
                    status["snapshots"] = program.snapshots()
                except BackupError as error:
                    status["snapshots_error"] = str(error)
            if arguments.json:
                show(status)
            else:
                for key, value in status.items():
                    print(f"{key}: {json.dumps(value)}")
        elif arguments.command == "replace-data":
            if arguments.undo:
                show(program.undo_replace(arguments.undo))
            else:
                show(program.replace_data(arguments.source, arguments.keep))
        elif arguments.command == "recover":
            print(data_swap.recover() or "nothing to undo")
        elif arguments.command == "take-over":
            show(program.take_over())
        elif arguments.command == "replication":
            show(program.replication(arguments.wish))
        elif arguments.command == "fingerprint":
            show(program.fingerprint())
        elif arguments.command == "receive":
            need_room(
                arguments.target,
                arguments.expect,
                program.config["free_disk_factor"],
                program.earlier(arguments.target),
            )
            show(
                program.receive(
                    arguments.target, arguments.address, arguments.port, arguments.sender, arguments.patience
                )
            )
        elif arguments.command == "send":
            show(program.send(arguments.source, arguments.address, arguments.port))
    except (BackupError, SwapError, OSError) as error:
        print(summary("FAILED", {"reason": error}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
