# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Has the agents of both hosts stand aside, for a restore: meanwhile people start and stop servers themselves."""

from __future__ import annotations

import time

from ..core import lock
from ..core.errors import Problem
from ..pure.arbiter import State, Swap
from . import data
from .acts import write_epoch
from .ask import board, known
from .board import SUSPENDED
from .config import LOCK_PURPOSE, LOCK_SECONDS, Config
from .observe import epoch_of
from .role import look, wait_for
from .server import start_server
from .session import local_session
from .writer import promote


def suspend(config: Config, wanted: bool, seconds: float) -> None:
    """Have no agent decide or act, or have them go on; wait until each that reports has seen it."""
    if not config.decided:
        print("a person decides here (mysql_replication_mode: manual): there is nothing to suspend")
        return
    store = board(config)
    before, _ = known(store)
    store.set(SUSPENDED, wanted)
    end = time.monotonic() + seconds
    # An agent says that it stands aside only when it is done with what it was at.
    while slow := sorted(n for n, member in store.read().reports.items() if member.suspended != wanted):
        if time.monotonic() > end:
            if wanted and not before.suspended:
                store.set(SUSPENDED, False)
            back = "; the agents go on" if wanted and not before.suspended else ""
            raise Problem(f"{' and '.join(slow)} has not taken it up within {seconds:g} s: is it at work?{back}")
        time.sleep(0.1)
    if wanted:
        print("suspended: no agent decides or acts until 'webstack db suspend off'")
        return
    _, state = known(store)
    if state.writer == config.node.name:
        wait_for(config, max(1.0, end - time.monotonic()), "accepting writes", lambda seen: not seen["read_only"])
    print("the agents decide again")


def start(config: Config) -> None:
    """Start the server of this host as what it was, closed."""
    if config.decided and not known(board(config))[0].suspended:
        raise Problem("the agent starts this server: 'systemctl start webstack-db', or 'webstack db suspend on' first")
    start_server()
    print("started")


def restored(config: Config, seconds: float) -> None:
    """Make this server, whose data was just restored, the writer. Where a quorum decides, the history is a new one."""
    if not config.decided:
        # Forced, since the other server rightly knows more than this one now.
        promote(config, True, seconds)
        data.placed(config.datadir)
        return
    store = board(config)
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        reading, state = known(store)
        if not reading.suspended:
            raise Problem("the agents are not suspended: 'webstack db suspend on' comes before the data is exchanged")
        session = local_session(config, 60)
        if not look(session)["read_only"]:
            raise Problem("this server accepts writes: it is not one that was just restored")
        # A backup may be older than the quorum is, or from a quorum that was lost.
        epoch = max(state.epoch, epoch_of(session)) + 1
        here = config.node.name
        new = State(epoch, here, turn=state.turn + 1, opener=here, moved=state.moved)
        if store.swap(Swap(reading.revision, new), None) is None:
            raise Problem("the value in the quorum was changed at this moment: look by whom, then restore again")
        write_epoch(session, epoch)
        # Only now an agent may take this data for what it says: until here it belongs to no epoch.
        data.placed(config.datadir)
    print(f"epoch {epoch} begins on {here}; 'webstack db suspend off' opens it")
