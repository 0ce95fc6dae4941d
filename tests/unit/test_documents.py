"""Each example of variables in the documents passes preflight: what is advised in one place is not refused in another.

Each is laid over a good inventory, in this process: no playbook is started and no host is asked.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.webstack.ha.plugins.action import preflight
from good_inventory import good

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("roles/*/README.md"))]
BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = ("webstack_", *(f"{path.name}_" for path in ROOT.glob("roles/*")))
#: With these an example is about hosts of its own.
OTHER_HOSTS = {"mysql_replication_nodes", "redis_shard_shards", "vip_failover_address"}
#: Secrets of the reader's own.
VAULT = re.compile(r"\b(vault_\w+)\b")

#: Files of the reader's own, too.
NO_FILE = "names no file on the controller"


def variables(data: Any) -> Iterator[dict[str, Any]]:
    """Return the sets of variables in an example: of a file of variables, a play or an inventory."""
    if isinstance(data, list):
        for item in data:
            yield from variables(item)
    elif isinstance(data, dict):
        own = {key: value for key, value in data.items() if str(key).startswith(OURS)}
        if own and not OTHER_HOSTS.intersection(own):
            yield own
        for value in data.values():
            yield from variables(value)


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DOCUMENTS:
        for number, text in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")), 1):
            for own in variables(yaml.safe_load(text)):
                yield f"{path.relative_to(ROOT)}:{number}", own


EXAMPLES = list(examples())
#: It keeps the files of the roles.
LOADER = DataLoader()


@pytest.mark.parametrize("own", [own for _, own in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_an_example_is_not_refused(own: dict[str, Any], tmp_path: pathlib.Path) -> None:
    inventory = good()
    inventory["all"]["vars"].update(own)
    inventory["all"]["vars"].update((name, "v" * 40) for name in VAULT.findall(str(own)))
    file = tmp_path / "hosts.yml"
    file.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    loader = LOADER
    manager = InventoryManager(loader=loader, sources=[str(file)])
    variable_manager = VariableManager(loader=loader, inventory=manager)
    everything = variable_manager.get_vars()
    everything["hostvars"] = HostVars(manager, variable_manager, loader)
    everything["ansible_play_hosts_all"] = [host.name for host in manager.get_hosts()]
    problems = preflight.Inventory(preflight.COLLECTION, loader, everything).problems()
    assert [problem for problem in problems if NO_FILE not in problem.message] == []
