"""How fast this machine is: budgets are CPU seconds of one machine, and another may take twice as many for the same."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys

# What the piece of work costs on the machine that tests/budgets.yml was measured on, in seconds of CPU.
REFERENCE = 0.26


def work() -> None:
    """What checks spend their time on: Python that reads, compiles and compares texts, and starts of processes."""
    texts = [f"name_{number}: {{key_{number}: [{number}, '{number * 7}']}}" for number in range(400)]
    for turn in range(8):
        found = [re.findall(r"(\w+)_(\d+)", text) for text in texts]
        json.loads(json.dumps(sorted(found, key=lambda words: words[0][1])))
        compile("\n".join(f"def f{turn}_{number}(a): return [a, {number}]" for number in range(150)), "work", "exec")
    for _ in range(8):
        subprocess.run([sys.executable, "-I", "-c", "import json, subprocess"], check=True)
        subprocess.run(["/bin/sh", "-c", "/bin/true; /bin/true"], check=True)


def spent() -> float:
    """CPU seconds of this process and those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def factor() -> float:
    """How many times the CPU of the other machine this one takes: of some tries the best, which nothing disturbed."""
    costs = []
    for _ in range(3):
        before = spent()
        work()
        costs.append(spent() - before)
    return min(costs) / REFERENCE
