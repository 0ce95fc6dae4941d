"""Shell scripts of ours on hosts: none waits without end, and who is busy is said as the host program says it."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess

import pytest

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
CLASSIC = ROLES / "vip_failover/files/webstack-vip-classic"
ONE_SHOTS = sorted(path for path in ROLES.rglob("*.service*") if "Type=oneshot" in path.read_text())
# They wait for nobody, or have limits of their own.
QUICK = {"/bin/true", "/bin/ip", "/usr/sbin/nft", "/usr/lib/systemd/systemd-sysctl", "/usr/local/sbin/webstack"}


@pytest.fixture
def classic(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the script with its files in a folder of the test, no address to look at, and little patience."""
    (tmp_path / "settings").write_text(f"ADDRESSES='' LOG={tmp_path}/log MAINTENANCE={tmp_path}/m CHECK='' RANK=0\n")
    text = CLASSIC.read_text().replace("/run/webstack/vip-classic.lock", f"{tmp_path}/lock")
    text, changed = re.subn(r"flock -w 60 ", "flock -w 0.5 ", text)
    assert changed == 1
    made = tmp_path / "classic"
    made.write_text(text.replace("/etc/default/webstack-vip-classic", f"{tmp_path}/settings"))
    return made


def call(script: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", script, *words], capture_output=True, text=True, timeout=20, check=False)


def test_the_classic_script_says_who_is_busy(classic: pathlib.Path) -> None:
    os.mkfifo(classic.parent / "begun")
    (classic.parent / "ping").write_text(f"#!/bin/sh\necho begun >{classic.parent}/begun; exec sleep 60\n")
    (classic.parent / "ping").chmod(0o755)
    (classic.parent / "settings").write_text(
        f"ADDRESSES=192.0.2.1/24 INTERFACE=lo LOG={classic.parent}/log MAINTENANCE=/none CHECK='' RANK=0\n"
        f"PATH={classic.parent}:$PATH\n"
    )
    with subprocess.Popen(["/bin/sh", classic], start_new_session=True) as look:
        assert (classic.parent / "begun").read_text() == "begun\n"
        told = call(classic, "release")
        assert told.returncode == 75
        assert re.fullmatch(rf"busy: a look \(process {look.pid}, since [-0-9]+ [:0-9]+\)\n", told.stderr)
        # A look leaves the work to the one that is under way.
        assert call(classic).returncode == 0
        os.killpg(look.pid, signal.SIGKILL)


def test_the_classic_script_releases_once_nobody_is_busy(classic: pathlib.Path) -> None:
    for words in ((), ("release",)):
        assert call(classic, *words).returncode == 0
    assert (classic.parent / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("unit", ONE_SHOTS, ids=lambda path: path.name)
def test_a_unit_that_runs_a_script_has_a_limit(unit: pathlib.Path) -> None:
    """Left to itself, systemd waits for a one-shot without end, and its timer never comes again."""
    text = unit.read_text()
    programs = {re.sub(r"^[-+]", "", word) for word in re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)}
    assert "\nTimeoutStartSec=" in text or programs <= QUICK


def test_every_wait_of_a_script_has_a_limit() -> None:
    scripts = [path for path in ROLES.rglob("*") if path.is_file() and b"sh\n" in path.read_bytes()[:12]]
    assert CLASSIC in scripts
    waits = re.compile(r"^(?!\s*#).*\b(flock|logger|curl|wget|ssh|redis-cli|mariadb|mysql|rsync) .*", re.MULTILINE)
    limits = re.compile(r"timeout |flock (-n|-w \d+)|--contimeout=\d+ --timeout=\d+")
    for script in scripts:
        text = re.sub('"[^"\n]*"', '""', script.read_text().replace("\\\n", ""))
        assert [line[0] for line in waits.finditer(text) if not limits.search(line[0])] == [], script.name
