"""Two database hosts and their store, as small as the danger allows: what a schedule of faults is played on.

A schedule is a string of bytes, two for a step: what happens, and how. Nothing here knows seconds: whether the other
one counts as silent, a lease as ended or a write as stalled is up to the schedule, since clocks must not decide
safety. The same schedule always ends in the same way, and stays one when steps are taken out of it.

Each host has a server (rows in its log, rows received and not applied), an agent (what it read, what it was about to
do) and a reach to the other host and to the store. The agent reads, decides and carries out its list step by step, and
anything may happen between two steps. A swap may be lost, may arrive and lose its answer, or may arrive later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import (
    UNREAD,
    Decision,
    Do,
    Limits,
    Member,
    Note,
    Own,
    State,
    Swap,
    View,
    Wish,
    report,
)

Decide = Callable[[Own, View, Limits], Decision]
#: Between two automatic promotions nothing has to pass here; the rule has a unit test of its own.
LIMITS = Limits(rest=0.0)
NEVER_READ = View(9.0, UNREAD, None, None)
LONG = 9.0


class Violation(AssertionError):
    """What must never be."""


class Host:
    __slots__ = (
        "ackable", "acked", "address", "agent_started", "applying", "automatic", "broken", "cut", "down", "epoch",
        "frozen", "full", "hiccup", "life", "linked", "log", "mark", "name", "number", "opened", "other", "pending",
        "queue", "queue_life", "read", "receiving", "relay", "semi", "told", "truncated", "up", "view", "wrote",
    )  # fmt: skip
    other: Host

    def __init__(self, number: int) -> None:
        self.name = "ab"[number]
        self.number = number
        # The server: rows are numbered by their place, and each carries its own number and its server's.
        self.log: list[int] = []
        self.relay: list[int] = []
        self.epoch = 1
        self.life = number + 1
        self.up = True
        self.opened = self.address = self.semi = self.linked = self.receiving = self.truncated = False
        self.applying = True
        self.broken = ""
        self.wrote = 0
        self.acked = self.ackable = 0
        self.down = self.frozen = self.cut = self.full = self.hiccup = False
        # The agent.
        self.automatic = True
        self.agent_starts()

    def agent_starts(self) -> None:
        self.queue: list[Any] = []
        self.queue_life = 0
        self.told: Member | None = None
        self.view = NEVER_READ
        self.pending: int | None = None
        self.mark: tuple[int, int] | None = None
        self.read = False
        self.agent_started = True

    def server_dies(self) -> None:
        self.up = self.opened = self.semi = self.receiving = False
        self.relay = []
        self.life = 0
        self.acked = self.ackable = 0


def holds(rows: list[int], position: int, row: int) -> bool:
    return not position or (len(rows) >= position and rows[position - 1] == row)


class World:
    def __init__(self, decide: Decide, strict: bool = True) -> None:
        self.decide = decide
        #: MariaDB refuses a link when the replica has rows that the writer lacks; MySQL says that all is well.
        self.strict = strict
        self.a = a = Host(0)
        self.b = b = Host(1)
        a.other, b.other = b, a
        self.hosts = {"a": a, "b": b}
        self.rows = self.lives = 2
        a.log, b.log = [2, 4], [2, 4]
        a.opened = a.address = a.semi = True
        b.linked = b.receiving = b.truncated = True
        a.wrote = 2
        #: The last acknowledged row: its place and its number.
        self.place, self.row = 2, 4
        a.acked = a.ackable = 2
        self.revision = 1
        self.state = State(1, "a", "b", 2)  # type: ignore[arg-type]
        self.reports: dict[str, Member | None] = {"a": None, "b": None}
        self.flight: list[tuple[Swap, str, Member | None]] = []
        self.wish: Wish | None = None
        self.paused = False
        self.maintenance: tuple[str, ...] = ()
        self.cut = False
        self.trace: list[str] | None = None

    # --- what is true -------------------------------------------------------------------------------

    def connected(self, h: Host) -> bool:
        """Whether h receives from the other one."""
        o = h.other
        return h.receiving and h.up and o.up and not (self.cut or h.frozen or o.frozen)

    def contained(self, h: Host) -> bool:
        """As servers compare: by the last row's place and the server that wrote it."""
        mine, theirs = h.log + h.relay, h.other.log
        return not mine or (len(mine) <= len(theirs) and not (mine[-1] ^ theirs[len(mine) - 1]) & 1)

    def look(self, h: Host) -> Own:
        o = h.other
        applied = len(h.log)
        received = applied + len(h.relay)
        follows = self.connected(h)
        followed = o.receiving and h.up and o.up and not self.cut
        stalled = LONG if h.hiccup or o.frozen or not followed else 0.0
        contained = None
        if not h.linked and h.up and o.up and not (self.cut or o.frozen):
            contained = self.contained(h)
        return Own(
            h.name, o.name, h.automatic, 0.0, h.up, not h.full, h.life, h.epoch, h.opened, h.address, h.semi, followed,
            stalled, o.name if h.linked else "", h.receiving, 0.0 if follows and not h.hiccup else LONG, received,
            applied, h.applying, 0.0 if received + 3 >= len(o.log) else LONG, h.broken, h.truncated, contained,
            h.pending, h.mark,
        )  # type: ignore[arg-type]  # fmt: skip

    def age(self, h: Host) -> float:
        """How old what h has read is, while it does not reach the store."""
        return LONG

    def check(self) -> None:
        a, b, state = self.a, self.b, self.state
        if a.opened and b.opened and (
            not (a.semi or b.semi)
            or (not a.semi and self.connected(a))
            or (not b.semi and self.connected(b))
        ):  # fmt: skip
            raise Violation("two can acknowledge")
        writer = self.hosts[state.writer]
        if writer.epoch == state.epoch and not holds(writer.log, self.place, self.row):
            raise Violation(f"the writer {writer.name} lacks acknowledged row {self.place}")
        if state.replica:
            replica = self.hosts[state.replica]
            if (
                replica.life == state.life
                and replica.epoch == state.epoch
                and not holds(replica.log, self.place, self.row)
                and not holds(replica.log + replica.relay, self.place, self.row)
            ):
                raise Violation(f"the store counts on {replica.name}, which lacks acknowledged row {self.place}")

    def acknowledge(self, h: Host, place: int) -> None:
        if not holds(h.log, self.place, self.row):
            # Frozen meanwhile, it may still pass on what the other one acknowledged before that was promoted.
            writer = self.hosts[self.state.writer]
            if writer is not h and h.semi and holds(writer.log, place, h.log[place - 1]):
                h.acked = place
                return
            raise Violation(f"{h.name} acknowledges row {place} and lacks acknowledged row {self.place}")
        h.acked = place
        if place > self.place:
            self.place, self.row = place, h.log[place - 1]

    def forget(self, kept: list[int]) -> None:
        """Rows may be lost here: what counts from now on is what these still have."""
        if not holds(kept, self.place, self.row):
            self.place = min(self.place, len(kept))
            self.row = kept[self.place - 1] if self.place else 0

    # --- the store ----------------------------------------------------------------------------------

    def arrives(self, swap: Swap, sender: str, told: Member | None) -> bool:
        """One transaction: the value, and beside it what its sender says about itself."""
        if swap.revision != self.revision:
            return False
        old, new = self.state, swap.state
        if new.epoch > old.epoch:
            self.forget(self.hosts[new.writer].log)
        self.state = new
        self.revision += 1
        self.reports[sender] = told
        return True

    # --- the agent ----------------------------------------------------------------------------------

    def step(self, h: Host, how: int, whole: bool) -> None:
        """One step of an agent: it reads, or decides, or does the next thing; or all of these."""
        if h.down or h.frozen:
            return
        if not h.queue:
            own = None
            if not h.read:
                h.read = True
                own = self.look(h)
                if h.cut:
                    h.view = View(self.age(h), *h.view[1:])
                else:
                    self.reports[h.name] = report(own)
                    h.view = View(
                        0.0, self.revision, self.state, self.reports[h.other.name], self.wish, self.paused,
                        self.maintenance,
                    )  # fmt: skip
                    if h.agent_started:
                        h.agent_started = False
                        h.pending = self.revision
                        own = None
                if not whole:
                    return
            h.read = False
            own = own or self.look(h)
            decision = self.decide(own, h.view, LIMITS)
            if decision.rule == "promotes":
                self.may_promote(own, h.view)
            elif decision.rule == "hands_over":
                self.may_leave(own, h.view)
            h.queue = list(decision.actions)
            h.queue_life = h.life
            h.told = report(own)
            if self.trace is not None:
                self.trace.append(f"    {h.name}: {decision.rule}: {decision.why} {decision.actions}")
            if not whole:
                return
        while h.queue:
            action = h.queue.pop(0)
            # A list is for one run of the server: its session ends with it.
            if h.life != h.queue_life or not self.act(h, action, how):
                h.queue = []
            if not whole:
                return

    def may_promote(self, own: Own, view: View) -> None:
        asked = view.wish is not None and view.wish.to == own.name
        if view.paused and not asked:
            raise Violation(f"{own.name} promotes itself during a pause")
        if not own.automatic and not asked:
            raise Violation(f"{own.name} promotes itself though the mode is assisted")
        if own.name in view.maintenance:
            raise Violation(f"{own.name} promotes itself during its maintenance")
        if not own.fit:
            raise Violation(f"{own.name} promotes itself and cannot write")
        if own.broken:
            raise Violation(f"{own.name} promotes itself and has wrong rows")

    def may_leave(self, own: Own, view: View) -> None:
        assert view.state is not None
        asked = view.wish is not None and view.wish.to == own.peer and view.wish.turn == view.state.turn
        planned = own.name in view.maintenance
        if not asked and (view.paused or not planned):
            raise Violation(f"{own.name} hands over and nobody asked for it")
        if own.peer in view.maintenance:
            raise Violation(f"{own.name} hands over to one in maintenance")

    def swap(self, h: Host, swap: Swap, how: int) -> bool:
        if h.cut or how & 7 == 1:
            h.pending = swap.revision
            if not h.cut or how & 1:
                self.flight.append((swap, h.name, h.told))
            return False
        done = self.arrives(swap, h.name, h.told)
        if how & 15 == 2:
            h.pending = swap.revision
            return False
        if done:
            h.pending = None
            h.view = View(0.0, self.revision, swap.state, *h.view[3:])
        return done

    def act(self, h: Host, action: Any, how: int) -> bool:
        if type(action) is Swap:
            return self.swap(h, action, how)
        if type(action) is Note:
            h.mark = (action.life, action.position)  # type: ignore[assignment]
            return True
        if action is Do.START or action is Do.START_AS_REPLICA:
            return self.start(h, action is Do.START_AS_REPLICA, how)
        if action is Do.WITHDRAW:
            h.address = False
            return True
        if not h.up:
            return False
        if action is Do.OPEN:
            if not h.opened:
                h.opened = True
                h.wrote = len(h.log)
                h.acked = h.ackable = len(h.log)
            h.address = True
            h.linked = h.receiving = False
            h.relay = []
        elif action is Do.CLOSE:
            h.opened = h.address = False
            h.acked = h.ackable = len(h.log)
        elif action is Do.FENCE:
            # An open one that was counted on by older news only loses what nobody can have acknowledged.
            if self.counted(h) and not h.opened:
                raise Violation(f"{h.name} kills its server while the store counts on its rows")
            h.server_dies()
            h.address = False
        elif action is Do.SEMI_SYNC_ON:
            h.semi = True
            h.mark = None
        elif action is Do.SEMI_SYNC_OFF:
            h.semi = False
            h.mark = None
            if h.opened and h.acked < len(h.log):
                self.acknowledge(h, len(h.log))
        elif action is Do.STOP_RECEIVING:
            h.receiving = False
        elif action is Do.RECEIVE:
            h.receiving = h.linked
        elif action is Do.APPLY:
            h.applying = not h.broken
        elif action is Do.LINK:
            h.linked = h.receiving = h.applying = True
        elif action is Do.SEED:
            return self.seed(h)
        elif action is Do.NEW_EPOCH:
            h.epoch = self.state.epoch
        return True

    def start(self, h: Host, as_replica: bool, how: int) -> bool:
        if h.up:
            return False
        self.lives += 1
        h.life = self.lives
        h.up = True
        h.truncated = as_replica
        h.applying = not h.broken
        if as_replica and h.wrote:
            # What is in the binary log and not yet in the tables is cut off: also rows that were acknowledged.
            del h.log[max(h.wrote, len(h.log) - (how >> 4 & 3)) :]
            h.wrote = 0
        h.acked = h.ackable = len(h.log)
        return True

    def counted(self, h: Host) -> bool:
        return self.state.replica == h.name and self.state.life == h.life

    def seed(self, h: Host) -> bool:
        """Throws its rows away, and has the other's if that one can be copied to the end."""
        o = h.other
        if self.counted(h):
            raise Violation(f"{h.name} throws its rows away while the store counts on them")
        if not o.up or self.cut or o.frozen:
            return False
        self.lives += 1
        h.life = self.lives
        h.log, h.relay, h.epoch = list(o.log), [], o.epoch
        h.linked = h.receiving = h.applying = h.truncated = True
        h.broken = ""
        h.wrote = 0
        return True

    # --- the servers --------------------------------------------------------------------------------

    def write(self, h: Host) -> None:
        if h.opened and h.up and not (h.frozen or h.full):
            self.rows += 1
            h.log.append(self.rows * 2 + h.number)
            if not h.semi:
                self.acknowledge(h, len(h.log))

    def replicate(self, h: Host, how: int) -> None:
        if h.full or not self.connected(h):
            return
        o = h.other
        if self.strict and not self.contained(h):
            h.broken = "the link has an error"
            h.receiving = False
            return
        place = len(h.log) + len(h.relay)
        if place < len(o.log):
            h.relay.append(o.log[place])
            o.ackable = place + 1
            if how & 3:
                self.hear(o)

    def hear(self, h: Host) -> None:
        """An acknowledgement arrives, maybe long after it was sent."""
        if h.up and h.opened and h.semi and not h.frozen and h.acked < h.ackable <= len(h.log):
            self.acknowledge(h, h.ackable)

    def apply(self, h: Host, how: int) -> None:
        if h.up and h.applying and not h.frozen and not h.broken and h.relay:
            count = len(h.relay) if how & 1 else 1
            h.log += h.relay[:count]
            del h.relay[:count]

    # --- what a schedule is made of -----------------------------------------------------------------

    def happen(self, what: int, how: int) -> None:
        STEPS[what](self, self.b if how & 128 else self.a, how)
        self.check()

    def play(self, schedule: bytes) -> None:
        a, b, check, steps = self.a, self.b, self.check, STEPS
        for at in range(0, len(schedule) - 1, 2):
            how = schedule[at + 1]
            steps[schedule[at]](self, b if how & 128 else a, how)
            check()

    # --- the end ------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.cut = False
        for sent in self.flight:
            self.arrives(*sent)
        self.flight = []
        self.wish, self.paused, self.maintenance = None, False, ()
        for h in (self.a, self.b):
            if h.down:
                power(self, h, 0)
            h.frozen = h.cut = h.full = h.hiccup = False
            h.automatic = True

    def round(self) -> None:
        for h in (self.a, self.b):
            self.step(h, 0, True)
            self.check()
            for _ in range(4):
                self.replicate(h, 3)
            self.apply(h, 1)
            self.check()

    def whole(self) -> bool:
        state = self.state
        w, r = self.hosts[state.writer], self.hosts[state.writer].other
        return (
            state.replica == r.name
            and state.life == r.life
            and w.opened
            and w.address
            and w.semi
            and not (r.opened or r.address or r.semi)
            and self.connected(r)
            and r.log == w.log
        )

    def past_help(self) -> bool:
        """The only one that holds everything has lost its data: a person decides."""
        state = self.state
        w = self.hosts[state.writer]
        if w.epoch == state.epoch or (state.opener == w.name and w.epoch == state.epoch - 1):
            return False
        return not (state.replica and w.other.life == state.life and not w.other.broken)

    def recover(self, rounds: int = 40) -> None:
        """Once everything works, the pair is whole again and takes writes, without a person."""
        self.heal()
        for _ in range(rounds):
            self.round()
            if self.whole():
                break
        else:
            if self.past_help():
                return
            raise Violation(f"stuck: {self.state}, {[self.look(h) for h in (self.a, self.b)]}")
        before = self.place
        self.write(self.hosts[self.state.writer])
        self.round()
        if self.place <= before and self.place != len(self.hosts[self.state.writer].log):
            raise Violation("the pair is whole and does not acknowledge")


