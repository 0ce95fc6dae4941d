"""Suspended agents, and the epoch that a restore begins: what each command refuses, and in which order it acts.

The store is a dictionary behind the client's methods; the server is a fake that says what it is.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import (
    agent,
    ask,
    board,
    cli,
    data,
    news,
    observe,
    reseed,
    seed,
    suspend,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import config as settings
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import arbiter
from ansible_collections.webstack.ha.plugins.module_utils.webstack.quorum import store as quorum

PAIR = arbiter.State(3, "db1", "db2", "life", turn=5, moved=7.0)
MEMBER = arbiter.Member("life", 3, True, "", 9, 9, False, 0.0, "")


class Store:
    """The store: what it holds, and who has written to it."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, int]] = {}
        self.revision = 10
        self.away = False

    def answer(self) -> None:
        if self.away:
            raise quorum.Unknown("no member answers")

    def put(self, key: str, text: str, _lease: int = 0, _seconds: float | None = None) -> int:
        self.answer()
        self.revision += 1
        self.held[key] = (text, self.revision)
        return self.revision

    def remove(self, key: str, _seconds: float | None = None) -> None:
        self.answer()
        self.held.pop(key, None)

    def under(self, prefix: str, _seconds: float | None = None) -> list[quorum.Value]:
        self.answer()
        return [quorum.Value(k, text, at) for k, (text, at) in self.held.items() if k.startswith(prefix)]

    def swap(self, old: quorum.Value, text: str, *_more: Any) -> quorum.Swap:
        self.answer()
        now = self.held.get(old.key, ("", 0))
        if now[1] != old.revision:
            return quorum.Swap(False, quorum.Value(old.key, *now))
        at = self.put(old.key, text)
        return quorum.Swap(True, quorum.Value(old.key, text, at))

    @property
    def state(self) -> arbiter.State | None:
        return arbiter.decode(self.held[board.STATE][0])


