"""Which authority the hosts carry, and when the one of the controller is refused."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible_collections.webstack.ha.plugins.action import certificate, preflight
from ansible_collections.webstack.ha.plugins.action import host_info as action
from ansible_collections.webstack.ha.plugins.module_utils import _authority, _pki, _pki_store
from ansible_collections.webstack.ha.plugins.module_utils._authority import Carried, Directory, Store
from ansible_collections.webstack.ha.plugins.module_utils._site_checks import Problem
from rendering import render

ROOT = pathlib.Path(__file__).resolve().parents[3]
OURS, THEIRS, THIRD = "a" * 16, "b" * 16, "c" * 16
WANTED = _pki.alternative_names(["db1"], [])


def on(host: str, authority: str, role: str = "mysql_replication") -> Carried:
    return Carried(host, role, _authority.FILES[role][0], authority)


def check(
    own: str | None, *carried: Carried, unasked: Mapping[str, str] | None = None, replaces: str = ""
) -> list[str]:
    found = _authority.check("/srv/pki", Store(own), carried, unasked or {}, _authority.replaced(replaces))
    return [f"{problem.host}: {problem.variable}: {problem.message}" for problem in found]


# --- What is refused ---------------------------------------------------------------------------------


def test_a_fresh_site_and_a_settled_one_pass() -> None:
    assert check(None) == []
    assert check(OURS) == []
    assert check(OURS, on("db1", OURS), on("db2", OURS)) == []


def test_a_lost_authority_is_refused_and_the_hosts_are_named() -> None:
    said = check(None, on("db1", THEIRS), on("redis1", THEIRS, "redis_shard"))
    assert [line.split(":", 1)[0] for line in said] == ["db1", "redis1"]
    assert "webstack_pki_directory: carries the authority" in said[0]
    assert "/etc/mysql/webstack/ca.pem" in said[0] and "/srv/pki on the controller has none" in said[0]
    assert "restore that directory from a backup" in said[0]
    assert f"-e webstack_pki_replaces={THEIRS}" in said[0]


def test_another_authority_is_refused_where_it_is_carried_only() -> None:
    (line,) = check(OURS, on("db1", OURS), on("db2", THEIRS))
    assert line.startswith("db2:")
    assert f"has {OURS}: use the directory that belongs to this site" in line


def test_hosts_with_different_authorities_are_each_named() -> None:
    said = check(None, on("db1", OURS), on("db2", THEIRS))
    assert [line.split(":", 1)[0] for line in said] == ["db1", "db2"]
    assert len(check(THIRD, on("db1", OURS), on("db2", THEIRS))) == 2


@pytest.mark.parametrize("replaces", [THEIRS, f"{THIRD}, {THEIRS}", THEIRS.upper(), ":".join(["bb"] * 8)])
def test_an_authority_is_replaced_when_it_is_named(replaces: str) -> None:
    assert check(None, on("db1", THEIRS), replaces=replaces) == []
    assert check(OURS, on("db1", THEIRS), on("db2", OURS), replaces=replaces) == []


@pytest.mark.parametrize("replaces", ["", THIRD, "unknown", "true"])
def test_another_word_replaces_nothing(replaces: str) -> None:
    assert len(check(None, on("db1", THEIRS), replaces=replaces)) == 1
    assert len(check(OURS, on("db1", THEIRS), replaces=replaces)) == 1


def test_naming_one_authority_does_not_allow_to_replace_another() -> None:
    (line,) = check(None, on("db1", OURS), on("db2", THEIRS), replaces=OURS)
    assert line.startswith("db2:")


def test_no_new_authority_while_a_host_is_silent() -> None:
    (line,) = check(None, unasked={"db2": "timed out"})
    assert line.startswith("db2: webstack_pki_directory: could not be asked which authority it carries (timed out)")
    assert "-e webstack_pki_replaces=unknown" in line
    assert check(None, unasked={"db2": "timed out"}, replaces="unknown") == []
    # Who names the authority that begins to end has decided for the silent ones too.
    assert check(None, on("db1", THEIRS), unasked={"db2": "timed out"}, replaces=THEIRS) == []
    # Nothing new is made, so nobody is missed.
    assert check(OURS, on("db1", OURS), unasked={"db2": "timed out"}) == []
    assert check(OURS, unasked={"db2": "timed out"}) == []


def test_half_a_directory_is_refused_with_what_to_do() -> None:
    def said(problem: str, *carried: Carried) -> str:
        (found,) = _authority.check("/srv/pki", Store(problem=problem), carried, {})
        return found.message

    lost = "/srv/pki/ca.key is missing beside /srv/pki/ca.crt"
    assert "Restore the directory from a backup: hosts carry an authority (db1:/etc/mysql" in said(
        lost, on("db1", OURS)
    )
    assert "or from a host (db1:/etc/mysql" in said("ca.crt is missing beside ca.key", on("db1", OURS))
    assert "remove what is left in /srv/pki and a new one is made" in said(lost)


# --- One directory -----------------------------------------------------------------------------------


def used(**hosts: Mapping[str, Directory]) -> list[Problem]:
    return _authority.check_directories(hosts)


def test_hosts_of_two_inventories_need_one_directory() -> None:
    one, two = Directory("/a/.pki", True), Directory("/b/.pki", True)
    assert used(db1={"mysql_replication": one}, was1={"was_django": one, "redis_cluster_client": one}) == []
    problems = used(db1={"mysql_replication": one}, lb1={"lb_nginx": two}, was1={"was_django": two})
    assert [(problem.host, problem.variable) for problem in problems] == [
        ("lb1", "webstack_pki_directory"),
        ("was1", "webstack_pki_directory"),
    ]
    assert "differs from db1's (/b/.pki here, /a/.pki there)" in problems[0].message


def test_roles_that_meet_need_one_directory_and_others_may_differ() -> None:
    here, there = Directory("/a/pki"), Directory("/b/pki")
    assert used(db1={"mysql_replication": here}, redis1={"redis_shard": there}) == []
    (problem,) = used(db1={"mysql_replication": here}, was1={"was_django": there, "redis_cluster_client": there})
    assert (problem.host, problem.variable) == ("was1", "was_django_pki_directory")
    assert "differs from db1's mysql_replication_pki_directory" in problem.message


# --- What a certificate says -------------------------------------------------------------------------


def issued(directory: pathlib.Path) -> dict[str, Any]:
    return certificate.provide(certificate.Store(str(directory), True), "db1", WANTED, 825, 30)


def test_an_authority_keeps_its_name_when_it_is_continued(tmp_path: pathlib.Path) -> None:
    first = _pki.issue_ca(_pki.now())
    second = _pki.issue_ca(_pki.now(), previous=first)
    assert _pki.carried(first.certificate_pem) == _pki.carried(second.certificate_pem)
    assert _pki.carried(first.certificate_pem) != _pki.carried(_pki.issue_ca(_pki.now()).certificate_pem)
    both = first.certificate_pem + _pki.issue_ca(_pki.now()).certificate_pem
    assert len(_pki.carried(both)) == 2


def test_a_certificate_tells_who_issued_it_if_that_was_here(tmp_path: pathlib.Path) -> None:
    result = issued(tmp_path / "pki")
    assert _pki.carried(result["certificate"]) == _pki.carried(result["ca"])
    own = _pki_store.look(str(tmp_path / "pki"))
    assert [own.authority] == _pki.carried(result["ca"])
    # One that was bought, in the same file: not ours to judge.
    name = _pki.x509.Name([_pki.x509.NameAttribute(_pki.NameOID.COMMON_NAME, "Example Root")])
    key = _pki.ec.generate_private_key(_pki.ec.SECP256R1())
    builder = _pki.x509.CertificateBuilder(name, name, key.public_key(), 7, _pki.now(), _pki.now() + _pki.SKEW)
    bought = builder.sign(key, _pki.hashes.SHA256())
    assert _pki.carried(_pki.Pair(bought, key).certificate_pem) == []
    with pytest.raises(ValueError, match="no PEM certificate"):
        _pki.carried("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda where: (where / "ca.key").unlink(), "ca.key is missing beside"),
        (lambda where: (where / "ca.crt").unlink(), "ca.crt is missing beside"),
        (lambda where: (where / "ca.key").write_text("x"), "ca.key holds no PEM private key"),
        (lambda where: (where / "ca.crt").write_text((where / "db1.crt").read_text()), "public keys differ"),
    ],
)
def test_a_damaged_directory_is_no_empty_one(tmp_path: pathlib.Path, spoil: Any, words: str) -> None:
    issued(tmp_path / "pki")
    spoil(tmp_path / "pki")
    assert words in _pki_store.look(str(tmp_path / "pki")).problem


def test_looking_at_nothing_makes_nothing(tmp_path: pathlib.Path) -> None:
    assert _pki_store.look(str(tmp_path / "site/pki")) == Store()
    (tmp_path / "empty").mkdir()
    assert _pki_store.look(str(tmp_path / "empty")) == Store()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "file").touch()
    assert "is no directory" in str(_pki_store.directory_error(str(tmp_path / "file")))


# --- What the host is asked --------------------------------------------------------------------------


def module() -> Any:
    spec = importlib.util.spec_from_file_location("host_info_module", ROOT / "plugins/modules/host_info.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_host_reads_certificates_and_nothing_else(tmp_path: pathlib.Path) -> None:
    look = module().look
    secret, good = tmp_path / "secret", tmp_path / "good"
    secret.write_text("root:hash")
    good.write_text(_pki.issue_ca(_pki.now()).certificate_pem)
    assert look(str(tmp_path / "none")) == look(str(good / "below")) == ("", "")
    assert look(str(good)) == (good.read_text(), "")
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe")
    for name in ("secret", "link", "pipe", "."):
        text, reason = look(str(tmp_path / name))
        assert (text, bool(reason)) == ("", True), name


def test_a_host_says_which_system_it_runs(tmp_path: pathlib.Path) -> None:
    system = module().system
    (tmp_path / "etc").mkdir()
    release = tmp_path / "etc/os-release"
    release.write_text('PRETTY_NAME="Debian 13"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\nID=debian\n')
    (tmp_path / "etc/debian_version").write_text("13.2\n")
    words = ("ansible_distribution", "ansible_distribution_version", "ansible_distribution_major_version")
    assert [system(str(tmp_path))[word] for word in words] == ["Debian", "13.2", "13"]
    assert system()["ansible_effective_user_id"] == os.geteuid()
    release.write_text('NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n')
    assert [system(str(tmp_path))[word] for word in words] == ["Ubuntu", "24.04", "24"]
    release.unlink()
    assert [system(str(tmp_path))[word] for word in words] == ["an unknown system", "", ""]


def test_a_host_names_the_packages_that_are_installed(tmp_path: pathlib.Path) -> None:
    dpkg = tmp_path / "dpkg-query"
    lines = ("installed nginx", "config-files apache2", "installed curl", "installed nginx")
    dpkg.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    dpkg.chmod(0o755)
    assert module().installed(str(dpkg)) == "curl nginx"
    assert module().installed(str(tmp_path / "none")) == ""


def test_a_dpkg_that_hangs_says_nothing(tmp_path: pathlib.Path) -> None:
    dpkg = tmp_path / "dpkg-query"
    dpkg.write_text("#!/bin/sh\nexec sleep 60\n")
    dpkg.chmod(0o755)
    there = module()
    there.SECONDS = 0.2
    assert there.installed(str(dpkg)) == ""


def test_a_host_tells_its_ring_without_secrets(tmp_path: pathlib.Path) -> None:
    ring, path = module().ring, tmp_path / "cache.json"
    assert ring(str(path)) == {}
    path.write_text('{"fingerprint": "a1", "shards": {}, "username": "u", "password": "p", "tls": {"ca": "/x"}}')
    assert ring(str(path)) == {"fingerprint": "a1", "shards": {}}
    path.write_text('{"engine": "single", "password": "p"}')
    assert ring(str(path)) == {}
    # No answer is no empty one.
    for text in ("{", "[]"):
        path.write_text(text)
        assert ring(str(path)) is None
    path.unlink()
    path.mkdir()
    assert ring(str(path)) is None


class Action(action.ActionModule):
    """The action without a task executor around it; the host answers what it is given."""

    def __init__(self, args: dict[str, Any], answer: dict[str, Any], delegate_to: str | None = None) -> None:
        self._task = SimpleNamespace(args=args, check_mode=True, async_val=0, delegate_to=delegate_to)
        self._templar = SimpleNamespace(template=lambda value: value)
        self._answer = answer

    def _execute_module(self, *_args: Any, **_options: Any) -> dict[str, Any]:
        return self._answer


@pytest.fixture
def _no_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})


VARIABLES = {
    "groups": {"db": ["db1", "db2"], "lb": ["lb1"], "routers": ["r1"]},
    "ansible_play_batch": ["db1"],
    "ansible_play_hosts_all": ["db1", "later"],
    "mysql_replication_pki_directory": "/srv/pki",
}


@pytest.mark.usefixtures("_no_base_class")
def test_the_answer_of_a_host() -> None:
    authority = _pki.issue_ca(_pki.now())
    texts = {"/etc/mysql/webstack/ca.pem": authority.certificate_pem, "/etc/webstack/ca.pem": "rubbish"}
    answer = {"texts": texts, "unreadable": {"/etc/redis/tls/ca.pem": "is a link"}, "installed": "nginx", "ring": {}}
    result = Action({"role": "mysql_replication"}, answer).run(task_vars=VARIABLES)
    (one,) = result["carried"]
    assert (one["role"], one["authority"]) == ("mysql_replication", _pki.identity(authority.certificate))
    assert set(result["unreadable"]) == {"/etc/redis/tls/ca.pem", "/etc/webstack/ca.pem"}
    assert result["directory"] == "/srv/pki"
    assert (result["installed"], result["ring"]) == ("nginx", {})
    assert "texts" not in result
    assert result["others"] == ["lb1", "db2", "later"]
    assert not result["changed"]


@pytest.mark.usefixtures("_no_base_class")
def test_the_facts_of_another_host_are_not_those_of_the_host_that_asks() -> None:
    answer = {"texts": {}, "unreadable": {}, "ansible_facts": {"ansible_distribution_major_version": "12"}}
    assert Action({}, answer).run(task_vars=VARIABLES)["ansible_facts"] == answer["ansible_facts"]
    assert "ansible_facts" not in Action({}, answer, delegate_to="db2").run(task_vars=VARIABLES)


@pytest.mark.usefixtures("_no_base_class")
def test_no_answer_is_no_empty_answer() -> None:
    result = Action({}, {"failed": True, "msg": "no Python"}).run(task_vars=VARIABLES)
    assert result["failed"] and "carried" not in result
    assert "carried" not in Action({}, {"unreachable": True, "msg": "x"}).run(task_vars=VARIABLES)
    for args in ({"role": "redis"}, {"paths": ["/etc/shadow"]}):
        with pytest.raises(AnsibleActionFail):
            Action(args, {}).run(task_vars=VARIABLES)


# --- The answers of several hosts --------------------------------------------------------------------


class HostVars(dict[str, Any]):
    """Like Ansible's: raw variables by raw_get."""

    raw_get = dict.__getitem__