def power(world: World, h: Host, how: int) -> None:
    """The host loses its power, or has it back."""
    h.down = not h.down
    if h.down:
        h.server_dies()
        h.address = False
        h.queue = []
        relax(world, h)
    else:
        h.agent_starts()
        if world.wish is not None and world.wish.peer_is_off:
            world.wish = None


def restart(world: World, h: Host, how: int) -> None:
    """systemd was faster than the agent."""
    if h.up:
        kill(world, h, how)
        world.start(h, False, how)


def kill(world: World, h: Host, how: int) -> None:
    if h.up:
        h.server_dies()
        relax(world, h)


def relax(world: World, h: Host) -> None:
    """Rows that were received and not applied are gone with h. If the other one's disk is gone, they are lost."""
    o = h.other
    if o.epoch < 0:
        world.forget(h.log)


def wipe(world: World, h: Host, how: int) -> None:
    """A new disk, or a new host. The other one is left with what it has."""
    if how & 7 or h.epoch < 0 or h.other.epoch != world.state.epoch:
        return
    o, state = h.other, world.state
    counted = state.writer == o.name or (state.replica == o.name and state.life == o.life)
    h.down = False
    power(world, h, 0)
    h.log, h.epoch, h.linked, h.broken, h.wrote = [], -1, False, "", 0
    if not counted:
        # By force or after a seed from here, nothing else is left; what nobody else had is lost.
        world.forget(o.log + o.relay)
        if o.epoch < 0:
            world.forget([])


