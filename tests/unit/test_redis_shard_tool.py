"""The tool of redis_shard: what Sentinel starts with, accounts as commands, and the plan of a server-side cluster."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.config import Settings
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from host_programs import Tier

tool = Tier("cache")

ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
STATIC = f"""port 26379
sentinel monitor s1 {ONE} 6379 2
sentinel down-after-milliseconds s1 1000
"""


def node(address: str) -> dict[str, Any]:
    return {"name": f"redis{address[-1]}", "address": address, "port": 6379}


def site(*addresses: str) -> Any:
    return tool.Site(Settings(settings(*addresses), "redis-shard.json"))


def settings(*addresses: str) -> dict[str, Any]:
    return {
        "node": "redis1",
        "program": "redis",
        "engine": "ring",
        "passwords": ["secret"],
        "tls": None,
        "persistent": False,
        "overcommit": False,
        "timing": {"ping": 200},
        "shards": [{"name": "s1", "nodes": [node(address) for address in addresses or (ONE, TWO)]}],
        "sentinels": [{**node(address), "port": 26379} for address in (ONE, TWO, THREE)],
    }


def dynamic(master: str, replica: str, epoch: int) -> str:
    return f"""port 26379
sentinel myid 0123456789
sentinel monitor s1 {master} 6379 2
sentinel config-epoch s1 {epoch}
sentinel leader-epoch s1 {epoch}
sentinel known-replica s1 {replica} 6379
sentinel known-sentinel s1 {TWO} 26379 abcdef
sentinel known-sentinel s1 192.0.2.9 26379 fedcba
sentinel known-replica gone 192.0.2.9 6379
sentinel current-epoch {epoch}
"""


@pytest.mark.parametrize("key", sorted(settings()))
def test_a_setting_that_is_missing_is_named(key: str) -> None:
    some = {name: value for name, value in settings().items() if name != key}
    with pytest.raises(Problem, match=f"redis-shard.json has no '{key}'"):
        tool.Site(Settings(some, "redis-shard.json"))


def merged(old: str, views: dict[str, Any] | None = None, place: Any = None) -> list[str]:
    return tool.merge(STATIC, old, place or site(), views or {}).splitlines()


def test_first_start_takes_the_static_file() -> None:
    assert merged("") == STATIC.splitlines()


def test_own_memory_beats_the_inventory() -> None:
    lines = merged(dynamic(TWO, ONE, 5))
    assert f"sentinel monitor s1 {TWO} 6379 2" in lines
    assert f"sentinel known-replica s1 {ONE} 6379" in lines
    assert "sentinel config-epoch s1 5" in lines
    assert "sentinel leader-epoch s1 5" in lines
    assert "sentinel myid 0123456789" in lines
    assert "sentinel current-epoch 5" in lines
    assert "sentinel down-after-milliseconds s1 1000" in lines
    assert lines.count("port 26379") == 1


def test_newer_word_of_the_others_beats_own_memory() -> None:
    """A master is never also its own replica: Sentinel would tell it to follow itself."""
    lines = merged(dynamic(ONE, TWO, 5), {"s1": ({"address": TWO, "port": 6379}, 6)})
    assert f"sentinel monitor s1 {TWO} 6379 2" in lines
    assert "sentinel config-epoch s1 6" in lines
    assert [line for line in lines if "known-replica" in line] == [f"sentinel known-replica s1 {ONE} 6379"]


def test_older_word_of_the_others_does_not_count() -> None:
    lines = merged(dynamic(TWO, ONE, 5), {"s1": ({"address": ONE, "port": 6379}, 4)})
    assert f"sentinel monitor s1 {TWO} 6379 2" in lines


def test_what_left_the_list_is_forgotten() -> None:
    lines = merged(dynamic(ONE, TWO, 5), place=site(ONE, THREE))
    assert not any("known-replica" in line for line in lines)
    assert f"sentinel known-sentinel s1 {TWO} 26379 abcdef" in lines
    assert not any("192.0.2.9" in line or "gone" in line for line in lines)


def test_a_master_that_left_the_list_stays_until_its_replica_took_over() -> None:
    lines = merged(dynamic("192.0.2.9", TWO, 5))
    assert "sentinel monitor s1 192.0.2.9 6379 2" in lines
    assert f"sentinel known-replica s1 {TWO} 6379" in lines


def test_a_shard_that_moved_as_a_whole_starts_at_its_first_node() -> None:
    assert f"sentinel monitor s1 {ONE} 6379 2" in merged(dynamic("192.0.2.8", "192.0.2.9", 5))


def test_accounts_change_by_commands_that_throw_nobody_out() -> None:
    text = "user default off -@all\n\nuser application on #abc ~* &* +get\n"
    assert tool.account_commands(text) == [
        ["ACL", "SETUSER", "default", "reset", "off", "-@all"],
        ["ACL", "SETUSER", "application", "reset", "on", "#abc", "~*", "&*", "+get"],
    ]


# --- server-side cluster ------------------------------------------------------------------------------

PRIMARIES = {"redis1": ONE, "redis2": TWO, "redis3": THREE}


class Cluster:
    """Servers that do as they are told, as far as the plan can see."""

    def __init__(self) -> None:
        names = list(PRIMARIES)
        self.nodes = {
            (name, host): {"name": host, "address": PRIMARIES[host], "port": port}
            for index, name in enumerate(names)
            for host, port in ((name, 6379), (names[(index + 1) % 3], 6380))
        }
        self.ids = {self.at(node): f"id-{name}-{host}" for (name, host), node in self.nodes.items()}
        self.known: set[str] = set()
        self.leader: dict[str, str] = {}
        self.slots: dict[str, set[int]] = {name: set() for name in self.ids.values()}
        self.ghosts: set[str] = set()
        self.site = site()
        self.site.shards = {
            name: {"nodes": [node for (shard, _host), node in self.nodes.items() if shard == name]} for name in names
        }

    @staticmethod
    def at(node: dict[str, Any]) -> tuple[str, int]:
        return str(node["address"]), int(node["port"])

    def members(self) -> dict[tuple[str, str], Any]:
        return {place: self.member(node) for place, node in self.nodes.items()}

    def member(self, node: dict[str, Any]) -> Any:
        own = self.ids[self.at(node)]
        member = tool.Member.__new__(tool.Member)
        member.node, member.id, member.lines = node, own, []
        for identity in {own} | (self.known if own in self.known else set()):
            leader = self.leader.get(identity)
            flags = ("slave" if leader else "master") + (",myself" if identity == own else "")
            bounds = tool.ranges(self.slots[identity])
            runs = [f"{first}-{last}" for first, last in zip(bounds[::2], bounds[1::2], strict=True)]
            member.lines.append([identity, "a:1@2", flags, leader or "-", "0", "0", "0", "connected", *runs])
        member.lines += [[ghost, "a:1@2", "master,fail", "-", "0", "0", "0", "disconnected"] for ghost in self.ghosts]
        return member

    def obey(self) -> int:
        """Carry out the plan until there is none; return the number of commands."""
        count = 0
        while plan := tool.cluster_plan(self.site, self.members()):
            for node, words in plan:
                count += 1
                assert count < 100, plan
                own = self.ids[self.at(node)]
                match words[1:]:
                    case ["MEET", address, port]:
                        self.known |= {own, self.ids[address, int(port)]}
                    case ["REPLICATE", leader]:
                        self.leader[own] = leader
                    case ["ADDSLOTSRANGE", *bounds]:
                        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
                            self.slots[own] |= set(range(int(first), int(last) + 1))
                    case ["FORGET", ghost]:
                        self.ghosts.discard(ghost)
        return count


def test_a_cluster_is_formed_once() -> None:
    cluster = Cluster()
    cluster.obey()
    firsts = [f"id-{name}-{name}" for name in PRIMARIES]
    assert sorted(slot for name in firsts for slot in cluster.slots[name]) == list(range(tool.SLOTS))
    assert max(len(cluster.slots[name]) for name in firsts) - min(len(cluster.slots[name]) for name in firsts) <= 2
    assert set(cluster.leader.values()) == set(firsts)
    # Each replica follows the primary of its own shard, on another host.
    assert cluster.leader["id-redis1-redis2"] == "id-redis1-redis1"
    assert cluster.obey() == 0


def test_a_cluster_keeps_what_a_fail_over_decided_and_takes_a_new_server_in() -> None:
    cluster = Cluster()
    cluster.obey()
    old, heir = "id-redis1-redis1", "id-redis1-redis2"
    cluster.slots[heir], cluster.slots[old] = cluster.slots[old], set()
    cluster.leader.pop(heir)
    cluster.leader[old] = heir
    assert cluster.obey() == 0
    # The old one's host is built anew: another identity, which nobody knows, and the old one is a ghost.
    place = (ONE, 6379)
    cluster.ids[place] = "id-new"
    cluster.slots["id-new"] = set()
    cluster.known.discard(old)
    cluster.leader.pop(old)
    cluster.ghosts = {old}
    assert cluster.obey() > 0
    assert cluster.ghosts == set()
    assert cluster.leader["id-new"] == heir
    assert len(cluster.slots[heir]) > 0
    assert cluster.obey() == 0


def test_a_shard_without_a_replica_is_not_handed_over_and_its_writes_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def ask(_node: Any, _access: Any, *words: str) -> Any:
        asked.append(" ".join(words))
        if words[0] == "ROLE":
            return ["master", 5, []]
        return ["ip", ONE, "port", "6379", "config-epoch", "1"]

    monkeypatch.setattr(tool, "ask", ask)
    with pytest.raises(Problem, match="no replica follows redis1, nobody can take over"):
        tool.failover(site(ONE), "s1")
    assert not [words for words in asked if words.startswith("CLIENT")]


@pytest.mark.parametrize(
    ("work", "problems", "code"),
    [({"start": []}, [], 0), ({"start": ["a.service"]}, [], 2), ({"start": []}, ["no answer"], 2)],
)
def test_whether_anything_is_left_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    work: dict[str, list[str]],
    problems: list[str],
    code: int,
) -> None:
    monkeypatch.setattr(tool, "todo", lambda _site: work)
    monkeypatch.setattr(tool, "inspect", lambda _site: ({"s1": "master"}, problems))
    started = time.monotonic()
    assert tool.settled(site(ONE)) == code
    assert time.monotonic() - started < 1
    said = json.loads(capsys.readouterr().out)
    texts = [problem["text"] for problem in said["problems"]]
    assert (said["todo"], texts, said["roles"]) == (work, problems, {"s1": "master"})
