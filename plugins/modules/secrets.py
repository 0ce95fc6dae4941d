#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name; nothing runs on a host."""

DOCUMENTATION = r"""
module: secrets
short_description: Write the missing secrets of a site once
version_added: "0.1.0"
description:
  - Writes a random value for each secret that no host of the inventory has yet, into
    C(group_vars/all/secrets.yml) beside the inventory, with mode 0600. A new file gets a C(.gitignore) beside it.
  - A secret that exists is never changed, and no value is ever shown or returned.
  - A file that C(ansible-vault) has encrypted is never rewritten. When a secret is missing from it, the task fails
    and names the missing ones.
  - Runs on the controller only.
options:
  path:
    description:
      - The file to write.
      - Without it, C(group_vars/all/secrets.yml) beside the first inventory that is a file or a directory.
    type: path
  names:
    description: Names of the secrets. Without it, those that C(meta/site_specs.yml) of this collection lists.
    type: list
    elements: str
author:
  - webstack.ha maintainers (@webstack-ha)
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Shows nothing, because only secrets change.
    support: none
"""

EXAMPLES = r"""
- name: Write the secrets that are missing
  webstack.ha.secrets:
"""

RETURN = r"""
path:
  description: The file with the secrets.
  type: str
  returned: always
created:
  description: Names of the secrets that were written, or would be in check mode.
  type: list
  elements: str
  returned: always
"""
