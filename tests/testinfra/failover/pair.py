"""The two databases of the lab and their clients: who is what, faults, and what they cost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from containers import attempt, docker, on

DB1, DB2 = "failover-db1", "failover-db2"
DATABASES = {DB1: "10.77.14.11", DB2: "10.77.14.12"}
#: The other two members of the quorum; clients run on the first.
VOTES = ("failover-vote1", "failover-vote2")
CLIENT = VOTES[0]
ADDRESS = "10.77.14.100"
PASSWORD = "password-of-the-lab"
DATA = "/var/lib/mysql"
ROUNDS = int(os.environ.get("FAILOVER_ROUNDS", "1"))
PROGRAM = Path(__file__).with_name("client.py")


def other(host: str) -> str:
    return DB2 if host == DB1 else DB1


def sql(host: str, statements: str) -> list[list[str]]:
    """As root, over the socket."""
    return [line.split("\t") for line in on(host, "mariadb", "--batch", "-N", text=statements).splitlines()]


def agent(host: str) -> dict[str, Any]:
    """Return what the agent of a host wrote down last; nothing where it is away, or has been silent."""
    said = attempt(host, "cat", "/run/webstack/db/agent.json")
    if said.returncode != 0:
        return {}
    found: dict[str, Any] = json.loads(said.stdout)
    return found if time.time() - found["at"] < 3 else {}


def is_whole() -> bool:
    """Both say the same, one writes and the other one holds every row."""
    first, second = agent(DB1), agent(DB2)
    return bool(
        first
        and second
        and first["state"]
        and first["state"]["replica"]
        and first["state"] == second["state"]
        and {first["rule"], second["rule"]} == {"writes", "follows"}
    )


def until(good: Callable[[], object], seconds: float, what: str) -> float:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if good():
            return time.monotonic() - began
        time.sleep(0.2)
    for host in DATABASES:
        print(attempt(host, "webstack", "db", "status").stdout)
        print(attempt(host, "journalctl", "--no-pager", "-n40", "-uwebstack-db", "-umariadb").stdout)
    raise AssertionError(f"{what}: not within {seconds} s")


def whole(seconds: float = 40) -> float:
    return until(is_whole, seconds, "a whole pair")


def running(host: str, seconds: float = 40) -> float:
    """Wait until a server that was stopped is counted on again; what its agent said last may be from before that."""
    began = time.monotonic()
    until(lambda: attempt(host, "mariadb", "-e", "SELECT 1").returncode == 0, seconds, "a server")
    on(host, "webstack", "db", "settle")
    whole(seconds)
    return time.monotonic() - began


def writer() -> str:
    return str(next(found["state"]["writer"] for host in DATABASES if (found := agent(host)) and found["state"]))


@dataclass
class Cost:
    """What clients saw of a fault."""

    began: float
    #: Number of a row, and when it was acknowledged.
    acknowledged: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def outage(self) -> float:
        """The longest time without an acknowledgement since the fault; clients ask every 50 ms."""
        times = sorted(at for at in self.acknowledged.values() if at > self.began - 0.1)
        assert times, f"nothing was acknowledged after the fault: {self.refused[-3:]}"
        return max(b - a for a, b in pairwise(times))

    def lost(self, host: str) -> set[str]:
        """What was acknowledged and is not there."""
        return set(self.acknowledged) - {row[0] for row in sql(host, "SELECT id FROM site.acknowledged")}


@contextmanager
def clients(seconds: float) -> Iterator[Cost]:
    """Clients of the writer address, for so long; the fault is struck inside of the block, after two seconds."""
    whole()
    sql(writer(), "CREATE TABLE IF NOT EXISTS site.acknowledged (id BIGINT PRIMARY KEY)")
    docker("cp", str(PROGRAM), f"{CLIENT}:/root/client.py")
    command = ["docker", "exec", "-i", CLIENT, "python3", "/root/client.py", ADDRESS, str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(f"{PASSWORD}\n")
    process.stdin.close()
    process.stdin = None
    time.sleep(2)
    cost = Cost(time.time())
    try:
        yield cost
    finally:
        said, _ = process.communicate(timeout=seconds + 30)
        for line in said.splitlines():
            word, number, _sent, answered, *error = line.split(maxsplit=4)
            if word == "ack":
                cost.acknowledged[number] = float(answered)
            else:
                cost.refused.append(" ".join(error))


# --- faults -----------------------------------------------------------------------------------------

Heal = Callable[[], object]


def cut(host: str, *others: str) -> Heal:
    """Nothing comes to a host or leaves it; with others, only what concerns these."""
    words = f"{{ {', '.join(others)} }}"
    source, target = (f"ip saddr {words}", f"ip daddr {words}") if others else ("", "")
    rules = f"""
    table inet cut {{
      chain in {{ type filter hook input priority -300; iif eth0 {source} drop; }}
      chain out {{ type filter hook output priority -300; oif eth0 {target} drop; }}
    }}
    """
    on(host, "nft", "-f", "-", text=rules)
    return lambda: on(host, "nft", "delete", "table", "inet", "cut")


def cut_link(host: str) -> Heal:
    return cut(host, DATABASES[other(host)])


def freeze(host: str) -> Heal:
    docker("pause", host)
    return lambda: docker("unpause", host)


def kill(host: str) -> Heal:
    docker("kill", host)
    return lambda: docker("start", host)


def kill_server(host: str) -> Heal:
    on(host, "sh", "-c", "kill -9 $(pidof mariadbd)")
    return lambda: None


def hang_server(host: str) -> Heal:
    on(host, "sh", "-c", "kill -STOP $(pidof mariadbd)")
    return lambda: None
