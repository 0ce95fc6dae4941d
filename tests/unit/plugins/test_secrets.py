"""Where secrets go, what is written, and what is left alone."""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import pathlib
import stat
import subprocess
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.webstack.ha.plugins.action import secrets as action
from ansible_collections.webstack.ha.plugins.module_utils import _pki_store
from hypothesis import given
from hypothesis import strategies as st


def test_the_file_stands_beside_the_inventory(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "hosts.yml"
    file.touch()
    wanted = str(tmp_path / "group_vars/all/secrets.yml")
    assert action.default_path([str(file)]) == wanted
    assert action.default_path([str(tmp_path)]) == wanted
    # A list of hosts has no place: the next inventory counts.
    assert action.default_path(["web1,web2", str(tmp_path / "absent"), str(tmp_path)]) == wanted


@pytest.mark.parametrize("sources", [[], ["web1,"], ["/nonexistent/hosts.yml"]])
def test_without_a_place_it_says_so(sources: list[str]) -> None:
    with pytest.raises(AnsibleActionFail, match="no inventory to write the secrets to"):
        action.default_path(sources)


@pytest.mark.parametrize("name", ["all", "all.yml", "all.yaml", "all.json"])
def test_variables_that_would_be_hidden_stop_it(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_text("site: mine\n")
    with pytest.raises(AnsibleActionFail, match=f"Ansible reads either the file .*{name}"):
        action.shadowed(str(tmp_path / "all/secrets.yml"))


def test_a_directory_of_variables_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all.yml").write_text("hidden: already\n")
    action.shadowed(str(tmp_path / "all/secrets.yml"))
    action.shadowed(str(tmp_path / "elsewhere/secrets.yml"))


def test_a_secret_is_long_and_safe_everywhere() -> None:
    values = {action.generated() for _ in range(200)}
    assert len(values) == 200
    assert all(len(value) >= 32 and value.isascii() and value.isalnum() for value in values)


names = st.lists(
    st.from_regex(r"[a-z][a-z0-9_]{2,20}", fullmatch=True),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(names, names)
def test_adding_keeps_every_byte_that_was_there(first: list[str], more: list[str]) -> None:
    once = action.extended(None, first)
    new = [name for name in more if name not in first]
    twice = action.extended(once, new)
    assert twice.startswith(once)
    assert list(yaml.safe_load(twice)) == [*first, *new]


@pytest.mark.parametrize("text", ["---\na: 1", "# mine\na: 1\n", "---\na: 1\n...\n", "a: 1\n...\n\n"])
def test_what_a_person_wrote_still_counts(text: str) -> None:
    known = yaml.safe_load(action.extended(text, ["b"]))
    assert known["a"] == 1
    assert len(known["b"]) >= 32


def test_the_file_is_private_and_replaced_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "group_vars/all/secrets.yml"
    old = os.umask(0)
    try:
        action.write(str(path), "a: 1\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    action.write(str(path), "a: 2\n")
    assert path.read_text() == "a: 2\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["secrets.yml"]


def test_a_failed_write_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("a: 1\n")

    def full(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        action.write(str(path), "a: 2\n")
    assert path.read_text() == "a: 1\n"
    assert len(list(tmp_path.iterdir())) == 1


class HostVars(dict[str, Any]):
    """Like Ansible's: raw variables by raw_get."""

    raw_get = dict.__getitem__


def test_a_link_stays_a_link_and_one_to_nothing_is_refused(tmp_path: pathlib.Path) -> None:
    real, link = tmp_path / "vault/secrets.yml", tmp_path / "site/secrets.yml"
    link.parent.mkdir()
    link.symlink_to(real)
    # Where the real one is may be away today, with every secret of the site in it.
    with pytest.raises(AnsibleActionFail, match=r"is a link to .*vault/secrets\.yml, which is not there"):
        run(link)
    assert not real.parent.exists()
    real.parent.mkdir()
    real.write_text("one_password: mine\n")
    assert run(link)["created"] == ["two_password"]
    assert link.is_symlink()
    assert real.read_text().startswith("one_password: mine\n")
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert [path.name for path in real.parent.iterdir()] == ["secrets.yml"]
    assert [path.name for path in link.parent.iterdir()] == ["secrets.yml"]


def test_version_control_leaves_new_secrets_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "group_vars/all/secrets.yml"
    run(path)
    (path.parent / "site.yml").touch()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    shown = ["git", "status", "--porcelain", "--untracked-files=all"]
    said = subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert "group_vars/all/site.yml" in said and "group_vars/all/secrets.yml" not in said
    # Whoever took the line away, to commit the encrypted file, does not find it back.
    (path.parent / ".gitignore").write_text("")
    path.write_text("one_password: a\n")
    run(path)
    assert (path.parent / ".gitignore").read_text() == ""


def test_a_secret_set_anywhere_is_not_written_again() -> None:
    variables = {
        "groups": {"all": ["db1", "was1"]},
        "inventory_hostname": "localhost",
        "hostvars": HostVars(localhost={}, db1={"a": "{{ undefined_is_fine }}"}, was1={"b": 1, "z": 1}),
    }
    assert action.defined(variables, ["a", "b", "c"]) == {"a", "b"}


# --- The whole action ------------------------------------------------------------------------------------


class Task:
    async_val = 0

    def __init__(self, path: pathlib.Path, check: bool) -> None:
        self.args = {"path": str(path), "names": ["one_password", "two_password"]}
        self.check_mode = check
        self.diff = False
        self.action = "webstack.ha.secrets"


class Loader:
    def load(self, text: str, file_name: str) -> Any:
        return yaml.safe_load(text)


@pytest.fixture(autouse=True)
def _no_play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible's own part of an action needs a whole play; tests/integration has one."""
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})


def run(path: pathlib.Path, check: bool = False, **known: Any) -> dict[str, Any]:
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._task = Task(path, check)
    plugin._loader = Loader()
    plugin._supports_check_mode = True
    plugin.validate_argument_spec = lambda argument_spec: (None, plugin._task.args)  # type: ignore[method-assign]
    return plugin.run(None, {"groups": {"all": ["h"]}, "hostvars": HostVars(h=known, localhost={})})


def test_check_mode_writes_nothing(tmp_path: pathlib.Path) -> None:
    result = run(tmp_path / "group_vars/all/secrets.yml", check=True)
    assert result["changed"]
    assert result["created"] == ["one_password", "two_password"]
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_changes_nothing_and_no_value_comes_back(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "secrets.yml"
    first = run(path)
    text = path.read_text()
    assert first["changed"]
    assert not any(value in str(first) for value in yaml.safe_load(text).values())
    second = run(path)
    assert not second["changed"]
    assert path.read_text() == text


def test_only_what_is_missing_is_added(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("one_password: mine # since 2019\n")
    assert run(path)["created"] == ["two_password"]
    assert path.read_text().startswith("one_password: mine # since 2019\n")
    assert run(tmp_path / "other.yml", one_password="x")["created"] == ["two_password"]


def test_an_open_file_is_closed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("one_password: a\ntwo_password: b\n")
    path.chmod(0o644)
    assert run(path, check=True)["changed"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert run(path)["changed"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not run(path)["changed"]


def test_an_encrypted_file_is_never_rewritten(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    path.chmod(0o600)
    with pytest.raises(
        AnsibleActionFail,
        match="is encrypted and two_password is missing: add it with `ansible-vault",
    ):
        run(path, one_password="from the vault")
    assert not run(path, one_password="x", two_password="y")["changed"]
    assert path.read_text() == "$ANSIBLE_VAULT;1.1;AES256\n6162\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", "must hold variables"),
        ("one_password: ''\n", "one_password: empty; remove the line"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: pathlib.Path, text: str, words: str) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text(text)
    with pytest.raises(AnsibleActionFail, match=words):
        run(path)
    assert path.read_text() == text


def test_runs_at_the_same_time_agree(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "group_vars/all/secrets.yml"
    run(path, check=True)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _number: run(path), range(8)))
    assert sum(result["changed"] for result in results) == 1


def test_a_run_that_hangs_is_named_and_not_waited_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pki_store, "LOCK_SECONDS", 0.2)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(AnsibleActionFail, match=rf"another run has held {tmp_path} for 0\.2 s: end it"):
        run(tmp_path / "group_vars/all/secrets.yml")
    found = _pki_store.look(str(tmp_path))
    assert found.problem == f"another run has held {tmp_path} for 0.2 s: end it"
    os.close(handle)
    assert _pki_store.look(str(tmp_path)).problem == ""
    assert run(tmp_path / "group_vars/all/secrets.yml")["changed"]
