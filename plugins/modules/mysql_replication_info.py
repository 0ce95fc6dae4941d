#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers (@webstack-ha)
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: mysql_replication_info
short_description: What a database server of the site says about itself
version_added: "0.1.0"
description:
  - Asks the host's C(webstack db) for the state of the local MariaDB server, and of the other one as seen from here.
  - Succeeds on a host where the role has not been yet, and says so.
options:
  command:
    description: The program that is asked.
    type: path
    default: /usr/local/sbin/webstack
author:
  - webstack.ha maintainers (@webstack-ha)
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Ask the server what it is
  webstack.ha.mysql_replication_info:
  register: answer
"""

RETURN = r"""
state:
  description:
    - C(configured) is false where the role has not been.
    - Otherwise the document of C(webstack db status --detail), for example C(role), C(read_only), C(gtid), C(replica).
  returned: always
  type: dict
  sample: {"configured": true, "running": true, "role": "primary", "read_only": false, "gtid": "0-1-42"}
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

SETTINGS = "/etc/webstack/db.json"
#: The command of versions before 0.2.0, which says the same.
EARLIER = "/usr/local/sbin/webstack-db"


def main() -> None:
    module = AnsibleModule(
        argument_spec={"command": {"type": "path", "default": "/usr/local/sbin/webstack"}},
        supports_check_mode=True,
    )
    command = module.params["command"]
    if not os.path.exists(SETTINGS):
        module.exit_json(changed=False, state={"configured": False})
    words = [command, "db"]
    if not os.access(command, os.X_OK) and os.access(EARLIER, os.X_OK):
        # A check run before an upgrade, or a host that this run leaves out.
        words = [EARLIER]
    code, out, err = module.run_command([*words, "status", "--detail"])
    if code != 0:
        # Not the same as a host without the role: it may well be the primary.
        module.fail_json(msg=f"{' '.join(words)} status: {err.strip() or out.strip() or f'exit code {code}'}")
    module.exit_json(changed=False, state={"configured": True, **json.loads(out)})


if __name__ == "__main__":
    main()