def restore(world: World, h: Host, how: int) -> None:
    """A restore on the writer: first the store, then the data; the other one only finds out."""
    state = world.state
    if how & 3 or state.writer != h.name or h.cut or h.down or h.frozen or h.epoch != state.epoch or len(h.log) < 2:
        return
    h.server_dies()
    h.queue, h.read = [], False
    h.address = False
    del h.log[len(h.log) - (how >> 4 & 1) - 1 :]
    h.epoch, h.wrote = state.epoch + 1, 0
    world.arrives(Swap(world.revision, State(h.epoch, h.name, turn=state.turn + 1)), h.name, None)


def cut_off(world: World, h: Host, how: int) -> None:
    h.cut = not h.cut


def part(world: World, h: Host, how: int) -> None:
    world.cut = not world.cut


def freeze(world: World, h: Host, how: int) -> None:
    h.frozen = not h.frozen


def restart_agent(world: World, h: Host, how: int) -> None:
    h.agent_starts()


def expire(world: World, h: Host, how: int) -> None:
    world.reports[h.name] = None


def stop_applying(world: World, h: Host, how: int) -> None:
    if h.linked:
        h.applying = False
        if how & 1:
            h.broken = "the applier has an error"


def fill(world: World, h: Host, how: int) -> None:
    h.full = not h.full


