#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: authority
short_description: Which internal authority a host carries
version_added: "0.1.0"
description:
  - Reads the certificates of the internal authority that the roles of this collection leave on a host, and names the
    authority of each by its key. Changes nothing.
  - M(webstack.ha.preflight) with C(check=authority) compares the answers with the authority on the controller.
options:
  role:
    description:
      - The role that asks. Its variable C(<role>_pki_directory) is part of the answer.
    type: str
  paths:
    description: The files, worked out on the controller. Not for callers.
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
"""

EXAMPLES = r"""
- name: See which authority this host carries
  webstack.ha.authority:
  register: __webstack_authority
"""

RETURN = r"""
carried:
  description: One entry for each authority in each file, C(role), C(path) and C(authority).
  returned: success
  type: list
  elements: dict
  sample: [{"role": "redis_shard", "path": "/etc/redis/tls/ca.pem", "authority": "3f2a9c1d04be77aa"}]
unreadable:
  description: Files that are there and hold no certificate, or cannot be read, each with the reason.
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
"""

import os
import stat

from ansible.module_utils.basic import AnsibleModule

#: A certificate of an authority has one or two thousand bytes.
MOST = 65536


def look(path: str) -> "tuple[str, str]":
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


def main() -> None:
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path"}, "role": {"type": "str"}},
        supports_check_mode=True,
    )
    texts, unreadable = {}, {}
    for path in module.params["paths"] or []:
        text, reason = look(path)
        if text:
            texts[path] = text
        elif reason:
            unreadable[path] = reason
    module.exit_json(changed=False, texts=texts, unreadable=unreadable)


if __name__ == "__main__":
    main()
