"""Kill, freeze or stall the host of a shard's master again and again; print how long each step of the fail-over took.

    .venv/bin/molecule converge -s redis_shard
    .venv/bin/python tests/bench/bench_failover.py --faults 20
    .venv/bin/python tests/bench/bench_failover.py --faults 20 --how pause
    .venv/bin/python tests/bench/bench_failover.py --false-alarms 300 --load 4

Times are the servers' own, from the journals, which share the machine's clock. Values can be tried without a run of
the role: --down-after 700,400,950 (first leader, supporter, second leader) and
--debug ping-period=200,ask-period=500.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import yaml

INVENTORY = pathlib.Path(__file__).resolve().parents[2] / "molecule/redis_shard/inventory.yml"
SITE = yaml.safe_load(INVENTORY.read_text())["all"]["vars"]
SHARDS = {shard["name"]: {node["name"]: node for node in shard["nodes"]} for shard in SITE["redis_shard_shards"]}
SENTINELS = {node["name"]: node for node in SITE["redis_shard_sentinels"]}
# What Sentinel and Redis say, in the order in which it happens.
STEPS = {
    "first sure": r"\+sdown master {shard} ",
    "agreed": r"\+odown master {shard} ",
    "elected": r"\+elected-leader master {shard} ",
    "told": r"\+failover-state-wait-promotion slave .* @ {shard} ",
    "noticed": r"\+promoted-slave slave .* @ {shard} ",
    "announced": r"\+switch-master {shard} ",
}


def docker(*words: str, **environment: str) -> str:
    result = subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    return (result.stdout + result.stderr).strip()


def ask(node: dict[str, Any], *words: str) -> str:
    command = ["exec", "--env", "REDISCLI_AUTH", node["name"], "timeout", "3", "redis-cli", "--no-auth-warning"]
    command += ["--tls", "--cacert", "/etc/redis/tls/ca.pem", "--user", "admin"]
    command += ["-h", node["address"], "-p", str(node["port"])]
    return docker(*command, *words, REDISCLI_AUTH=SITE["redis_shard_admin_password"])


def wait(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.3)


def whole() -> bool:
    """Each shard has its replica, and every sentinel sees it so."""
    for name, sentinel in SENTINELS.items():
        report = docker("exec", name, "webstack", "cache", "status")
        if not report.startswith("{") or json.loads(report)["problems"]:
            return False
        if "sentinel_tilt:0" not in ask(sentinel, "INFO", "sentinel"):
            return False  # it was frozen itself, and decides nothing for 30 s
        for shard in SHARDS:
            seen = ask(sentinel, "SENTINEL", "REPLICAS", shard).splitlines()
            pairs = dict(zip(seen[::2], seen[1::2], strict=False))
            if pairs.get("flags") != "slave" or pairs.get("master-link-status") != "ok":
                return False
    return True


def tune(down_after: list[int], debug: list[str]) -> None:
    for position, sentinel in enumerate(SENTINELS.values()):
        for shard, nodes in SHARDS.items():
            if down_after:
                # As the role does it: the sentinel on the shard's own host is the last in turn.
                home = next(iter(nodes))
                turn = position - (list(SENTINELS).index(home) + 1 if home in SENTINELS else 0)
                value = str(down_after[turn % len(SENTINELS)])
                ask(sentinel, "SENTINEL", "SET", shard, "down-after-milliseconds", value)
        for pair in debug:
            ask(sentinel, "SENTINEL", "DEBUG", *pair.split("="))


def masters() -> dict[str, str]:
    sentinel = next(iter(SENTINELS.values()))
    by_place = {(node["address"], node["port"]): name for nodes in SHARDS.values() for name, node in nodes.items()}
    found = {}
    for shard in SHARDS:
        address, port = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", shard).split()
        found[shard] = by_place[address, int(port)]
    return found


def journal(name: str, since: float, *units: str) -> list[tuple[float, str]]:
    words = ["exec", name, "journalctl", "--no-pager", "-o", "short-unix", "--since", f"@{since:.3f}"]
    lines = docker(*words, *(word for unit in units for word in ("-u", unit))).splitlines()
    return [(float(line.split()[0]), line) for line in lines if re.match(r"\d+\.\d+ ", line)]


def fault(how: str, lost: str, shard: str) -> float:
    """Strike; return the moment at which the shard's server served no more, whatever the command took."""
    server = next(
        line.split()[0]
        for line in docker("top", lost, "-eo", "pid,args").splitlines()
        if "redis-server" in line and f":{SHARDS[shard][lost]['port']}" in line
    )
    status = pathlib.Path("/proc") / server / "status"
    if not status.exists():
        sys.exit("the containers' processes are not this machine's: run it where the engine runs")
    command = {
        "kill": ["kill", lost],
        "pause": ["pause", lost],
        "stop": ["exec", lost, "systemctl", "kill", "--signal=STOP", "redis-server@*.service"],
    }[how]
    with subprocess.Popen(["docker", *command], stdout=subprocess.DEVNULL) as striking:
        while how == "kill":
            try:
                if "State:\tZ" in status.read_text():
                    break
            except OSError:
                break
            time.sleep(0.001)
        while how != "kill" and striking.poll() is None:
            time.sleep(0.001)
        return time.time()


