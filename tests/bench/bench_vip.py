#!/usr/bin/env python3
"""The fault table of the virtual address: fault -> outage median and worst, failed requests.

  molecule converge -s vip_failover && tests/bench/bench_vip.py [--rounds 5] [--fault 'host killed'] [--interval 0.005]
  tests/bench/bench_vip.py --crowd 600      ten minutes with every core loaded: how often the address moves
  tests/bench/bench_vip.py --engines [hook] the other engines, which are converged for it, and keepalived again

A client host asks the address every 5 ms with a limit of 0.5 s each; an outage lasts from the start of the first
request that fails to the start of the next that does not. Whatever else runs on the machine is in the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lab"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testinfra"))

from rerun import play
from vip_lab import (
    ENGINES,
    FAULTS,
    HOOKED,
    HOSTS,
    Engine,
    cloud,
    cut_and_heal,
    engine_round,
    hold,
    on,
    one_round,
    repair,
    settled,
    wait_for_peers,
    watch,
)


def table(rounds: int, only: str, interval: float) -> int:
    missed = 0
    print(
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {rounds} rounds, every {interval * 1e3:g} ms"
    )
    print(f"{'fault on the owner':<26}{'median':>8}{'worst':>8}{'failed':>8}{'of':>8}{'bar':>14}{'return':>8}")
    for fault in FAULTS:
        if only not in fault.name:
            continue
        seen = [one_round(fault, interval) for _ in range(rounds)]
        outages = [s["longest_outage_ms"] for s in seen]
        median, worst = statistics.median(outages), max(outages)
        back = sum(s["back_failed"] for s in seen)
        kept = median <= fault.median_ms and worst <= fault.worst_ms and back == 0
        missed += not kept
        print(
            f"{fault.name:<26}{median:>8.0f}{worst:>8}{sum(s['failed'] for s in seen):>8}"
            f"{sum(s['requests'] for s in seen):>8}{f'{fault.median_ms:g} / {fault.worst_ms:g}':>14}{back:>8}"
            f"{'' if kept else '  missed'}",
            flush=True,
        )
    for what in ("vrrp", "all"):
        if only in f"partition {what}":
            for _ in range(rounds):
                repair()
                settled()
                seen_once, took, most = cut_and_heal(what)
                kept = seen_once["failed"] == 0 and took <= 1
                missed += not kept
                print(
                    f"partition ({what}): {most} owners, {seen_once['failed']} failed, one owner after {took:.2f} s",
                    flush=True,
                )
    if only in "connections":
        for _ in range(rounds):
            repair()
            owner = settled()
            wait_for_peers()
            kept_open = hold(lambda name=owner: on(name, "webstack vip switchover"))  # type: ignore[misc]
            broken = kept_open["downloads_broken"], kept_open["idle_broken"]
            missed += broken != (0, 0)
            print(
                f"planned switchover: {broken[0]} of 6 downloads, {broken[1]} of 6 idle connections broke", flush=True
            )
    repair()
    return missed


def converge(engine: Engine | None) -> None:
    done = play("vip_failover", **(engine.settings if engine else {}))
    if done.returncode:
        raise SystemExit(done.stdout)


def engines(rounds: int, only: str) -> int:
    """Print what each fault costs with the engines that have no bars."""
    repair()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {rounds} rounds")
    print(f"{'engine':<22}{'fault on the owner':<22}{'every ms':>9}{'median':>8}{'worst':>8}{'failed':>8}{'of':>8}")
    try:
        for engine in ENGINES:
            if only not in engine.name:
                continue
            with cloud() if engine.address == HOOKED else contextlib.nullcontext():
                converge(engine)
                for name, act in engine.faults.items():
                    seen = [engine_round(engine, act) for _ in range(rounds)]
                    outages = [s["longest_outage_ms"] for s in seen]
                    print(
                        f"{engine.name:<22}{name:<22}{1e3 * engine.interval:>9g}{statistics.median(outages):>8.0f}"
                        f"{max(outages):>8}{sum(s['failed'] for s in seen):>8}{sum(s['requests'] for s in seen):>8}",
                        flush=True,
                    )
    finally:
        converge(None)
    return 0


def crowd(seconds: int) -> int:
    """Load every core and count the moves."""
    repair()
    owner = settled()
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    since = on(owner, "date '+%Y-%m-%d %H:%M:%S'").strip()
    started = time.monotonic()
    try:
        seen = watch(lambda: None, seconds, interval=0.05)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    moves = sum(
        int(on(name, f"journalctl -u keepalived --since '{since}' -o cat | grep -c 'Entering MASTER STATE' || true"))
        for name in HOSTS
    )
    took = time.monotonic() - started
    print(f"{took:.0f} s, {len(hogs)} hogs: {moves} moves, {seen['failed']} of {seen['requests']} requests failed")
    return moves


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fault", default="", help="only those whose name holds this")
    parser.add_argument("--interval", type=float, default=0.005)
    parser.add_argument("--crowd", type=int, metavar="SECONDS")
    parser.add_argument("--engines", nargs="?", const="", metavar="NAME")
    options = parser.parse_args()
    if options.engines is not None:
        return engines(options.rounds, options.engines)
    missed = crowd(options.crowd) if options.crowd else table(options.rounds, options.fault, options.interval)
    print(f"{missed} outside the bars" if missed else "all within the bars")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