def hiccup(world: World, h: Host, how: int) -> None:
    h.hiccup = not h.hiccup


def ask(world: World, h: Host, how: int) -> None:
    world.wish = Wish(world.state.turn, h.name) if how & 3 else None


def force(world: World, h: Host, how: int) -> None:
    if how & 1:
        world.wish = Wish(world.state.turn, h.name, True, h.other.down)


def order(world: World, h: Host, how: int) -> None:
    """Pause, maintenance, mode."""
    if how & 3 == 0:
        world.paused = not world.paused
    elif how & 3 == 1:
        h.automatic = not h.automatic
    else:
        world.maintenance = () if world.maintenance else (h.name,)


def deliver(world: World, h: Host, how: int) -> None:
    if world.flight:
        world.arrives(*world.flight.pop(how % len(world.flight)))


def calm(world: World, h: Host, how: int) -> None:
    """Some time without a new fault."""
    world.round()
    world.round()


def write(world: World, h: Host, how: int) -> None:
    # Most clients find the one that is open.
    world.write(h if h.opened or how & 3 == 0 else h.other)


def run(world: World, h: Host, how: int) -> None:
    world.step(h, how, True)


def step(world: World, h: Host, how: int) -> None:
    world.step(h, how, False)


def replicate(world: World, h: Host, how: int) -> None:
    world.replicate(h, how)