def answers(tmp_path: pathlib.Path, *found: Carried, **hosts: Mapping[str, Any]) -> list[str]:
    """Say what the role redis_shard of two hosts refuses, whose hosts carry this."""
    variables = HostVars()
    for host in ("redis1", "was1"):
        carried = [{"role": c.role, "path": c.path, "authority": c.authority} for c in found if c.host == host]
        answer = {"carried": carried, "unreadable": {}, "directory": str(tmp_path / ".pki")}
        variables[host] = {"inventory_dir": str(tmp_path), "said": answer, **hosts.get(host, {})}
    task_vars = {"hostvars": variables, "ansible_play_hosts_all": list(variables), "inventory_hostname": "redis1"}
    problems = preflight.Authority(DataLoader(), task_vars, "said", "redis_shard", None).problems()
    return [f"{problem.host}: {problem.variable}: {problem.message}" for problem in problems]


def test_what_another_role_left_counts_where_both_have_one_directory(tmp_path: pathlib.Path) -> None:
    database = on("was1", THEIRS, "was_django")
    (line,) = answers(tmp_path, database)
    assert line.startswith(f"was1: webstack_pki_directory: carries the authority {THEIRS} (/etc/webstack/ca.pem)")
    assert answers(tmp_path, database, was1={"was_django_pki_directory": "/srv/other"}) == []
    assert answers(tmp_path, database, redis1={"webstack_pki_replaces": THEIRS}) == []


