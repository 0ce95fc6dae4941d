# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the virtual addresses, as seen from this balancer."""

from __future__ import annotations

from ..core.summary import Summary
from .doctor import findings
from .host import CONFIG, Host, flag

#: Its doctor runs the alarm command, within seconds.
TELLS_ITSELF = True


def lives_here() -> bool:
    return CONFIG.exists()


def summary() -> Summary:
    host = Host.load()
    view, wrong = findings(host)
    found = Summary(f"owns {', '.join(view.owned)}" if view.owned else host.unfit() or "could own an address")
    if flag("maintenance"):
        found.line += ", in maintenance"
    found.findings += wrong
    return found