def apply(world: World, h: Host, how: int) -> None:
    world.apply(h, how)


def hear(world: World, h: Host, how: int) -> None:
    world.hear(h)


WEIGHTS: dict[Callable[[World, Host, int], Any], int] = {
    run: 66,
    step: 52,
    replicate: 20,
    apply: 10,
    write: 24,
    hear: 3,
    deliver: 9,
    cut_off: 6,
    part: 7,
    kill: 6,
    restart: 2,
    power: 6,
    freeze: 6,
    restart_agent: 4,
    expire: 7,
    stop_applying: 3,
    fill: 3,
    hiccup: 4,
    ask: 5,
    force: 4,
    order: 2,
    wipe: 1,
    restore: 1,
    calm: 5,
}
STEPS = [step for step, weight in WEIGHTS.items() for _ in range(weight)]
assert len(STEPS) == 256, len(STEPS)
NUMBERS = {step.__name__: STEPS.index(step) for step in WEIGHTS}


def schedule_of(words: str) -> bytes:
    """`run a, cut_off b 1`: a step, its host and how, as a schedule."""
    schedule = bytearray()
    for part_of in words.replace("\n", " ").split(","):
        name, host, *how = part_of.split()
        schedule += bytes([NUMBERS[name], int(how[0]) & 127 if how else 0])
        schedule[-1] |= 128 * (host == "b")
    return bytes(schedule)