def test_a_host_without_an_answer_is_no_host_without_an_authority(tmp_path: pathlib.Path) -> None:
    failed = {"said": {"failed": True, "msg": "no\nPython"}}
    (line,) = answers(tmp_path, was1=failed)
    assert line.startswith("was1:") and "could not be asked which authority it carries (no Python)" in line
    unread = {"carried": [], "unreadable": {"/etc/webstack/ca.pem": "is a link"}, "directory": str(tmp_path / ".pki")}
    (line,) = answers(tmp_path, was1={"said": unread})
    assert "(/etc/webstack/ca.pem: is a link)" in line
    issued(tmp_path / ".pki")
    assert answers(tmp_path, was1=failed) == answers(tmp_path, was1={"said": unread}) == []


def test_hosts_that_were_asked_from_another_one_count(tmp_path: pathlib.Path) -> None:
    result = {"carried": [{"role": "lb_nginx", "path": "/x", "authority": THEIRS}], "unreadable": {}}
    lb = {"results": [{"__webstack_host": "lb1", **result}, {"__webstack_host": "lb2", "unreachable": True}]}
    task_vars_hosts = HostVars({name: {"inventory_dir": str(tmp_path)} for name in ("redis1", "redis2", "lb1", "lb2")})
    # One host of a play asks; the loop of another one has skipped items, which say nothing.
    skipped = {"results": [{"__webstack_host": name, "skipped": True} for name in ("lb1", "lb2")]}
    answer = {"carried": [], "unreadable": {}, "directory": str(tmp_path / ".pki")}
    task_vars_hosts["redis2"].update(said=answer, said_elsewhere=skipped)
    task_vars_hosts["redis1"].update(
        said={"carried": [], "unreadable": {}, "directory": str(tmp_path / ".pki")}, said_elsewhere=lb
    )
    task_vars = {
        "hostvars": task_vars_hosts,
        "ansible_play_hosts_all": ["redis1", "redis2"],
        "inventory_hostname": "redis1",
    }
    problems = preflight.Authority(DataLoader(), task_vars, "said", "redis_shard", None).problems()
    assert [problem.host for problem in problems] == ["lb1"]


