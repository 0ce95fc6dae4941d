# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends a copy of a server's data to another host: the pipes at both ends."""

from __future__ import annotations

import os
import pathlib
import subprocess
import time

from ..core import files, lock
from ..core.errors import Problem
from . import data
from .config import LOCK_PURPOSE, LOCK_SECONDS, RUN, Config, Node
from .marker import MARKER, set_marker
from .role import look
from .session import local_session

# A host that is gone ends the transfer within two minutes.
KEEPALIVE = "keepalive,keepidle=60,keepintvl=10,keepcnt=6"


def socat_address(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def tls_end(config: Config, peer: Node) -> str:
    files = f"cert={config.tls['cert']},key={config.tls['key']},cafile={config.tls['ca']}"
    return f"{files},verify=1,commonname={peer.name},openssl-min-proto-version=TLS1.2"


def pipeline(commands: list[list[str]], errors: pathlib.Path, seconds: float) -> None:
    """Run commands as one pipe; every one of them has to succeed, within a time limit for all.

    A host that lives and takes nothing would hold the other one for ever.
    """
    end = time.monotonic() + seconds
    with errors.open("wb") as trail:
        running: list[subprocess.Popen[bytes]] = []
        source = None
        try:
            for position, command in enumerate(commands):
                last = position == len(commands) - 1
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL if source is None else source,
                    stdout=trail if last else subprocess.PIPE,
                    stderr=trail,
                )
                if source is not None:
                    source.close()
                source = process.stdout
                running.append(process)
            codes = [process.wait(timeout=max(0.0, end - time.monotonic())) for process in running]
        except subprocess.TimeoutExpired:
            raise Problem(f"no end of the copy within {seconds:g} s; see {errors}") from None
        finally:
            for process in running:
                if process.returncode is None:
                    process.kill()
                    process.wait()
    failed = [f"{c[0]} ended with {code}" for c, code in zip(commands, codes, strict=True) if code != 0]
    if failed:
        tail = errors.read_text(errors="replace").strip().splitlines()[-12:]
        raise Problem("; ".join(failed) + ":\n  " + "\n  ".join(tail))


def send(config: Config, to: str, seconds: float) -> None:
    """Stream a backup of this live server to a host that waits for it."""
    peer = config.other(to)
    seen = look(local_session(config))
    if seen["replica"] is not None or seen["read_only"]:
        raise Problem("this server is not the writing primary")
    if astray := data.led_astray(config.datadir, config.datadir.stat().st_uid):
        raise Problem(f"{astray} leads to a file that is not the server's: look who put it there, and remove it")
    started = time.monotonic()
    # From the first byte on somebody else has this data: from now on a restart asks the other host first.
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        set_marker({"paired": True})
    files.folder(RUN)
    target = f"OPENSSL:{socat_address(peer.address)}:{config.seed_port},{KEEPALIVE},{tls_end(config, peer)}"
    target += ",retry=20,interval=0.5"
    scratch = MARKER.parent / "backup"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    pipeline(
        [
            [
                "mariadb-backup", "--backup", "--stream=mbstream", "--user=root", f"--socket={config.socket}",
                "--log-copy-interval=50", f"--target-dir={scratch}",
            ],
            ["zstd", "-q", f"-{config.seed_compression}", "-T0", "-c"],
            ["socat", "-u", "STDIN", target],
        ],
        RUN / "send.log",
        seconds,
    )  # fmt: skip
    print(f"sent in {time.monotonic() - started:.1f} s")


def data_size(datadir: pathlib.Path) -> int:
    """Return how many bytes a backup of this server takes, without its logs."""
    top = os.path.realpath(datadir)
    skip = [*(f"{name}{os.sep}" for name in data.KEEP), "binlog.", "relay.", "ibtmp"]
    return data.size_of(top, [os.path.join(top, name) for name in skip])
