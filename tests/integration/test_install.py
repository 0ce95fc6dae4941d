"""The tarball that `ansible-galaxy collection build` makes, installed and used outside of the checkout."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent


def _without_settings() -> dict[str, str]:
    """Return the environment without what this shell tells Ansible, such as where this collection is already."""
    return {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with nothing but the installed collection; the working directory of the user."""
    work = tmp_path_factory.mktemp("installed")
    environment = {**_without_settings(), "ANSIBLE_HOME": str(work / "home")}
    for command in (
        ["ansible-galaxy", "collection", "build", "--output-path", str(work), str(ROOT)],
        ["ansible-galaxy", "collection", "install", "--no-deps", "-p", str(work / "collections"),
         str(work / f"webstack-ha-{version()}.tar.gz")],
    ):  # fmt: skip
        subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            check=True,
            cwd=work,
            env=environment,
            capture_output=True,
        )
    return work


def version() -> str:
    return yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]


def run(installed: pathlib.Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = _without_settings() | {
        "ANSIBLE_COLLECTIONS_PATH": str(installed / "collections"),
        "ANSIBLE_HOME": str(installed / "home"),
    }
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=installed,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_tarball_holds_what_a_user_needs_and_no_more(installed: pathlib.Path) -> None:
    with tarfile.open(installed / f"webstack-ha-{version()}.tar.gz") as tar:
        top = {name.split("/")[0] for name in tar.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "meta",
        "playbooks",
        "plugins",
        "roles",
        "docs",
        "inventories",
    } <= top
    assert not top & {
        "tests",
        "molecule",
        "lab",
        "tools",
        ".venv",
        ".cache",
        "Makefile",
        "ansible.cfg",
        ".ci",
    }


def test_site_playbook_is_found_by_name(installed: pathlib.Path) -> None:
    inventory = ROOT / "inventories/example"
    result = run(
        installed,
        "ansible-playbook",
        "webstack.ha.site",
        "-i",
        str(inventory),
        "--list-tasks",
    )
    assert result.returncode == 0, result.stderr
    for role in (
        "lb_nginx",
        "vip_failover",
        "was_django",
        "redis_shard",
        "mysql_replication",
        "backup_slave",
        "quorum",
    ):
        assert role in result.stdout


@pytest.mark.parametrize("name", ["backup", "restore", "reseed", "preflight", "secrets"])
def test_every_operation_is_found_by_name(installed: pathlib.Path, name: str) -> None:
    inventory = ROOT / "inventories/example"
    result = run(
        installed,
        "ansible-playbook",
        f"webstack.ha.{name}",
        "-i",
        str(inventory),
        "--syntax-check",
    )
    assert result.returncode == 0, result.stderr


DOCUMENTED = {
    "filter": ("ring", "ring_locate", "ring_shares", "ring_moved", "endpoints", "shard_layout"),
    "module": ("files", "packages", "certificate", "preflight"),
    "role": ("lb_nginx", "was_django", "mysql_replication"),
}


@pytest.fixture(scope="session")
def documentation(installed: pathlib.Path) -> dict[str, str]:
    """What `ansible-doc` shows of each, asked once for all of a kind: each call costs a second."""
    shown = {}
    for kind, names in DOCUMENTED.items():
        result = run(installed, "ansible-doc", "-t", kind, *(f"webstack.ha.{name}" for name in names))
        assert result.returncode == 0, result.stderr
        plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
        for text in re.split(r"^> ", plain, flags=re.M)[1:]:
            shown[f"{kind} {text.split()[1]}"] = text
    return shown


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, names in DOCUMENTED.items() for name in names])
def test_documentation_is_shown(documentation: dict[str, str], kind: str, name: str) -> None:
    assert len(documentation[f"{kind} webstack.ha.{name}"]) > 300


def test_example_inventory_lacks_only_its_secrets(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As a new user would: copy the example, see what is missing, write the secrets, be told no more of them."""
    subprocess.run(
        ["cp", "-r", str(ROOT / "inventories/example"), str(tmp_path / "mine")],
        check=True,
    )
    preflight = (
        "ansible-playbook",
        "webstack.ha.preflight",
        "-i",
        str(tmp_path / "mine"),
    )
    before = run(installed, *preflight)
    assert before.returncode != 0
    assert "webstack_database_password" in before.stdout + before.stderr
    written = run(
        installed,
        "ansible-playbook",
        "webstack.ha.secrets",
        "-i",
        str(tmp_path / "mine"),
    )
    assert written.returncode == 0, written.stdout + written.stderr
    secrets = tmp_path / "mine/group_vars/all/secrets.yml"
    assert secrets.stat().st_mode & 0o777 == 0o600
    values = yaml.safe_load(secrets.read_text())
    assert all(len(value) >= 32 for value in values.values())
    assert not any(value in written.stdout for value in values.values())
    after = run(installed, *preflight)
    assert not re.search(r"password|secret_key", after.stdout), after.stdout


def test_floor_of_ansible_core_is_decided_in_one_place() -> None:
    floor = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"]
    assert floor.startswith(">=")
    assert f"ansible-core{'.'.join(floor.split('.')[:2])}" in (ROOT / "README.md").read_text()
    pins = dict(
        re.findall(
            r"^([\w-]+)(?:\[\w+\])?==([\d.]+)$",
            (ROOT / "requirements.txt").read_text(),
            re.M,
        )
    )
    assert tuple(map(int, pins["ansible-core"].split("."))) >= tuple(map(int, floor[2:].split(".")))


# Three shards, one cache, in a Python that has nothing but the package and what it asks for.
USE_THE_CACHE = """
import pathlib, sys, tempfile
sys.path.append(sys.argv[1])
from redis_servers import running_shards
import django
from django.conf import settings
with tempfile.TemporaryDirectory() as directory, running_shards(pathlib.Path(directory)) as shards:
    backend = {"BACKEND": "webstack_cache.RingCache", "LOCATION": shards.path}
    settings.configure(CACHES={"default": backend}, INSTALLED_APPS=["webstack_cache"])
    django.setup()
    from django.core.cache import cache
    from django.core.management import call_command
    call_command("check")
    assert cache.set_many({f"key{n}": n for n in range(60)}) == []
    assert cache.get_many([f"key{n}" for n in range(60)]) == {f"key{n}": n for n in range(60)}
    with cache.lock("job", timeout=5) as lock:
        assert lock.owned()
import webstack_cache.ring
print(webstack_cache.ring.__file__)
"""


def test_the_cache_client_installs_by_pip(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = installed / "collections/ansible_collections/webstack/ha/roles/redis_cluster_client/files"
    python = tmp_path / "venv/bin/python"
    before = sorted(source.rglob("*"))
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{source}[hiredis]"],
    ):
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert sorted(source.rglob("*")) == before
    result = subprocess.run(
        [str(python), "-c", USE_THE_CACHE, str(ROOT / "tests/lab")],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    ring = pathlib.Path(result.stdout.splitlines()[-1])
    assert tmp_path in ring.parents
    assert not ring.is_symlink()
    assert ring.read_bytes() == (ROOT / "plugins/module_utils/webstack/pure/ring.py").read_bytes()
    assert (ring.parent / "py.typed").is_file()


def test_the_cache_client_has_the_version_of_the_collection() -> None:
    project = tomllib.loads((ROOT / "roles/redis_cluster_client/files/pyproject.toml").read_text())["project"]
    assert project["version"] == version()