# --- What this knows of the roles is true ------------------------------------------------------------


def test_every_role_with_a_directory_is_known_and_has_the_same_default() -> None:
    found = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        role = path.parent.parent.name
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if _authority.variable(role) in values:
            found[role] = values
    assert set(found) == set(_authority.FILES) == set(_authority.NEEDS)
    assert {values[_authority.variable(role)] for role, values in found.items()} == {_authority.DEFAULT}
    for role, names in _authority.NEEDS.items():
        assert set(names) <= set(found[role])
    assert {role for family in _authority.TOGETHER for role in family} == set(found)


MADE = {"certificate": "", "private_key": "", "ca": ""}
ONE_SERVER: dict[str, Any] = {"name": "host1", "address": "192.0.2.1", "port": 1}
#: Inputs of roles whose list of files is made in Python, which lead to all that is looked for.
DERIVED: dict[str, list[dict[str, Any]]] = {
    "lb_nginx": [
        {
            "__lb_nginx_certificate": MADE,
            "__lb_nginx_channel": MADE,
            "__lb_nginx_generation": "",
            "lb_nginx_backends": [],
            "lb_nginx_tls_mode": mode,
        }
        for mode in ("self_signed", "acme")
    ],
    "redis_shard": [
        {
            "__redis_shard_certificate": MADE,
            "redis_shard_node_name": "host1",
            "redis_shard_sentinels": [],
            "redis_shard_server": server,
            "redis_shard_shards": [{"name": "a", "nodes": [ONE_SERVER]}],
        }
        for server in ("redis", "valkey")
    ],
}


