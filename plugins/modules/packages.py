#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's half of webstack.ha.packages: which of these packages are not installed?

A self-contained script without ansible.module_utils: those cost a host more time to load than the look.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install what is missing, start nothing
version_added: 0.1.0
description:
  - Asks dpkg which packages are missing, which costs a fraction of a start of M(ansible.builtin.apt), and
    calls that module only when there are any.
  - Nothing that is installed is upgraded. Recommended packages are not installed.
  - Daemons are not started by their packages, so that none runs before it is configured.
  - The package lists are refreshed when they are older than an hour, and once more when a package
    is not found in them.
author:
  - webstack.ha maintainers (@webstack-ha)
options:
  name:
    description:
      - Names of packages, each optionally with C(:architecture).
      - No versions and no patterns.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Reports what is missing without calling apt, so that it works where lists or python3-apt are absent.
    support: full
  diff_mode:
    description: Shows the names of the missing packages.
    support: full
seealso:
  - module: ansible.builtin.apt
"""

EXAMPLES = r"""
- name: Install the balancer
  webstack.ha.packages:
    name: [nginx, openssl]
"""

RETURN = r"""
missing:
  description: The packages that were, or in check mode are, missing.
  returned: always
  type: list
  elements: str
  sample: [nginx]
"""

import json
import subprocess
import sys

#: For dpkg, which only reads a file here.
SECONDS = 60


def missing(names: list[str], command: str = "dpkg-query") -> list[str]:
    """Return those names of which no package is installed and configured."""
    if not names:
        return []
    # Exit code 1 only says that some name is unknown to dpkg, which is an answer.
    try:
        done = subprocess.run(
            [command, "--show", "--showformat=${db:Status-Status} ${Package} ${Architecture}\\n", "--", *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"dpkg-query did not end within {SECONDS} s") from None
    if done.returncode not in (0, 1):
        raise RuntimeError(f"dpkg-query failed with exit code {done.returncode}: {done.stderr.strip()}")
    installed: set[str] = set()
    for line in done.stdout.splitlines():
        status, name, architecture = line.split(" ")
        if status == "installed":
            installed |= {name, f"{name}:{architecture}"}
    return [name for name in names if name not in installed]


def declare() -> None:
    """Say in the usual form what the documentation says, for tools that compare the two."""
    import importlib

    importlib.import_module("ansible.module_utils.basic").AnsibleModule(
        argument_spec={"name": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )


def main() -> None:
    """Read the arguments that the controller put in here, look, print the result."""
    # JSON never holds three double quotes in a row, so the text ends where it should.
    sent = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""
    if sent.startswith("<"):
        declare()
        return
    arguments = json.loads(sent)
    try:
        result: dict[str, object] = {"changed": False, "missing": missing(arguments["name"])}
    except FileNotFoundError:
        result = {"failed": True, "msg": "there is no dpkg-query: webstack.ha.packages needs a Debian host"}
    except RuntimeError as exc:
        result = {"failed": True, "msg": str(exc)}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
