#!/usr/bin/env python3
"""Upgrade a running site from an earlier commit under load, and say what it cost.

  make upgrade FROM=<commit>

The demo is built as it was at that commit. Then this checkout's `site.yml` runs on it while a client asks pages through
the virtual address, which ask every tier. Each thing that is not as it should be ends the program with 1: a failed
request, a service that runs the old program, a command of the old version that is left, a second run that changes
something, a role that moved. Takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from typing import Any

from earlier import check_out

ROOT = pathlib.Path(__file__).resolve().parents[2]
OLD = ROOT / ".cache/upgrade"
GROUPS = {"lb": ["lb1", "lb2"], "was": ["was1", "was2"], "redis": ["redis1", "redis2", "redis3"], "db": ["db1", "db2"]}
HOSTS = [name for names in GROUPS.values() for name in names]
PAGES = {"a page that asks every tier": "/whoami", "the front page": "/"}
RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)
#: Where the versions before the one program put their commands, and what they kept. A lock and a socket in /run go with
#: the next boot.
EARLIER = (
    "/usr/local/sbin/{webstack-{db,backup,lb,tls,vip,release},redis-shard,shared-media-status}"
    " /usr/local/lib/webstack/{data_swap,hash_ring,shard_keys}.py /usr/local/lib/webstack-tls"
    " /{etc,var/lib,var/cache}/webstack-* /run/webstack-*/ /var/lib/webstack/data-swap.json"
    " /etc/nginx/webstack/balancer.json"
    " /etc/webstack/{vip,tls,backup}/config.json /etc/systemd/system/{redis-shard.target,webstack-nutcracker.service}"
    " /etc/systemd/system/multi-user.target.wants/{redis-shard.target,webstack-nutcracker.service}"
)
#: Services that run all the time, by group.
SERVICES = {"lb": ["webstack-lb", "webstack-vip-agent"], "db": ["webstack-db"], "was": [], "redis": []}


def sh(*command: str, folder: pathlib.Path = ROOT, check: bool = True) -> str:
    path = f"{folder / 'lab/bin'}:{folder / '.venv/bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    if check and done.returncode != 0:
        sys.exit(f"upgrade: {' '.join(command)}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def on(host: str, script: str) -> str:
    return sh("docker", "exec", host, "bash", "-c", script)


def take_over_secrets() -> None:
    """The operator's inventory stays the same; its secrets and its authority lie beside it."""
    for name in (".pki", "group_vars/all/secrets.yml"):
        source, target = OLD / "inventories/demo" / name, ROOT / "inventories/demo" / name
        if target.exists():
            sys.exit(f"upgrade: {target} exists: 'make demo-down' removes the demo that it belongs to")
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)


def site() -> dict[str, int]:
    """Run this checkout's site.yml; return host -> number of changed tasks."""
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    said = sh("ansible-playbook", "-i", "inventories/demo", "playbooks/site.yml")
    return {row[0]: int(row[1]) for row in RECAP.findall(said)}


def probe(path: str, seconds: int) -> dict[str, Any]:
    command = ["docker", "exec", "-i", "client", "python3", "-", f"https://www.demo.test{path}", f"--seconds={seconds}"]
    script = (ROOT / "tests/lab/probe.py").read_text()
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {"failed": -1, "errors": [done.stderr[-500:]]}


def roles() -> dict[str, str]:
    """Who is what: nothing of it may move."""
    found = {"address": next(name for name in GROUPS["lb"] if "10.77.0.100" in on(name, "ip -4 -o address show eth0"))}
    for name in GROUPS["db"]:
        found[name] = on(name, "mariadb -N -B -e 'SELECT @@read_only'").strip()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--seconds", type=int, default=150, help="how long the load lasts; longer than the run")
    options = parser.parse_args()
    wrong: list[str] = []
    check_out(options.commit, OLD, sh)
    try:
        sh("bash", "tools/demo.sh", "up", folder=OLD)
        take_over_secrets()
        before = roles()
        # What an operator does first: it must not fail where the old commands still are.
        os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
        sh("ansible-playbook", "-i", "inventories/demo", "playbooks/site.yml", "--check")
        results: dict[str, dict[str, Any]] = {}

        def load(what: str, path: str) -> None:
            results[what] = probe(path, options.seconds)

        threads = [threading.Thread(target=load, args=page) for page in PAGES.items()]
        for thread in threads:
            thread.start()
        changed = site()
        for thread in threads:
            thread.join()
        for what, seen in results.items():
            print(f"{what}: {seen.get('requests')} requests, {seen['failed']} failed, p99 {seen.get('p99_ms')} ms")
            if seen["failed"]:
                wrong.append(f"{what}: {seen['failed']} failed: {seen.get('errors')} {seen.get('statuses')}")
        print(f"the run changed: {changed}")
        again = site()
        if any(again.values()):
            wrong.append(f"a second run changes: {again}")
        if (after := roles()) != before:
            wrong.append(f"a role moved: {before} -> {after}")
        for group, names in GROUPS.items():
            for name in names:
                digest = on(name, "readlink /usr/local/lib/webstack/current").strip()
                if left := on(name, f"ls -d {EARLIER} 2>/dev/null || true").split():
                    wrong.append(f"{name}: left of the earlier version: {', '.join(left)}")
                homes = on(name, "ls /usr/local/lib/webstack").split()
                if homes != sorted([digest, "current"]):
                    wrong.append(f"{name}: /usr/local/lib/webstack holds {homes}")
                for service in SERVICES[group]:
                    line = on(name, f"tr '\\0' ' ' < /proc/$(systemctl show -P MainPID {service})/cmdline")
                    if "/usr/local/sbin/webstack " not in line:
                        wrong.append(f"{name}: {service} runs {line}")
                status = json.loads(on(name, "webstack status --json || [ $? = 2 ]"))
                wrong += [f"{name}: {problem}" for problem in status["problems"]]
    finally:
        sh("bash", "tools/demo.sh", "down", check=False)
        sh("git", "worktree", "remove", "--force", str(OLD), check=False)
    print("\n".join(f"WRONG: {text}" for text in wrong) or "nothing is wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
