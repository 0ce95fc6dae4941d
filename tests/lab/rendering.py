"""Work out variables and templates of a role as Ansible does, without a host."""

from __future__ import annotations

import pathlib
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

#: It keeps the files of the roles.
LOADER = DataLoader()
ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"


def problems(role: str, variables: dict[str, Any]) -> list[str]:
    """Return what the first task of the role says of these inputs."""
    from ansible_collections.webstack.ha.plugins.plugin_utils._role_inputs import Host, Role

    inputs = Role(role, str(ROLES / role), LOADER)
    known: dict[str, Any] = {"groups": {}, "hostvars": {}, "inventory_dir": "/nowhere", "ansible_play_hosts": ["host1"]}
    known |= {"inventory_hostname": "host1", "role_path": inputs.path}
    host = Host("host1", known | inputs.defaults | inputs.vars | variables, LOADER)
    return [problem.sentence for problem in host.inputs(inputs)[1]]


def render(role: str, name: str, variables: dict[str, Any]) -> Any:
    """Return a variable of the role, or the text of a template of its, with these inputs."""
    loader = DataLoader()
    known: dict[str, Any] = {"ansible_managed": "managed", "groups": {}, "hostvars": {}, "inventory_dir": "/nowhere"}
    known["inventory_hostname"] = "host1"
    for part in ("defaults", "vars"):
        known |= loader.load_from_file(str(ROLES / role / part / "main.yml"), trusted_as_template=True)
    templar = Templar(loader=loader, variables=known | variables)
    if name.endswith(".j2"):
        # As the module template does: backslashes of a file are what they are, and blocks leave no empty lines.
        text = (ROLES / role / "templates" / name).read_text()
        return templar.template(trust_as_template(text), escape_backslashes=False)
    return templar.template(trust_as_template("{{ " + name + " }}"))
