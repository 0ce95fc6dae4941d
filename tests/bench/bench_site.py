#!/usr/bin/env python3
"""What a second, no-change run of the whole site costs, against the floor on the same hosts in the same run.

The floor is a play with as many trivial tasks (`ping`) on every host as the site's run had tasks there, with the
connection settings that the repository ships. Needs a converged lab: `make demo` first, or
`--inventory DIR` of another one. Prints one table; nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / ".venv/bin/ansible-playbook"
RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)\s+skipped=(\d+)",
    re.M,
)


def play(inventory: str, playbook: str, *options: str) -> tuple[float, str]:
    started = time.monotonic()
    result = subprocess.run(
        [str(PLAYBOOK), "-i", inventory, playbook, *options],
        cwd=ROOT,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - started
    if result.returncode != 0:
        sys.exit(f"bench: {playbook} failed\n{result.stdout[-3000:]}{result.stderr[-1000:]}")
    return seconds, result.stdout


def tasks(output: str) -> dict[str, int]:
    """Host -> tasks that were run or skipped there."""
    return {host: int(ok) + int(skipped) for host, ok, _, _, _, skipped in RECAP.findall(output)}


def changed(output: str) -> int:
    return sum(int(row[2]) for row in RECAP.findall(output))


def floor(counts: dict[str, int], folder: str) -> str:
    """One play per number of tasks: the hosts of a tier run together, as in the site."""
    plays = []
    tiers: dict[int, list[str]] = collections.defaultdict(list)
    for host, count in counts.items():
        tiers[count].append(host)
    for count, hosts in sorted(tiers.items()):
        trivial = [{"name": "Ping", "ansible.builtin.ping": None}] * count
        plays.append(
            {
                "name": "Floor",
                "hosts": ",".join(hosts),
                "gather_facts": False,
                "become": True,
                "tasks": trivial,
            }
        )
    path = pathlib.Path(folder, "floor.yml")
    path.write_text(json.dumps(plays))
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", default="inventories/demo")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    site = "playbooks/site.yml"

    # With pipelining each execution of a module is one command on the host.
    _, verbose = play(options.inventory, site, "-vvv")
    executions = collections.Counter(re.findall(r"^<(\S+)> EXEC", verbose, re.M))
    site_seconds: list[float] = []
    floor_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            seconds, output = play(options.inventory, site)
            if changed(output):
                sys.exit("bench: the site's run changed something; converge it first")
            counts = {host: count for host, count in tasks(output).items() if host != "localhost"}
            site_seconds.append(seconds)
            floor_seconds.append(play(options.inventory, floor(counts, folder))[0])

    total = sum(counts.values())
    site_median, floor_median = (
        statistics.median(site_seconds),
        statistics.median(floor_seconds),
    )
    print(f"no-change run of {site} on {len(counts)} hosts, median of {options.rounds} rounds side by side")
    print(f"  {'':<10} {'seconds':>8} {'tasks':>6} {'ms per task and host':>21}")
    print(f"  {'site':<10} {site_median:>8.1f} {total:>6} {1000 * site_median / total:>21.1f}")
    print(f"  {'floor':<10} {floor_median:>8.1f} {total:>6} {1000 * floor_median / total:>21.1f}")
    print(f"  ratio {site_median / floor_median:.2f} (goal <= 1.6)")
    print("module executions per host (goal <= 12):")
    for host, count in sorted(executions.items()):
        print(f"  {host:<10} {count:>3}")


if __name__ == "__main__":
    main()
