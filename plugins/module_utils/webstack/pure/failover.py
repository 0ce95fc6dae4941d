# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who writes: what a member does next, given what it sees of itself and what it read from the store.

A pure function. Each rule has its reason beside it, and a test that takes it away and sees the simulation fail
(tests/unit/test_failover_simulation.py). docs/fail-over.md has the protocol as a whole.
"""

from __future__ import annotations

from .arbiter import LIMITS, UNREAD, Action, Decision, Do, Limits, Member, Note, Own, State, Swap, View, Wish


def decide(own: Own, view: View, limits: Limits = LIMITS) -> Decision:
    state = view.state
    if state is None:
        unread = view.revision == UNREAD
        why = "the store has not answered yet" if unread else "the store holds no value: 'webstack db bootstrap'"
        return Decision("unread" if unread else "no_value", why, () if own.up else (*_without_address(own), Do.START))
    if state.writer == own.name:
        return _as_writer(own, view, state, limits)
    if state.writer == own.peer:
        return _as_replica(own, view, state, limits)
    return Decision("stranger", f"the store names {state.writer} as the writer, which is no host of this pair")


# --- the writer -------------------------------------------------------------------------------------


def _as_writer(own: Own, view: View, state: State, limits: Limits) -> Decision:
    if not own.up:
        # Never as a replica: that could cut off rows that were acknowledged and that only this binary log holds.
        return Decision("server_down", "the server is down", (*_without_address(own), Do.START))
    if own.epoch != state.epoch:
        if state.opener == own.name and own.epoch == state.epoch - 1:
            return Decision("new_epoch", f"epoch {state.epoch} begins here", (Do.NEW_EPOCH,))
        why = f"the data is of epoch {own.epoch}, the store says {state.epoch}: restore it, or force {own.peer}"
        return Decision("other_epoch", why, (Do.FENCE,) if own.open else ())
    if own.open and _stalled(own, limits) and view.age > limits.withdraw:
        why = f"neither {own.peer} nor the store answers: whoever asks here would wait for ever"
        return Decision("cut_off", why, _without_address(own))
    if _unsettled(own, view):
        return _settle(view, state)
    return _serve(own, view, state, limits) if own.open else _open(own, view, state, limits)


def _open(own: Own, view: View, state: State, limits: Limits) -> Decision:
    peer = view.peer
    if peer is not None and (reason := _leaving(own, view, state, limits)):
        if peer.applied < own.applied:
            return Decision("hands_over", f"{reason}; waits for {own.peer} to apply what it has")
        # Both hold everything, and from here each row needs both again.
        successor = state._replace(writer=own.peer, replica=own.name, life=own.life, turn=state.turn + 1)
        return Decision("hands_over", reason, (Swap(view.revision, successor),))
    if not own.fit:
        return Decision("unfit", "is the writer and cannot write: full or hanging disk")
    if state.replica:
        # With semi-sync on it cannot acknowledge alone, whatever the store says by now: no quorum is needed.
        if view.age > limits.fresh and not own.followed:
            return Decision("waits_for_store", f"is closed; neither the store nor {own.peer} answers")
        return Decision("opens", f"is the writer, {own.peer} the replica", (Do.SEMI_SYNC_ON, Do.OPEN))
    # No swap to `sync` is on its way from before a crash: that is settled by now.
    return Decision("opens", "is the writer, alone", (Do.SEMI_SYNC_OFF, Do.OPEN))


def _serve(own: Own, view: View, state: State, limits: Limits) -> Decision:
    peer = view.peer
    if not own.fit:
        return Decision("unfit", "cannot write: full or hanging disk", (Do.FENCE,))
    if state.replica and not own.semi_sync:
        return Decision("semi_sync_lost", "somebody turned semi-sync off", (Do.SEMI_SYNC_ON,))
    if own.semi_sync and (reason := _why_alone(own, view, state, limits)):
        alone = state._replace(replica="", life="")
        return Decision("degrades", reason, (Swap(view.revision, alone), Do.SEMI_SYNC_OFF))
    if not own.address and view.age <= limits.fresh:
        return Decision("opens", "is the writer without its address", (Do.OPEN,))
    if peer is not None and (state.replica != own.peer or state.life != peer.life):
        if _follows(own, peer, state, limits) and own.followed and own.peer not in view.maintenance:
            return _protect(own, view, state, peer)
        return Decision("alone", f"{own.peer} holds not every row: it follows not yet")
    if reason := _leaving(own, view, state, limits):
        return Decision("hands_over", reason, (Do.CLOSE,))
    return Decision("writes", f"with {own.peer}" if state.replica else f"alone: {own.peer} does not answer")


def _protect(own: Own, view: View, state: State, peer: Member) -> Decision:
    """Back to `sync`: the other one shows that it moves, semi-sync goes on, and it shows that it holds all before that.

    The first proof keeps writes from standing still for one that just froze; turning semi-sync on forgets the mark.
    """
    if own.mark is None or own.mark[0] != peer.life:
        return Decision("protects", f"notes what {own.peer} has to hold", (Note(peer.life, own.applied),))
    if peer.received < own.mark[1]:
        return Decision("protects", f"waits for {own.peer} to hold row {own.mark[1]}")
    if not own.semi_sync:
        return Decision("protects", f"{own.peer} has caught up", (Do.SEMI_SYNC_ON,))
    both = state._replace(replica=own.peer, life=peer.life)
    return Decision("protects", f"{own.peer} holds every row", (Swap(view.revision, both),))


def _why_alone(own: Own, view: View, state: State, limits: Limits) -> str:
    """Why semi-sync has to go off, empty while it may stay."""
    if _stalled(own, limits):
        return f"{own.peer} has acknowledged nothing for {own.stalled:.1f} s"
    if own.peer in view.maintenance:
        return f"{own.peer} is in maintenance"
    # It keeps its rows for as long as it is counted on: it is let go before it is seeded.
    if state.replica and view.peer is not None and view.peer.broken:
        return f"{own.peer} has to be seeded: {view.peer.broken}"
    return ""


def _leaving(own: Own, view: View, state: State, limits: Limits) -> str:
    """Why the role goes to the other one by plan, empty when it stays or cannot go."""
    peer = view.peer
    if peer is None or own.peer in view.maintenance or not _follows(own, peer, state, limits):
        return ""
    if _wish(own.peer, view, state) is not None:
        return f"{own.peer} was asked for"
    return f"{own.name} goes into maintenance" if own.name in view.maintenance and not view.paused else ""


def _follows(own: Own, peer: Member, state: State, limits: Limits) -> bool:
    return (
        peer.source == own.name
        and peer.epoch == state.epoch
        and peer.fit
        and peer.applying
        and not peer.broken
        and peer.lag <= limits.lag
    )


def _stalled(own: Own, limits: Limits) -> bool:
    return own.semi_sync and own.stalled >= limits.degrade


# --- the replica ------------------------------------------------------------------------------------


def _as_replica(own: Own, view: View, state: State, limits: Limits) -> Decision:
    if not own.up:
        if own.empty and not own.address:
            return _seed(own, view, state, "its data directory is empty")
        why = f"the server is down, {own.peer} is the writer"
        # Behind a swap: else the writer, on older news, could hand over to what is cut off here.
        acts: tuple[Action, ...] = (*_without_address(own), Swap(view.revision, state), Do.START_AS_REPLICA)
        return Decision("server_down", why, acts)
    if own.open:
        # What it knows may be old; that another one was made the writer is not undone by that.
        return Decision("deposed", f"{own.peer} is the writer", (Do.FENCE,))
    if own.address:
        return Decision("deposed", f"{own.peer} is the writer", (Do.WITHDRAW,))
    if own.epoch != state.epoch:
        return _seed(own, view, state, f"the data is of epoch {own.epoch}, the store says {state.epoch}")
    if _unsettled(own, view):
        return _settle(view, state)
    refused = ""
    if lost := _lost(own, view, state, limits):
        wish = _wish(own.name, view, state)
        refused = _why_not(own, view, state, limits, wish)
        if not refused:
            return _promote(own, view, state, lost, forced=False)
        if wish is not None and wish.force:
            refused = _why_not_by_force(own, state, wish)
            if not refused:
                return _promote(own, view, state, f"{lost}; forced", forced=True)
    if not lost:
        return _follow(own, view, state, f"follows {own.peer}")
    return _follow(own, view, state, f"{lost}; not promoted: {refused}")._replace(rule="not_promoted")


def _follow(own: Own, view: View, state: State, why: str) -> Decision:
    counted = _counted(own, state)
    if own.broken:
        if counted:
            return Decision("broken", f"{own.broken}; keeps its rows until {own.peer} goes on alone")
        return _seed(own, view, state, own.broken)
    if own.source != own.peer:
        if own.contained is None:
            return Decision("not_linked", f"{why}; asks {own.peer} which rows it has")
        if own.contained:
            # A replica's appliers would wait for acknowledgements that nobody sends.
            return Decision("links", why, (Do.SEMI_SYNC_OFF, Do.LINK))
        if counted:
            return Decision("diverged", f"has rows that {own.peer} lacks; keeps them until {own.peer} goes on alone")
        if not own.truncated:
            return Decision("rejoins", f"has rows that {own.peer} lacks and nobody may have acknowledged", (Do.FENCE,))
        return _seed(own, view, state, f"has rows that {own.peer} lacks")
    if not own.receiving:
        return Decision("receives", why, (Do.RECEIVE,))
    if not own.applying:
        return Decision("applies", why, (Do.APPLY,))
    return Decision("follows", why)


def _lost(own: Own, view: View, state: State, limits: Limits) -> str:
    """Why the writer counts as lost, empty while it does not. Wrong, it costs a move and no row."""
    peer = view.peer
    if peer is not None and not (peer.fit and peer.epoch == state.epoch):
        return f"{own.peer} says that it cannot write"
    # A writer that reaches the store goes on alone by itself; one that reaches this replica needs no store.
    if peer is not None or own.silent < limits.silent:
        return ""
    return f"{own.peer} is silent and its lease has ended"


def _why_not(own: Own, view: View, state: State, limits: Limits, wish: Wish | None) -> str:
    """Why this member does not promote itself, empty when it may."""
    if not _counted(own, state):
        return f"{own.peer} may have acknowledged rows that are not here"
    if own.broken:
        return own.broken
    if not own.fit:
        return "its disk is full or hangs"
    if own.name in view.maintenance:
        return "it is in maintenance"
    if wish is not None:
        return ""
    if view.paused:
        return "fail-over is paused"
    if not own.automatic:
        return "the mode is assisted: 'webstack db promote'"
    if own.clock - state.moved < limits.rest:
        return f"the last fail-over is less than {limits.rest / 60:.0f} minutes ago: 'webstack db promote'"
    return ""


def _why_not_by_force(own: Own, state: State, wish: Wish) -> str:
    """What not even force goes past."""
    if own.broken or not own.fit:
        return own.broken or "its disk is full or hangs"
    # In `sync` the other one acknowledges nothing without this server. Alone it may do so at this moment.
    if not state.replica and not wish.peer_is_off:
        return f"{own.peer} may be writing alone: power it off and say so with --peer-is-off"
    return ""


def _promote(own: Own, view: View, state: State, why: str, forced: bool) -> Decision:
    # First nothing comes in any more, so the other one can acknowledge nothing; then everything is applied, so that a
    # crash from here on loses nothing; only then the swap.
    rule = "promotes_by_force" if forced else "promotes"
    if own.receiving:
        return Decision(rule, f"{why}; stops receiving", (Do.STOP_RECEIVING,))
    if own.applied < own.received:
        return _apply_first(own)
    turn = state.turn + 1
    if forced:
        alone = State(state.epoch + 1, own.name, turn=turn, opener=own.name, moved=state.moved)
        return Decision(rule, why, (Swap(view.revision, alone), Do.NEW_EPOCH, Do.SEMI_SYNC_OFF, Do.OPEN))
    alone = state._replace(writer=own.name, replica="", life="", turn=turn, moved=own.clock)
    return Decision(rule, why, (Swap(view.revision, alone), Do.SEMI_SYNC_OFF, Do.OPEN))


def _seed(own: Own, view: View, state: State, why: str) -> Decision:
    peer = view.peer
    if view.paused or own.name in view.maintenance:
        return Decision("needs_seed", f"{why}; not seeded during pause or maintenance")
    if peer is None or not peer.fit or peer.epoch != state.epoch:
        return Decision("needs_seed", f"{why}; {own.peer} cannot be copied now")
    # The swap makes one fail by which the writer, on older news, would count on what is thrown away here.
    return Decision("seeds", why, (Swap(view.revision, state), Do.SEED))


# --- both -------------------------------------------------------------------------------------------


def _counted(own: Own, state: State) -> bool:
    """Whether the store says that this server, in this life, holds every acknowledged row."""
    return state.replica == own.name and state.life == own.life


def _wish(to: str, view: View, state: State) -> Wish | None:
    wish = view.wish
    return wish if wish is not None and wish.to == to and wish.turn == state.turn else None


def _unsettled(own: Own, view: View) -> bool:
    """Whether a swap of ours may still take effect: at any revision after it, it cannot."""
    return own.pending is not None and view.revision <= own.pending


def _settle(view: View, state: State) -> Decision:
    why = "the outcome of an earlier swap is unknown: makes it impossible first"
    return Decision("settles", why, (Swap(view.revision, state),))


def _apply_first(own: Own) -> Decision:
    why = f"applies rows {own.applied + 1} to {own.received} first"
    return Decision("applies", why, () if own.applying else (Do.APPLY,))


def _without_address(own: Own) -> tuple[Do, ...]:
    return (Do.WITHDRAW,) if own.address else ()
