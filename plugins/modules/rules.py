#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name; nothing runs on a host."""

DOCUMENTATION = r"""
module: rules
short_description: Refuse the inputs of one role that cannot work
version_added: "0.1.0"
description:
  - The first task of every role of this collection. It fails with all that is wrong, naming host and variable.
  - It asks the same rules as M(webstack.ha.preflight), which asks them for the whole site before the first change.
  - Runs on the controller only.
options:
  role:
    description: Name of the role, without that of the collection.
    type: str
    required: true
  seen:
    description:
      - What the role found on the host. With it the rules are asked that need such facts, and no others.
    type: dict
author:
  - webstack.ha maintainers (@webstack-ha)
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Refuse settings that cannot work
  webstack.ha.rules:
    role: vip_failover
"""

RETURN = r"""
msg:
  description: What is refused.
  type: str
  returned: always
  sample: "lb1: vip_failover_router_id is not within 1-255"
"""