def heal(how: str, lost: str) -> None:
    if how == "stop":
        docker("exec", lost, "sh", "-c", "systemctl kill --signal=CONT 'redis-server@*.service'")
    else:
        docker({"kill": "start", "pause": "unpause"}[how], lost)


def one_round(how: str, number: int) -> list[dict[str, float]]:
    leaders = masters()
    # In turn, so that each position in the list of sentinels is lost as often as the others.
    lost = list(SENTINELS)[number % len(SENTINELS)]
    hit = [shard for shard, name in leaders.items() if name == lost]
    if not hit:
        docker("exec", leaders[list(SHARDS)[number % 3]], "webstack", "cache", "failover", list(SHARDS)[number % 3])
        return []
    before = time.time()
    moment = fault(how, lost, hit[0])
    left = [name for name in SENTINELS if name != lost]

    def over() -> bool:
        said = "\n".join(line for name in left for _time, line in journal(name, before, "redis-sentinel"))
        return all(f"+switch-master {shard} " in said for shard in hit)

    end = time.monotonic() + 25
    while not over() and time.monotonic() < end:
        time.sleep(0.5)
    found = []
    for shard in hit:
        heir = next(name for name in SHARDS[shard] if name != lost)
        said = [entry for name in left for entry in journal(name, before, "redis-sentinel")]
        row = {}
        for step, pattern in STEPS.items():
            times = [when for when, line in said if re.search(pattern.format(shard=re.escape(shard)), line)]
            if times:
                row[step] = min(times) - moment
            if step == "first sure" and len(times) > 1:
                row["second sure"] = sorted(times)[1] - moment
        ready = [
            when
            for when, line in journal(heir, before, f"redis-server@{shard}.service")
            if "MASTER MODE enabled" in line
        ]
        if ready:
            row["writable"] = min(ready) - moment
        row["split"] = float(any(f"-failover-abort-not-elected master {shard} " in line for _when, line in said))
        row["shards"] = float(len(hit))
        found.append(row)
    heal(how, lost)
    return found


def table(rows: list[dict[str, float]]) -> None:
    print("\nseconds after the fault   min    p50    p90    max")
    for step in ["first sure", "second sure", *list(STEPS)[1:4], "writable", *list(STEPS)[4:]]:
        values = sorted(row[step] for row in rows if step in row)
        if values:
            at = statistics.quantiles(values, n=10)[8] if len(values) > 1 else values[0]
            print(f"  {step:<22} {values[0]:6.2f} {statistics.median(values):6.2f} {at:6.2f} {values[-1]:6.2f}")
    print(f"fail-overs {len(rows)}, split votes {sum(int(row['split']) for row in rows)}, ", end="")
    print(f"not within 25 s {sum('announced' not in row for row in rows)}")


def false_alarms(seconds: int, load: int) -> None:
    """Load the machine and count what the sentinels mistake for a death."""
    start = time.time()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        time.sleep(seconds)
    finally:
        for loop in loops:
            loop.kill()
    said = [line for name in SENTINELS for _when, line in journal(name, start, "redis-sentinel")]
    counts = {word: sum(word in line for line in said) for word in ("+sdown", "+odown", "+switch-master", "+tilt")}
    print(f"{seconds} s with {load} busy loops on {os.cpu_count()} cores, all sentinels together: {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--how", choices=["kill", "pause", "stop"], default="kill")
    parser.add_argument("--down-after", default="")
    parser.add_argument("--debug", default="")
    parser.add_argument("--false-alarms", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--load", type=int, default=4)
    options = parser.parse_args()
    down_after = [int(word) for word in options.down_after.split(",") if word]
    debug = [word for word in options.debug.split(",") if word]
    rows: list[dict[str, float]] = []
    number = 0
    while len(rows) < options.faults:
        wait("every shard with its replica", whole)
        tune(down_after, debug)
        time.sleep(1.5)
        for row in one_round(options.how, number):
            rows.append(row)
            print(" ".join(f"{name}={value:.2f}" for name, value in row.items()), flush=True)
        number += 1
    if rows:
        table(rows)
    if options.false_alarms:
        wait("every shard with its replica", whole)
        tune(down_after, debug)
        false_alarms(options.false_alarms, options.load)


if __name__ == "__main__":
    main()
