#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers (@webstack-ha)
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: application_info
short_description: What an application server has and runs of an application
version_added: "0.2.0"
description:
  - Says what C(webstack app NAME status) says, also on a host where nothing is yet, so that a role can refuse before
    its first change.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  python:
    description: The Python that its environments are made of, for its version.
    type: path
    default: /usr/bin/python3
  listen:
    description: Addresses on which Apache is going to listen. What keeps it from them is told.
    type: list
    elements: str
    default: []
  port:
    description: Port of the application.
    type: int
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
- name: See what is here and what runs
  webstack.ha.application_info:
    name: site
    listen: [127.0.0.1]
    port: 8000
  register: answer
"""

RETURN = r"""
state:
  description:
    - The document of C(webstack app NAME status), for example C(current), C(releases), C(healthy), C(stale).
    - Its C(python) is the version of O(python), its C(turn) says who deploys now, or nothing.
  returned: always
  type: dict
  sample: {"current": "1.4-a1b2c3", "healthy": true, "releases": ["1.4-a1b2c3"], "python": "3.13.5"}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.webstack.ha.plugins.module_utils.webstack.app import turn
from ansible_collections.webstack.ha.plugins.module_utils.webstack.app.site import Site
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import run

VERSION = "import sys; print('.'.join(str(part) for part in sys.version_info[:3]))"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "listen": {"type": "list", "elements": "str", "default": []},
            "port": {"type": "int"},
        },
        supports_check_mode=True,
    )
    words = module.params
    try:
        state = Site(words["name"]).status(words["listen"], words["port"])
        state["turn"] = turn.state(words["name"])
        state["python"] = run(words["python"], "-I", "-c", VERSION, seconds=30).out.strip()
    except (Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, state=state)


if __name__ == "__main__":
    main()