class Site:
    """db1, the writer, whose data is a restored copy; what is done is written down in `did`."""

    def __init__(self, home: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
        self.store = Store()
        self.store.put(board.STATE, arbiter.encode(PAIR, "test"))
        self.did: list[str] = []
        self.read_only = True
        self.epoch = 2
        self.config: Any = SimpleNamespace(
            node=settings.Node("db1", "192.0.2.1", 3306), peer=settings.Node("db2", "192.0.2.2", 3306), decided=True,
            mode="auto", datadir=home, rest=3600.0, socket="/none", writer_address="", reseeds=True, seed_seconds=60.0,
        )  # fmt: skip
        data.not_placed(home)
        patch.setattr(lock, "FOLDER", home / "run")
        patch.setattr(board, "connect", lambda _seconds: self.store)
        for module in (ask, news):
            patch.setattr(module, "SAID", home / "agent.json")
        patch.setattr(suspend, "local_session", lambda *_: None)
        patch.setattr(suspend, "look", lambda _session: {"read_only": self.read_only, "replica": None})
        patch.setattr(suspend, "epoch_of", lambda _session: self.epoch)
        patch.setattr(suspend, "write_epoch", self.write_epoch)
        patch.setattr(suspend, "start_server", lambda: self.did.append("start"))
        patch.setattr(suspend, "wait_for", lambda *_: self.did.append("open"))

    def write_epoch(self, _session: Any, epoch: int) -> None:
        assert self.store.state is not None
        self.did.append(f"stamp {epoch}, the store says {self.store.state.epoch}")
        assert not data.is_placed(self.config.datadir)

    def reports(self, host: str, suspended: bool) -> None:
        self.store.put(f"{board.MEMBERS}{host}", arbiter.encode_report(MEMBER._replace(suspended=suspended)))

    def suspended(self) -> None:
        self.store.put(board.SUSPENDED, "db2")


@pytest.fixture
def site(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield Site(tmp_path, monkeypatch)


# --- suspend ----------------------------------------------------------------------------------------


def test_suspend_waits_for_every_agent_that_reports(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.reports("db1", True)
    site.reports("db2", True)
    suspend.suspend(site.config, True, 1)
    assert site.store.held[board.SUSPENDED][0] == "db1"
    assert "suspended" in capsys.readouterr().out


def test_suspend_takes_it_back_when_an_agent_is_at_work(site: Site) -> None:
    site.reports("db1", True)
    site.reports("db2", False)
    with pytest.raises(Problem, match=r"db2 has not taken it up within 0 s: is it at work.*the agents go on"):
        suspend.suspend(site.config, True, 0)
    assert board.SUSPENDED not in site.store.held


def test_what_was_suspended_before_stays_so(site: Site) -> None:
    site.suspended()
    site.reports("db2", False)
    with pytest.raises(Problem, match="db2 has not taken it up within 0 s: is it at work"):
        suspend.suspend(site.config, True, 0)
    assert board.SUSPENDED in site.store.held


def test_a_host_without_a_report_is_not_waited_for(site: Site) -> None:
    suspend.suspend(site.config, True, 0)
    assert board.SUSPENDED in site.store.held


def test_without_the_store_nothing_is_suspended(site: Site) -> None:
    site.store.away = True
    with pytest.raises(quorum.Unknown):
        suspend.suspend(site.config, True, 1)


def test_suspend_off_waits_until_the_writer_of_this_host_is_open(site: Site) -> None:
    site.suspended()
    suspend.suspend(site.config, False, 1)
    assert board.SUSPENDED not in site.store.held
    assert site.did == ["open"]


def test_where_a_person_decides_there_is_nothing_to_suspend(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.config.decided = False
    site.store.away = True
    suspend.suspend(site.config, True, 1)
    assert "nothing to suspend" in capsys.readouterr().out


@pytest.mark.parametrize("decided", [True, False])
def test_a_person_starts_the_server_only_while_the_agents_are_suspended(site: Site, decided: bool) -> None:
    site.config.decided = decided
    if decided:
        with pytest.raises(Problem, match="the agent starts this server"):
            suspend.start(site.config)
        assert site.did == []
        site.suspended()
    suspend.start(site.config)
    assert site.did == ["start"]


def test_what_nobody_would_do_is_refused(site: Site, tmp_path: pathlib.Path) -> None:
    site.suspended()
    (tmp_path / "agent.json").write_text('{"suspended": "db2"}')

    def restart() -> None:
        with ask.set_aside(site.config):
            pytest.fail("it was restarted")

    for act in (
        lambda: ask.switchover(site.config, "", 1),
        lambda: ask.maintenance(site.config, True, 1),
        restart,
    ):
        with pytest.raises(Problem, match="the agents are suspended, on db2"):
            act()
    site.store.put(board.STATE, arbiter.encode(PAIR._replace(writer="db2", replica="db1"), "test"))
    with pytest.raises(Problem, match="the agents are suspended, on db2"):
        ask.promote(site.config, True, True, 1)
    # The end of maintenance is no decision.
    ask.maintenance(site.config, False, 1)


# --- a restored server ------------------------------------------------------------------------------


@pytest.mark.parametrize(("of_data", "begins"), [(2, 4), (3, 4), (0, 4), (8, 9)])
def test_a_restore_begins_an_epoch_that_neither_store_nor_data_has_had(site: Site, of_data: int, begins: int) -> None:
    site.suspended()
    site.epoch = of_data
    suspend.restored(site.config, 1)
    assert site.store.state == arbiter.State(begins, "db1", turn=6, opener="db1", moved=7.0)
    # First nobody else is the writer, then the data says so, and only then it counts.
    assert site.did == [f"stamp {begins}, the store says {begins}"]
    assert data.is_placed(site.config.datadir)


def test_a_restore_onto_the_other_host_makes_that_the_writer(site: Site) -> None:
    site.suspended()
    site.config.node, site.config.peer = site.config.peer, site.config.node
    suspend.restored(site.config, 1)
    assert site.store.state is not None
    assert (site.store.state.writer, site.store.state.replica) == ("db2", "")


@pytest.mark.parametrize("reason", ["awake", "open", "no value", "changed", "away"])
def test_what_a_restored_server_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    words = {
        "awake": "the agents are not suspended",
        "open": "this server accepts writes",
        "no value": "the quorum holds no value",
        "changed": "was changed at this moment",
        "away": "no member answers",
    }[reason]
    if reason != "awake":
        site.suspended()
    site.read_only = reason != "open"
    if reason == "no value":
        del site.store.held[board.STATE]
    if reason == "changed":
        monkeypatch.setattr(board.Board, "swap", lambda *_: None)
    site.store.away = reason == "away"
    with pytest.raises(Problem, match=words):
        suspend.restored(site.config, 1)
    assert site.did == []
    assert not data.is_placed(site.config.datadir)


def test_where_a_person_decides_it_is_a_forced_promotion(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.config.decided = False
    monkeypatch.setattr(suspend, "promote", lambda _config, force, seconds: site.did.append(f"{force} {seconds:g}"))
    suspend.restored(site.config, 5)
    assert site.did == ["True 5"]
    assert data.is_placed(site.config.datadir)


def test_the_first_number_of_an_epoch_is_the_one_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    # CREATE TABLE IF NOT EXISTS is logged, too.
    did: list[str] = []
    session: Any = SimpleNamespace(run=lambda *statements, **_: did.extend(statements))
    monkeypatch.undo()
    from ansible_collections.webstack.ha.plugins.module_utils.webstack.db.acts import EPOCH_STEP, write_epoch

    write_epoch(session, 4)
    assert [one.partition(" (")[0] for one in did] == [
        "SET SESSION sql_log_bin = 1",
        f"SET SESSION gtid_seq_no = {4 * EPOCH_STEP}",
        "CREATE TABLE IF NOT EXISTS mysql.webstack_epoch",
        "REPLACE INTO mysql.webstack_epoch VALUES",
        "SET SESSION sql_log_bin = 0",
    ]


def test_the_commands_are_there() -> None:
    options = cli.parser().parse_args(["suspend", "on"])
    assert (options.wanted, options.wait) == ("on", 60)
    for words in (["start"], ["restored", "--wait", "3"], ["suspend", "off", "--wait", "3"]):
        cli.parser().parse_args(words)


# --- the agent --------------------------------------------------------------------------------------


class Quiet(agent.Agent):
    """The agent of db1, whose looks are given and whose acts are written down."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.config)
        self.own = observe.DOWN._replace(
            name="db1", peer="db2", automatic=True, clock=9e9, up=True, fit=True, life="life", epoch=3
        )
        self.did = site.did
        self.board.lease = 1

    def look(self) -> arbiter.Own:
        return self.own

    def carry_out(self, action: Any, _told: Any, _why: str) -> bool:
        self.did.append(getattr(action, "name", "swap"))
        return True


@pytest.fixture
def quiet(site: Site, monkeypatch: pytest.MonkeyPatch) -> Quiet:
    monkeypatch.setattr(agent, "Heart", lambda _config: None)
    monkeypatch.setattr(board.Board, "keep", lambda _self: site.store.answer())
    return Quiet(site)


def written(site: Site) -> dict[str, Any]:
    return dict(json.loads((site.config.datadir / "agent.json").read_text()))


def test_a_suspended_agent_reports_and_does_nothing(site: Site, quiet: Quiet) -> None:
    site.suspended()
    quiet.tick()
    assert site.did == []
    assert arbiter.decode_report(site.store.held[f"{board.MEMBERS}db1"][0]).suspended
    assert written(site)["rule"] == "suspended"
    assert written(site)["why"] == "suspended on db2: 'webstack db suspend off' ends it"
    site.store.remove(board.SUSPENDED)
    quiet.tick()
    assert "OPEN" in site.did
    assert not arbiter.decode_report(site.store.held[f"{board.MEMBERS}db1"][0]).suspended


def test_without_the_store_the_last_reading_counts(site: Site, quiet: Quiet) -> None:
    site.suspended()
    quiet.tick()
    site.store.away = True
    quiet.tick()
    # And so it does for the agent's next start.
    again = Quiet(site)
    again.began = time.monotonic() - 60
    again.own = again.own._replace(up=False)
    again.tick()
    assert site.did == []
    assert written(site)["rule"] == "suspended"


def test_an_agent_that_was_never_suspended_starts_its_server_without_the_store(site: Site, quiet: Quiet) -> None:
    site.store.away = True
    quiet.began = time.monotonic() - 60
    quiet.own = quiet.own._replace(up=False)
    quiet.tick()
    assert site.did == ["START"]


def test_a_second_writer_is_fenced_all_the_same(site: Site, quiet: Quiet) -> None:
    site.suspended()
    site.store.put(board.STATE, arbiter.encode(arbiter.State(4, "db2", turn=6), "test"))
    quiet.own = quiet.own._replace(open=True)
    quiet.tick()
    assert site.did == ["FENCE"]


def test_a_copy_that_knows_no_position_is_of_no_epoch(site: Site, quiet: Quiet) -> None:
    assert observe.NO_EPOCH < 0
    quiet.own = quiet.own._replace(epoch=observe.NO_EPOCH)
    quiet.tick()
    # Neither stamped nor opened, though this host is the writer and may have opened the epoch.
    assert site.did == []
    assert written(site)["rule"] == "other_epoch"


# --- a seed without a person ------------------------------------------------------------------------


class Seeding:
    """The seeder of db2, the replica, or of db1; units and the receiver are fakes."""

    def __init__(self, site: Site, patch: pytest.MonkeyPatch) -> None:
        self.site, self.did = site, site.did
        self.active: set[str] = set()
        self.sent: list[str] = []
        self.result = site.config.datadir / "seed.json"
        patch.setattr(seed, "SEED_RESULT", self.result)
        patch.setattr(reseed, "unit_states", lambda unit: {unit: {"active": unit in self.active}})
        self.refusal = self.said = ""
        patch.setattr(reseed, "run", self.command)

    def command(self, *command: str, seconds: float, check: bool = True) -> Done:
        assert seconds
        if "receive" not in command:
            self.sent.append(" ".join(command))
        elif self.refusal:
            return Done(command, 1, "", f"webstack db receive: {self.refusal}")
        else:
            # Not as the agent, whose service may not write there.
            assert command[0] == "systemd-run"
            words = dict(word.removeprefix("--").split("=") for word in command if "=" in word)
            self.did.append(f"receive from {words['from']} aside={'--move-aside' in command} within {words['wait']}")
            self.active.add("webstack-db-seed.service")
        return Done(command, 0, self.said, "")

    def of(self, name: str) -> reseed.Seeder:
        nodes = self.site.config.node, self.site.config.peer
        own, other = nodes if nodes[0].name == name else nodes[::-1]
        return reseed.Seeder(
            SimpleNamespace(**{**vars(self.site.config), "node": own, "peer": other}),  # type: ignore[arg-type]
            board.Board(name, 1, self.site.store),  # type: ignore[arg-type]
        )


@pytest.fixture
def seeding(site: Site, monkeypatch: pytest.MonkeyPatch) -> Seeding:
    return Seeding(site, monkeypatch)


SEEDS = arbiter.Decision("seeds", "its data is of epoch 2", (arbiter.Do.SEED,))


def test_a_replica_asks_and_the_writer_sends_once(seeding: Seeding) -> None:
    replica, writer, store = seeding.of("db2"), seeding.of("db1"), seeding.site.store
    assert replica.instead(SEEDS, "") == SEEDS
    replica.begin()
    assert seeding.did == ["receive from db1 aside=True within 60"]
    asked = store.held[board.SEED][0]
    for _ in range(2):
        writer.answer(asked)
    assert [one.partition("webstack db ")[2] for one in seeding.sent] == ["send --to=db2 --wait=60"]
    waits = replica.instead(SEEDS, "")
    assert (waits.rule, waits.actions) == ("needs_seed", ())
    assert waits.why == "its data is of epoch 2; a copy of db1 is on its way"
    seeding.active.clear()
    replica.instead(arbiter.Decision("follows", "follows db1"), "")
    assert board.SEED not in store.held


def test_what_was_asked_is_asked_again_when_it_went_with_the_lease(seeding: Seeding) -> None:
    """On a busy host the receiver took longer to start than a lease lasts: it waited, and nobody was asked."""
    replica, writer, store = seeding.of("db2"), seeding.of("db1"), seeding.site.store
    store.away = True
    with pytest.raises(Problem, match="no member answers"):
        replica.begin()
    assert seeding.did == ["receive from db1 aside=True within 60"]
    for away in (True, False):
        store.away = away
        replica.looked = (0.0, "")
        assert replica.instead(SEEDS, "").why == "its data is of epoch 2; a copy of db1 is on its way"
    asked, revision = store.held[board.SEED]
    writer.answer(asked)
    # What stands there is not written again, and what went later is the same asking: nobody sends twice.
    replica.looked = (0.0, "")
    replica.instead(SEEDS, asked)
    assert store.held[board.SEED] == (asked, revision)
    del store.held[board.SEED]
    replica.looked = (0.0, "")
    replica.instead(SEEDS, "")
    writer.answer(store.held[board.SEED][0])
    assert store.held[board.SEED][0] == asked
    assert len(seeding.sent) == 1


def test_an_asking_waits_until_the_sender_of_an_earlier_one_has_ended(seeding: Seeding) -> None:
    writer = seeding.of("db1")
    seeding.active.add("webstack-db-send.service")
    asked = json.dumps({"to": "db2", "id": "1"})
    writer.answer(asked)
    assert seeding.sent == []
    seeding.active.clear()
    writer.answer(asked)
    assert len(seeding.sent) == 1


def test_nobody_is_asked_for_a_copy_that_a_person_has_begun(seeding: Seeding) -> None:
    """Two would send, and the receiver takes one of them: the other one's play failed."""
    seeding.said = "joined: a seed has begun already\n"
    replica = seeding.of("db2")
    replica.begin()
    assert board.SEED not in seeding.site.store.held
    assert replica.instead(SEEDS, "").why == "its data is of epoch 2; a copy of db1 is on its way"


def test_another_asking_is_another_copy(seeding: Seeding) -> None:
    writer = seeding.of("db1")
    for number in ("1", "2"):
        writer.answer(json.dumps({"to": "db2", "id": number}))
    assert len(seeding.sent) == 2


def test_what_the_writer_does_not_send(seeding: Seeding) -> None:
    writer = seeding.of("db1")
    writer.answer("")
    writer.answer(json.dumps({"to": "db7", "id": "1"}))
    writer.answer(json.dumps({"to": "db1", "id": "2"}))
    with pytest.raises(Problem, match="database/seed in the store cannot be read"):
        writer.answer("{}")
    seeding.active.add("webstack-db-send.service")
    writer.answer(json.dumps({"to": "db2", "id": "3"}))
    assert seeding.sent == []


@pytest.mark.parametrize(
    ("outcome", "age", "words"),
    [
        (None, 0, ""),
        ({"ok": True}, 60, "the last seed ended; the next one begins 10 min after it"),
        ({"ok": False, "error": "no room"}, 60, "the last seed failed: no room; the next one begins 10 min after it"),
        ({"ok": False, "error": "no room"}, 700, ""),
        # It has moved nothing, and cost nothing.
        ({"ok": False, "error": "nothing came: x", "came": False}, 20, "x; the next one begins 30 s after it"),
        ({"ok": False, "error": "nothing came: x", "came": False}, 40, ""),
    ],
)
def test_seeds_do_not_follow_each_other(
    seeding: Seeding, outcome: dict[str, Any] | None, age: float, words: str
) -> None:
    if outcome is not None:
        seeding.result.write_text(json.dumps(outcome))
        os.utime(seeding.result, (time.time() - age, time.time() - age))
    found = seeding.of("db2").instead(SEEDS, "")
    assert words in found.why
    assert bool(found.actions) == (not words)


def test_without_the_permission_a_person_seeds(seeding: Seeding) -> None:
    seeding.site.config.reseeds = False
    found = seeding.of("db2").instead(SEEDS, "")
    assert (found.rule, found.actions) == ("needs_seed", ())
    assert "seed it from db1 (playbook reseed.yml)" in found.why


def test_what_the_receiver_refuses_is_asked_of_nobody_and_not_tried_at_every_look(seeding: Seeding) -> None:
    seeding.refusal = "there are 3 MiB free"
    replica = seeding.of("db2")
    with pytest.raises(Problem, match="3 MiB free"):
        replica.begin()
    assert board.SEED not in seeding.site.store.held
    waits = replica.instead(SEEDS, "")
    assert (waits.rule, waits.actions) == ("needs_seed", ())
    assert "3 MiB free" in waits.why


def test_the_end_of_a_seed_is_no_trouble_without_the_store(seeding: Seeding) -> None:
    replica = seeding.of("db2")
    replica.begin()
    seeding.active.clear()
    seeding.site.store.away = True
    follows = arbiter.Decision("follows", "follows db1")
    assert replica.instead(follows, "") == follows


def test_the_agent_seeds_an_empty_directory_and_the_other_one_answers(
    site: Site, quiet: Quiet, seeding: Seeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quiet, "carry_out", agent.Agent.carry_out)
    site.reports("db2", False)
    site.store.put(board.STATE, arbiter.encode(arbiter.State(3, "db2", turn=6), "test"))
    site.config.datadir = site.config.datadir / "lib"
    quiet.own = observe.DOWN._replace(name="db1", peer="db2", empty=True)
    quiet.tick()
    quiet.tick()
    assert site.did == ["receive from db2 aside=True within 60"]
    assert json.loads(site.store.held[board.SEED][0])["to"] == "db1"
    # And as the writer: only while it is open, and not while it is suspended.
    seeding.active.clear()
    quiet.seeder.asked = ""
    site.store.put(board.STATE, arbiter.encode(PAIR, "test"))
    site.store.put(board.SEED, json.dumps({"to": "db2", "id": "1"}))
    quiet.own = WRITES._replace(open=False)
    monkeypatch.setattr(Quiet, "carry_out", lambda *_: True)
    quiet.tick()
    site.suspended()
    quiet.own = WRITES
    quiet.tick()
    assert seeding.sent == []
    site.store.remove(board.SUSPENDED)
    quiet.tick()
    assert len(seeding.sent) == 1


WRITES = observe.DOWN._replace(name="db1", peer="db2", up=True, fit=True, life="life", epoch=3, open=True, address=True)
