#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name; nothing runs on a host."""

DOCUMENTATION = r"""
module: preflight
short_description: Refuse a bad inventory before the first change
version_added: "0.1.0"
description:
  - Checks the variables of every host of the play against the specifications of the roles of its groups,
    and the site as a whole, and fails with all problems in one message, one line each, naming host and variable.
  - Role defaults are evaluated with the variables of the host, so that a variable which is missing deep inside
    an expression is named itself.
  - Finds variables that begin like a role of this collection, or with C(webstack_), and are none.
  - Addresses, groups and role inputs are compared between all hosts of the inventory, also under C(--limit).
    The inputs of roles are checked for the hosts of the play.
  - Runs on the controller only. The addresses are checked with the Python library C(netaddr).
options:
  check:
    description:
      - V(inventory) checks the variables. No host needs to be up.
      - V(hosts) checks what the hosts answered to M(webstack.ha.host_info) in an earlier task.
      - V(authority) compares the internal authority on the controller with those that hosts carry, as they answered to
        M(webstack.ha.host_info) in an earlier task. Nothing is refused that C(webstack_pki_replaces) names.
    type: str
    choices: [inventory, hosts, authority]
    default: inventory
  answers:
    description:
      - Name of the variable in which that task registered its result.
      - With O(check=authority), the results of hosts outside of the play stand in a variable of this name with
        C(_elsewhere) behind it, from a loop over C(__webstack_host).
    type: str
    default: __webstack_look
  role:
    description: The role that asks, with O(check=authority). Without it all roles of the site are meant.
    type: str
author:
  - webstack.ha maintainers (@webstack-ha)
notes:
  - Use it with C(run_once), it looks at all hosts of the play at once.
  - What belongs to a site, and which groups need which roles, stands in C(meta/site_specs.yml) of this collection.
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Refuse a bad inventory
  webstack.ha.preflight:
    check: inventory
  run_once: true
"""

RETURN = r"""
msg:
  description: What is refused, one line for each problem.
  type: str
  returned: always
  sample: |-
    Nothing was changed: 1 input is refused.
      db2: mysql_replication_server_id: 1 is also used by db1
"""
