#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's half of webstack.ha.host_info: one look that answers for all tiers that live there.

A self-contained script without ansible.module_utils: those cost a host more time to load than the look.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: What a host is and carries, in one look
version_added: "0.2.0"
description:
  - Says which system a host runs, which packages it has, which internal authority it carries and which ring of the
    cache its applications use. Changes nothing.
  - M(webstack.ha.preflight) judges the answers. M(webstack.ha.packages) does not ask a host again that has told
    its packages to C(__webstack_look) in the same run.
options:
  role:
    description:
      - The role that asks. Its variable C(<role>_pki_directory) is part of the answer.
    type: str
  paths:
    description: The files with certificates, worked out on the controller. Not for callers.
    type: list
    elements: path
author:
  - webstack.ha maintainers (@webstack-ha)
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
seealso:
  - module: webstack.ha.certificate
  - module: webstack.ha.preflight
"""

EXAMPLES = r"""
- name: See what this host is and carries
  webstack.ha.host_info:
  register: __webstack_look
"""

RETURN = r"""
carried:
  description:
    - The internal authorities of the certificates that roles of this collection left on the host, by their keys.
    - One entry for each authority in each file, C(role), C(path) and C(authority).
  returned: success
  type: list
  elements: dict
  sample: [{"role": "redis_shard", "path": "/etc/redis/tls/ca.pem", "authority": "3f2a9c1d04be77aa"}]
unreadable:
  description: Files that are there and hold no certificate, or cannot be read, each with the reason.
  returned: success
  type: dict
installed:
  description: Names of the packages that are installed, with spaces between. Empty where there is no dpkg.
  returned: success
  type: str
  sample: nginx nginx-common
ring:
  description:
    - The ring of C(/etc/webstack/cache.json), without its secrets. Empty where there is none.
    - None when the file cannot be read.
  returned: success
  type: dict
directory:
  description: The directory of the authority for the role that asks.
  returned: when O(role) is given
  type: str
others:
  description: Hosts of the site that this play does not ask.
  returned: success
  type: list
  elements: str
ansible_facts:
  description: C(distribution), C(distribution_version), C(distribution_major_version) and C(effective_user_id).
  returned: success
  type: dict
"""

import json
import os
import stat
import subprocess
import sys

#: A certificate of an authority has one or two thousand bytes.
MOST = 65536
#: For dpkg, which only reads a file here. webstack.ha.packages asks again, and says when it hangs.
SECONDS = 60
RING = "/etc/webstack/cache.json"
SECRETS = ("username", "password", "tls")


def look(path: str) -> tuple[str, str]:
    """Return the text of a file and why it cannot be read. Both are empty when there is none."""
    try:
        # Accounts of services may write beside some of these files: no links, no waiting for a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "", ""
    except OSError as exc:
        return "", exc.strerror or str(exc)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return "", "no regular file"
        content = os.read(handle, MOST)
    except OSError as exc:
        return "", exc.strerror or str(exc)
    finally:
        os.close(handle)
    if b"-----BEGIN CERTIFICATE-----" not in content:
        return "", "no PEM certificate"
    return content.decode("ascii", "replace"), ""


def system(root: str = "") -> dict[str, object]:
    """Return which system this is, in the words of Ansible's facts."""
    found: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(root + path, encoding="utf-8", errors="replace") as file:
                pairs = (line.strip().partition("=")[::2] for line in file)
                found = {name: value.strip("\"'") for name, value in pairs if name}
            break
        except OSError:
            continue
    release = found.get("VERSION_ID", "")
    version = release
    if found.get("ID") == "debian":
        try:
            with open(f"{root}/etc/debian_version", encoding="utf-8", errors="replace") as file:
                version = file.read().strip()
        except OSError:
            version = release
    return {
        "ansible_distribution": "Debian" if found.get("ID") == "debian" else found.get("NAME", "an unknown system"),
        "ansible_distribution_version": version,
        "ansible_distribution_major_version": release.partition(".")[0],
        "ansible_effective_user_id": os.geteuid(),
    }


def installed(command: str = "dpkg-query") -> str:
    """Return the names of the installed packages; none when dpkg does not say."""
    try:
        done = subprocess.run(
            [command, "--show", "--showformat=${db:Status-Status} ${Package}\\n"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    pairs = (line.split(" ") for line in done.stdout.splitlines())
    return " ".join(sorted({name for status, name in pairs if status == "installed"}))


def ring(path: str = RING) -> dict[str, object] | None:
    """Return the ring of the clients' file without its secrets; None when the file cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    if found.get("engine", "ring") != "ring":
        return {}
    return {name: value for name, value in found.items() if name not in SECRETS}


def declare() -> None:
    """Say in the usual form what the documentation says, for tools that compare the two."""
    import importlib

    importlib.import_module("ansible.module_utils.basic").AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path"}, "role": {"type": "str"}},
        supports_check_mode=True,
    )


def main() -> None:
    """Read the arguments that the controller put in here, look, print the result."""
    # JSON never holds three double quotes in a row, so the text ends where it should.
    sent = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""
    if sent.startswith("<"):
        declare()
        return
    texts: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for path in json.loads(sent)["paths"]:
        text, reason = look(path)
        if text:
            texts[path] = text
        elif reason:
            unreadable[path] = reason
    result: dict[str, object] = {"changed": False, "texts": texts, "unreadable": unreadable}
    result.update(installed=installed(), ring=ring(), ansible_facts=system())
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
