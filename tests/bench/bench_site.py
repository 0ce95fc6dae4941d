#!/usr/bin/env python3
"""What a second, no-change run of the whole site costs, against another one in the same run.

  bench_site.py                    against the floor: as many trivial tasks (`ping`) on the same hosts
  bench_site.py --against COMMIT   against the collection of an earlier commit, on as many hosts of its own

Needs a converged lab: `make demo` first, or `--inventory DIR` of another one. With `--against` the earlier commit
builds a lab beside it, of the same inventory with other names and addresses, and the runs take turns; the lab is
removed at the end, unless `--keep` is given. Prints one table; nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from earlier import check_out

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / ".venv/bin/ansible-playbook"
SITE = "playbooks/site.yml"
RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)\s+skipped=(\d+)",
    re.M,
)


#: The collection of the earlier commit, its inventory and its lab.
OLD = ROOT / ".cache/bench-site"
OLD_LAB = "bench-site-old"


class Run(NamedTuple):
    """What one run of a playbook cost the controller, and what it printed."""

    seconds: float
    cpu: float
    output: str


def play(inventory: str, playbook: str, *options: str, tree: pathlib.Path = ROOT) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    result = subprocess.run(
        [str(PLAYBOOK), "-i", inventory, playbook, *options],
        cwd=tree,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(tree / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if result.returncode != 0:
        sys.exit(f"bench: {playbook} failed\n{result.stdout[-3000:]}{result.stderr[-1000:]}")
    return Run(seconds, cpu, result.stdout)


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


def executions(inventory: str, tree: pathlib.Path = ROOT) -> dict[str, int]:
    """Host -> executions of modules. With pipelining each of them is one command on the host."""
    verbose = play(inventory, SITE, "-vvv", tree=tree).output
    return dict(collections.Counter(re.findall(r"^<(\S+)> EXEC", verbose, re.M)))


def unchanged(inventory: str, tree: pathlib.Path = ROOT) -> Run:
    run = play(inventory, SITE, tree=tree)
    if changed(run.output):
        sys.exit(f"bench: the site's run of {tree} changed something; converge it first")
    return run


def sh(*command: str, folder: pathlib.Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)}: {(done.stdout + done.stderr)[-3000:]}")


def old_site(commit: str, inventory: str) -> str:
    """Build a lab like that of the inventory by the collection of an earlier commit; return its inventory."""
    where = OLD / "inventories" / OLD_LAB
    if not where.exists():
        check_out(commit, OLD, sh)
        shutil.copytree(ROOT / inventory, where, ignore=shutil.ignore_patterns(".pki", "secrets.yml"))
        for path in where.rglob("*.yml"):
            text = re.sub(r"\b10\.77\.0\.", "10.78.0.", path.read_text())
            # Neither a port of this machine twice, nor a host's name.
            text = re.sub(r"(?m)^ *lab_publish:\n(?: *(?:- )?(?:port|to): .*\n)*", "", text)
            path.write_text(re.sub(r"(?m)^( +)([a-z]+\d+|client):$", r"\1old-\2:", text))
    sh(str(PLAYBOOK.parent / "python"), "tools/lab.py", "up", "--lab", OLD_LAB, "--inventory", str(where))
    for playbook in ("playbooks/secrets.yml", SITE):
        play(str(where), playbook, tree=OLD)
    return str(where)


def remove_old_site() -> None:
    sh(str(PLAYBOOK.parent / "python"), "tools/lab.py", "down", "--lab", OLD_LAB)
    sh("git", "worktree", "remove", "--force", str(OLD))


def against(commit: str, inventory: str, rounds: int, keep: bool) -> None:
    """Compare this checkout with an earlier commit, each on its own hosts, run by run."""
    try:
        sites = {commit: (old_site(commit, inventory), OLD), "this checkout": (inventory, ROOT)}
        asked = {name: executions(*site) for name, site in sites.items()}
        runs: dict[str, list[Run]] = {name: [] for name in sites}
        for _ in range(rounds):
            for name, site in sites.items():
                runs[name].append(unchanged(*site))
    finally:
        if not keep:
            remove_old_site()
    print(f"no-change run of {SITE}, median of {rounds} rounds in turn")
    print(f"  {'':<14} {'seconds':>8} {'controller CPU s':>17} {'module executions, most on a host':>35}")
    medians = {}
    for name, done in runs.items():
        medians[name] = [statistics.median(values) for values in ([r.seconds for r in done], [r.cpu for r in done])]
        most = max(asked[name].values())
        print(f"  {name:<14} {medians[name][0]:>8.1f} {medians[name][1]:>17.1f} {most:>35}")
    wall, cpu = (new / old for new, old in zip(medians["this checkout"], medians[commit], strict=True))
    print(f"  ratio {wall:.2f} of the seconds, {cpu:.2f} of the CPU (goal <= 0.6 of both)")
    print("module executions per host (goal <= 6):")
    for name, hosts in asked.items():
        print(f"  {name:<14} {', '.join(f'{host} {count}' for host, count in sorted(hosts.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory", default="inventories/demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--keep", action="store_true", help="keep the lab of the earlier commit for the next time")
    options = parser.parse_args()
    if options.against:
        against(options.against, options.inventory, options.rounds, options.keep)
        return

    asked = executions(options.inventory)
    site_seconds: list[float] = []
    floor_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            run = unchanged(options.inventory)
            counts = {host: count for host, count in tasks(run.output).items() if host != "localhost"}
            site_seconds.append(run.seconds)
            floor_seconds.append(play(options.inventory, floor(counts, folder)).seconds)

    total = sum(counts.values())
    site_median, floor_median = (
        statistics.median(site_seconds),
        statistics.median(floor_seconds),
    )
    print(f"no-change run of {SITE} on {len(counts)} hosts, median of {options.rounds} rounds side by side")
    print(f"  {'':<10} {'seconds':>8} {'tasks':>6} {'ms per task and host':>21}")
    print(f"  {'site':<10} {site_median:>8.1f} {total:>6} {1000 * site_median / total:>21.1f}")
    print(f"  {'floor':<10} {floor_median:>8.1f} {total:>6} {1000 * floor_median / total:>21.1f}")
    print(f"  ratio {site_median / floor_median:.2f} (goal <= 1.6)")
    print("module executions per host (goal <= 6):")
    for host, count in sorted(asked.items()):
        print(f"  {host:<10} {count:>3}")


if __name__ == "__main__":
    main()
