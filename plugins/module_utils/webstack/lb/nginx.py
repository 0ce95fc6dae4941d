# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the server lists of nginx, tests them with all its other files, and takes them into use. As root."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence

from ..core import lock
from ..core.errors import Problem
from ..core.files import folder, write
from ..core.run import run
from ..core.say import WARNING, say
from .model import excluded, includes
from .state import INCLUDES, WISHES, Config, config, found, states, wishes

#: How long a command waits for another one, which tests and reloads nginx. Whoever waits longer is told who holds it.
LOCK_SECONDS = 60


def test_nginx() -> None:
    """Let nginx test all its files. Leave out its last line, which only says that the test failed."""
    tested = run("nginx", "-t", "-q", seconds=60, check=False)
    if tested.code:
        said = tested.err.strip().splitlines()
        raise Problem("\n".join(line for line in said if not line.endswith("test failed")))


def running_marks(settings: Config, path: str = "marks") -> str:
    """Return what the workers answer, or nothing if nginx does not run."""
    # Imported late: `status` is called often and does not need it.
    import urllib.request

    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{settings.local}/{path}", timeout=5) as answer:
        return str(answer.read().decode()).strip()
    return ""


def replace_includes(wanted: Mapping[str, str]) -> bool:
    """Write the files and let nginx test them with all others. If it refuses, put the old ones back."""
    folder(INCLUDES)
    before = {path.name: path.read_text() for path in INCLUDES.iterdir() if not path.name.startswith(".")}
    if before == wanted:
        return False

    def put(files: Mapping[str, str]) -> None:
        for name, text in files.items():
            write(INCLUDES / name, text)
        for path in INCLUDES.iterdir():
            if path.name not in files:
                path.unlink()

    try:
        put(wanted)
        test_nginx()
    except (Problem, OSError):
        # Put back only what differs, and delete first: a full disk must not keep the old files out.
        for name in wanted.keys() - before.keys():
            (INCLUDES / name).unlink(missing_ok=True)
        for name, text in before.items():
            if not (INCLUDES / name).is_file() or (INCLUDES / name).read_text() != text:
                write(INCLUDES / name, text)
        raise
    return True


def refresh() -> bool:
    """Write the files as they should be, and test them. The role uses this to validate its own files."""
    settings, wish = config(), wishes()
    wanted = includes(settings.sites, states(settings), wish["drained"], wish["maintenance"])
    changed = replace_includes(wanted)
    if not changed:
        test_nginx()
    return changed


def reload(settings: Config, digest: str) -> bool:
    """Make nginx's workers use the lists with this digest. If nginx is stopped, it will read them when it starts."""
    asked = run("systemctl", "is-active", "--quiet", "nginx.service", seconds=30, check=False)
    # 3 means that it does not run. Any other code is no answer: do not take it for "nothing to reload".
    if asked.code not in (0, 3):
        raise Problem(f"systemctl is-active nginx.service: {asked.why}")
    if asked.code == 3 or running_marks(settings) == digest:
        return False
    reloaded = run("systemctl", "reload", "nginx.service", seconds=60, check=False)
    if reloaded.code:
        raise Problem(reloaded.why)
    deadline = time.monotonic() + 10
    while running_marks(settings) != digest:
        if time.monotonic() > deadline:
            raise Problem("nginx took the reload but its workers do not answer the new server lists; see its error log")
        time.sleep(0.05)
    return True


def close_connections(settings: Config, drained: Sequence[str]) -> None:
    """Close connections to servers that are out and too silent. nginx then repeats a GET at another server."""
    known, verdicts = states(settings), found(settings)
    closed: set[str] = set()
    for site in settings.sites:
        out = excluded(site, known, drained)
        for server in site.servers:
            silence = verdicts.get(site.target(server), {}).get("silence")
            if server.name in out and silence in settings.closes:
                closed.add(server.endpoint)
    for endpoint in sorted(closed):
        done = run("ss", "-H", "-n", "-t", "-K", "state", "established", "dst", endpoint, seconds=30, check=False)
        if done.code or done.err:
            # The kernel may lack INET_DIAG_DESTROY. Then requests wait there until the read timeout.
            say(f"connections to {endpoint} stay: {done.why}", WARNING)


def apply() -> bool:
    """Make nginx use the right lists and wait until it does. Return whether it had to be reloaded."""
    settings, wish = config(), wishes()
    wanted = includes(settings.sites, states(settings), wish["drained"], wish["maintenance"])
    replace_includes(wanted)
    reloaded = reload(settings, wanted["marks"].split('"')[1])
    close_connections(settings, wish["drained"])
    return reloaded


def change_wishes(change: Callable[[dict[str, list[str]]], None]) -> bool:
    """Write down what the operator wants and make it so; what nginx refuses is not kept."""
    with lock.hold("lb", "a change of the server lists", LOCK_SECONDS):
        before = wishes()
        after = {key: list(values) for key, values in before.items()}
        change(after)
        if after != before:
            write(WISHES, json.dumps(after, sort_keys=True))
        try:
            reloaded = apply()
        except (Problem, OSError):
            if after != before:
                write(WISHES, json.dumps(before, sort_keys=True))
            raise
    return reloaded or after != before