@pytest.mark.parametrize("role", _authority.FILES)
def test_roles_write_the_files_that_are_looked_for(role: str) -> None:
    files = [ROOT / "roles" / role / "vars/main.yml", ROOT / "roles" / role / "tasks/configure.yml"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    constants = dict(re.findall(r"(?m)^(__\w+_(?:directory|path)): \"?([^\"\n]+)\"?$", text))
    for name, value in constants.items():
        # As in "{{ directory }}/ca.pem" and in "directory ~ '/ca.pem'".
        text = text.replace("{{ " + name + " }}", value).replace(f"{name} ~ '", f"'{value}")
    text = text.replace("'/etc/nginx/webstack/%s.crt'", "/etc/nginx/webstack/site.crt")
    text += text.replace("{{ redis_shard_server }}", "valkey") + text.replace("{{ redis_shard_server }}", "redis")
    for inputs in DERIVED.get(role, []):
        text += "".join(f"{file['dest']}\n" for file in render(role, f"__{role}_files", inputs))
    for path in _authority.FILES[role]:
        assert path in text, path


def test_roles_ask_before_they_change_anything() -> None:
    for role in _authority.FILES:
        tasks = yaml.safe_load((ROOT / "roles" / role / "tasks/preflight.yml").read_text(encoding="utf-8"))
        asks = [task for task in tasks if "authority.yml" in str(task.get("ansible.builtin.include_tasks"))]
        assert [task["vars"]["__webstack_role"] for task in asks] == [role]


def test_the_groups_are_those_of_a_site() -> None:
    site = yaml.safe_load((ROOT / "meta/site_specs.yml").read_text(encoding="utf-8"))
    assert set(action.GROUPS) == set(site["groups"])


@pytest.mark.parametrize("off", [False, "false", "no", "0", 0])
def test_a_role_without_tls_needs_no_authority_however_that_is_written(off: object) -> None:
    assert not _authority.needed("redis_shard", {"redis_shard_tls_enabled": off})
    assert _authority.needed("redis_shard", {"redis_shard_tls_enabled": "true"})
