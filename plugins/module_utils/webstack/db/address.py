# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The writer address: an additional address on the host of the primary."""

from __future__ import annotations

import json
import subprocess

from ..core.errors import Problem
from ..core.run import run
from ..core.say import say
from .config import Config


def interfaces() -> dict[str, list[str]]:
    """Return for each interface its IPv4 addresses, as address/prefix."""
    shown = run("ip", "-json", "-4", "address", seconds=10).out
    return {
        link["ifname"]: [f"{a['local']}/{a['prefixlen']}" for a in link.get("addr_info", []) if "local" in a]
        for link in json.loads(shown)
    }


def carries_address(config: Config) -> bool:
    return any(config.writer_address in found for found in interfaces().values())


def take_address(config: Config) -> None:
    if not config.writer_address or carries_address(config):
        return
    own = config.node.address + "/"
    device = next((n for n, found in interfaces().items() if any(a.startswith(own) for a in found)), None)
    if device is None:
        raise Problem(f"no interface carries {config.node.address}; the writer address stays off")
    run("ip", "address", "add", config.writer_address, "dev", device, seconds=10)
    address = config.writer_address.partition("/")[0]
    # Tell hosts in the network that still know the old owner. Do not wait until the three packets are sent.
    subprocess.Popen(
        ["arping", "-q", "-U", "-c", "3", "-I", device, address],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    say(f"took the writer address {config.writer_address} on {device}")


def drop_address(config: Config) -> None:
    if not config.writer_address:
        return
    for device, found in interfaces().items():
        if config.writer_address in found:
            done = run("ip", "address", "del", config.writer_address, "dev", device, seconds=10, check=False)
            if done.code:
                # The address may have gone meanwhile. The next look will tell.
                say(f"the writer address stays on {device}: {done.why}")
                continue
            say(f"gave the writer address {config.writer_address} up")