def words_of(schedule: bytes) -> str:
    pairs = zip(schedule[::2], schedule[1::2], strict=True)
    return ", ".join(f"{STEPS[what].__name__} {'ab'[how >> 7]} {how & 127}" for what, how in pairs)


#: What goes on in every schedule, and how many of its steps, of 256.
EVER, ALWAYS = 7, 150
_edges = [0]
for _weight in WEIGHTS.values():
    _edges.append(_edges[-1] + _weight)


def schedules(seed: int, count: int, longest: int = 120) -> Iterator[tuple[bytes, bool]]:
    """Schedules of this seed, and whether everything is to be whole after them.

    Each has a few kinds of faults only, and these often: so it comes deeper than with a little of everything.
    """
    source = random.Random(seed)
    ordinary = bytes(source.randrange(_edges[EVER]) for _ in range(ALWAYS))
    faults = [bytes([edge]) for edge in _edges[EVER:-1]]
    for number in range(count):
        steps = source.randrange(8, longest)
        some = b"".join(source.sample(faults, 1 + (number & 3)))
        table = ordinary + (some * 106)[: 256 - ALWAYS]
        schedule = bytearray(source.randbytes(2 * steps))
        schedule[::2] = schedule[::2].translate(table)
        yield bytes(schedule), number % 8 == 0


def world_of(schedule: bytes, decide: Decide) -> World:
    return World(decide, strict=not schedule[1] & 64)


def play(schedule: bytes, decide: Decide, recover: bool) -> None:
    world = world_of(schedule, decide)
    world.play(schedule)
    if recover:
        world.recover()


def fails(schedule: bytes, decide: Decide, recover: bool) -> str:
    """What a schedule violates, empty when nothing."""
    try:
        play(schedule, decide, recover)
    except Violation as found:
        return str(found)
    return ""


def shortest(schedule: bytes, decide: Decide, recover: bool) -> bytes:
    """Take out what the violation does not need."""
    at, size = 0, 16
    while size:
        shorter = schedule[: 2 * at] + schedule[2 * (at + size) :]
        if len(shorter) < len(schedule) and fails(shorter, decide, recover):
            schedule = shorter
        elif 2 * (at + size) < len(schedule):
            at += 1
        else:
            at, size = 0, size // 2
    return schedule


def story(schedule: bytes, decide: Decide, recover: bool) -> str:
    """The schedule in words, as it happens."""
    world = world_of(schedule, decide)
    world.trace = []
    try:
        for at in range(0, len(schedule) - 1, 2):
            world.trace.append(words_of(schedule[at : at + 2]))
            world.happen(schedule[at], schedule[at + 1])
        if recover:
            world.trace.append("everything works again")
            world.recover()
    except Violation as found:
        world.trace.append(f"VIOLATION: {found}")
    return "\n".join([*world.trace, words_of(schedule)])
