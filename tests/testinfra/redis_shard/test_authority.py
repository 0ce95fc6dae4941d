"""The internal authority: hosts that carry one are given no other one by the way, and nothing changes before."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterator

import pytest
import testinfra
import yaml
from rerun import ROOT, assert_refused, play

STORE = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
INVENTORY = ROOT / "molecule/redis_shard/inventory.yml"
CARRIED = "/etc/redis/tls/ca.pem"
ONE, TWO, THREE = "shard-redis1", "shard-redis2", "shard-redis3"


def on(name: str) -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{name}")


@pytest.fixture
def new_hosts() -> Iterator[list[str]]:
    """Make hosts that carry no authority yet of two that do."""
    for name in (ONE, TWO):
        on(name).check_output(f"mv {CARRIED} {CARRIED}.away")
    yield [ONE, TWO]
    for name in (ONE, TWO):
        on(name).check_output(f"mv {CARRIED}.away {CARRIED}")


def site(folder: pathlib.Path, **groups: dict[str, dict[str, str]]) -> pathlib.Path:
    """Write the scenario's inventory with groups of a site, so that hosts outside of a play are known as its own."""
    inventory = yaml.safe_load(INVENTORY.read_text())["all"]
    # Absolute, and a host that is in no group stays a host of the lab only.
    hosts = inventory.pop("hosts")
    children = {
        group: {"hosts": {name: {**hosts.get(name, {}), **own} for name, own in members.items()}}
        for group, members in groups.items()
    }
    file = folder / "hosts.yml"
    file.write_text(yaml.safe_dump({"all": {**inventory, "children": children}}))
    return file


def test_another_authority_is_refused_before_the_first_change(tmp_path: pathlib.Path) -> None:
    half, other, damaged = tmp_path / "half", tmp_path / "other", tmp_path / "damaged"
    for copy in (half, damaged):
        shutil.copytree(STORE, copy)
    (half / "ca.key").unlink()
    (damaged / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n")
    made = {"directory": str(other)}
    book = tmp_path / "other.yml"
    book.write_text(json.dumps([{"hosts": ONE, "gather_facts": False, "tasks": [{"webstack.ha.certificate": made}]}]))
    assert play("redis_shard", book=book).returncode == 0

    def case(directory: object) -> dict[str, object]:
        return {"redis_shard_pki_directory": str(directory)}

    cases = [
        (case(tmp_path / "lost"), f"{tmp_path}/lost on the controller has none: restore that directory from a backup"),
        (case(half), "ca.key is missing beside"),
        (case(half), f"hosts carry an authority ({ONE}:{CARRIED})"),
        (case(damaged), "ca.key holds no PEM private key"),
        (case(other), "use the directory that belongs to this site"),
        (case(""), "must name a directory on the controller"),
        (case("/pki"), "lies directly below /: is a variable in it empty?"),
        (case("pki"), "must be an absolute path"),
    ]
    assert_refused("redis_shard", ONE, cases, tmp_path)
    assert not (tmp_path / "lost").exists()
    assert not pathlib.Path("/pki").exists()
    assert not (half / "ca.key").exists()


def test_new_hosts_alone_do_not_begin_a_new_authority(tmp_path: pathlib.Path, new_hosts: list[str]) -> None:
    """With --limit the others are asked; one that cannot be asked may carry one."""
    lost = {"redis_shard_pki_directory": str(tmp_path / "lost")}
    inventory = site(tmp_path, redis={ONE: {}, TWO: {}, THREE: {}})
    done = play("redis_shard", "--limit", ",".join(new_hosts), inventory=inventory, **lost)
    assert done.returncode != 0
    assert f" {THREE}: redis_shard_pki_directory: carries the authority" in done.stdout, done.stdout
    assert "changed=0" in done.stdout and not (tmp_path / "lost").exists()

    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": "1", "ansible_timeout": "2"}
    inventory = site(
        tmp_path,
        redis={ONE: {}},
        db={"away": {**away, "webstack_address": "10.77.4.98"}, "gone": {**away, "webstack_address": "10.77.4.99"}},
    )
    done = play("redis_shard", "--limit", ONE, inventory=inventory, **lost)
    assert done.returncode != 0
    assert "away, gone: redis_shard_pki_directory: could not be asked which authority it carries" in done.stdout, (
        done.stdout
    )
    assert "webstack_pki_replaces=unknown" in done.stdout
    assert "changed=0" in done.stdout and not (tmp_path / "lost").exists()

    # The authority is there: then a host that is away does not matter, and the new one gets what the others have.
    done = play("redis_shard", "--limit", ONE, "--check", inventory=inventory)
    assert done.returncode == 0, done.stdout
    assert "changed=1" in done.stdout


def test_an_authority_is_replaced_by_its_name_only(tmp_path: pathlib.Path) -> None:
    new = {"redis_shard_pki_directory": str(tmp_path / "new")}
    refused = play("redis_shard", **new)
    assert refused.returncode != 0
    name = refused.stdout.split("webstack_pki_replaces=")[1].split()[0]
    allowed = play("redis_shard", "--check", **new, webstack_pki_replaces=name)
    assert allowed.returncode == 0, allowed.stdout
    assert "failed=0" in allowed.stdout and "changed=0" not in allowed.stdout
    assert not (tmp_path / "new").exists()


def test_the_whole_site_is_refused_before_its_first_play(tmp_path: pathlib.Path) -> None:
    inventory = site(tmp_path, redis={ONE: {}, TWO: {}, THREE: {}})
    needed = {"ansible_become": False, "webstack_allow_single": True, "webstack_cache_password": "s" * 20}

    def preflight(store: pathlib.Path, *options: str, **more: str) -> str:
        given = {**needed, "redis_shard_pki_directory": str(store), **more}
        done = play("redis_shard", *options, book="playbooks/site.yml", inventory=inventory, **given)
        assert "changed=0" in done.stdout or done.returncode == 0, done.stdout
        return done.stdout

    said = preflight(tmp_path / "lost")
    assert f"{ONE}, {TWO}, {THREE}: redis_shard_pki_directory: carries the authority" in said, said
    assert "TASK [Check the ring" not in said and "redis_shard :" not in said, said
    # The right one passes; a role that follows does not ask once more.
    said = preflight(STORE, "--check", "--limit", ONE)
    assert "failed=0" in said and "redis_shard : Configure" in said, said
    assert "Authority | See which one this host carries" not in said
