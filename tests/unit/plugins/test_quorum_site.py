"""Which hosts of a site are members of the quorum, as preflight sees it before a host is asked."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.webstack.ha.plugins.action import preflight
from good_inventory import good


def look(directory: pathlib.Path, enabled: Any, *away: str, **more: Any) -> tuple[list[str], list[str]]:
    """Return the members of a good site without these groups, and what is refused."""
    site = good()
    for group in ("quorum", *away):
        site["all"]["children"].pop(group, None)
    site["all"]["vars"] |= {"webstack_quorum_enabled": enabled, **more}
    (directory / "hosts.yml").write_text(yaml.safe_dump(site), encoding="utf-8")
    loader = DataLoader()
    manager = InventoryManager(loader=loader, sources=[str(directory / "hosts.yml")])
    variables = VariableManager(loader=loader, inventory=manager)
    hostvars = HostVars(manager, variables, loader)
    own = {host.name: dict(hostvars.raw_get(host.name)) for host in manager.get_hosts()}
    known = {**variables.get_vars(), "hostvars": own, "ansible_play_hosts_all": list(own)}
    inventory = preflight.Inventory(preflight.COLLECTION, loader, known)
    refused = [problem.sentence for problem in inventory.problems()]
    return [name for name in own if "quorum" in [role.name for role in inventory.host(name).roles]], refused


@pytest.mark.parametrize("enabled", [True, "yes"])
def test_without_a_group_the_hosts_of_the_sentinels_are_members(tmp_path: pathlib.Path, enabled: Any) -> None:
    assert look(tmp_path, enabled) == (["redis1", "redis2", "redis3"], [])


def test_a_site_that_does_not_say_so_has_none(tmp_path: pathlib.Path) -> None:
    assert look(tmp_path, False) == ([], [])


def test_their_inputs_are_checked_as_those_of_a_group(tmp_path: pathlib.Path) -> None:
    refused = look(tmp_path, True, quorum_peer_port=2379)[1]
    assert "quorum_peer_port is 2379, which is a member's port for clients, too" in refused


def test_a_site_that_is_too_small_is_told_so(tmp_path: pathlib.Path) -> None:
    members, refused = look(tmp_path, True, "was", "redis", "lb", webstack_allow_single=True)
    assert members == []
    assert refused == [
        "webstack_quorum_enabled: 3 hosts are needed for the quorum, one of them a database host at most, and there "
        "are 1 (db1): add hosts, or set webstack_quorum_enabled: false"
    ]


def test_what_is_no_answer_is_refused(tmp_path: pathlib.Path) -> None:
    refused = look(tmp_path, "perhaps")[1]
    assert {words[:47] for words in refused} == {"webstack_quorum_enabled: must be true or false,"}
