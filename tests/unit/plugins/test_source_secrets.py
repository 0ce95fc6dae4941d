"""No secret of the site leaves in a release: found by name and by content, in every kind of source."""

from __future__ import annotations

import base64
import pathlib
import subprocess
import tarfile
import zipfile
from typing import Any
from unittest import mock

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible_collections.webstack.ha.plugins.action import certificate
from ansible_collections.webstack.ha.plugins.action import release as action
from ansible_collections.webstack.ha.plugins.module_utils import _pki, _source_secrets
from ansible_collections.webstack.ha.plugins.module_utils._release import Entry
from ansible_collections.webstack.ha.plugins.module_utils._source_secrets import Known
from cryptography.hazmat.primitives import serialization

KEY = _pki.issue_ca(_pki.now())
OTHER = _pki.issue_ca(_pki.now())
PEM, OTHER_PEM = KEY.key_pem.encode(), OTHER.key_pem.encode()
PASSWORD = "b7Qk2mZr9TnXw4Vc8LdYh3Gs"
NAMES = ("webstack_database_password", "backup_slave_password")
KNOWN = Known(
    files={"the key of the authority": PEM, "the vault's password": b"four words\n"},
    values={"backup_slave_password": [PASSWORD], "webstack_cache_password": ["shorty", 'a "quoted" one, it\'s long']},
    names=NAMES,
)


def sec1(key: Any) -> bytes:
    """Return a key in the older of the two forms of PEM."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    encoded: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return encoded


def hit(path: str, content: bytes) -> str | None:
    return _source_secrets.found([Entry(path, content)], KNOWN).get(path)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("deploy/.pki/ca.key", OTHER_PEM),
        (".pki/db1.key", OTHER_PEM),
        (".pki/.ca.key.x7", b"half a"),
        ("keys/ca.key", OTHER_PEM),
        ("inventory/group_vars/all/secrets.yml", b"$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
        ("group_vars/all/secrets.yml", b""),
        (".vault_pass", b"x"),
        ("deploy/vault-password.txt", b"x"),
        ("deploy/.vaultpass", b"x"),
        ("deploy/.ansible_vault_password_file", b"x"),
        ("dehydrated/accounts/aHR0/account_key.pem", OTHER_PEM),
        ("le/accounts/a.example/directory/1/private_key.json", b'{"kty": "RSA", "d": "x", "key": "y"}'),
    ],
)
def test_a_secret_is_known_by_its_name(path: str, content: bytes) -> None:
    assert hit(path, content)


@pytest.mark.parametrize(
    "content",
    [
        PEM,
        PEM.replace(b"\n", b"\r\n"),
        b"key: |\n" + b"".join(b"    " + line + b"\n" for line in PEM.splitlines()),
        b'{"key": "' + PEM.replace(b"\n", b"\\n") + b'"}',
        sec1(KEY.key),
        b"before\n" + PEM + b"after",
        b" four words\n\n",
        f"PASSWORD = '{PASSWORD}'\n".encode(),
        b"\x00binary " + PASSWORD.encode() + b"\x00",
        b'webstack_cache_password: "shorty"\n',
        b'{"p": "a \\"quoted\\" one, it\'s long"}',
        b"p: 'a \"quoted\" one, it''s long'\n",
        b"---\nwebstack_database_password: anothersitespassword\n",
        b"[all:vars]\nbackup_slave_password=anothersitespassword\n",
        b'{"backup_slave_password": "anothersitespassword"}',
    ],
)
def test_a_secret_is_known_by_what_it_is(content: bytes) -> None:
    assert hit("app/innocent.txt", content)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("app/tests/key.pem", OTHER_PEM),
        (".pki/ca.crt", OTHER.certificate_pem.encode()),
        ("deploy/.pki/.gitignore", b"*\n"),
        ("app/vault_passwords.py", b"x"),
        ("group_vars/all/site.yml", b"webstack_database_password: '{{ vault_database_password }}'\n"),
        ("group_vars/all/site.yml", b"backup_slave_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n"),
        ("README.md", b"Set webstack_database_password: it is required. shorty\n"),
        ("notes.txt", b"there are four words here\n"),
        ("app/secrets.yml", b"a: 1\n"),
        ("ca.key", b"the name of a song\n"),
        ("docs/x.pem", b"-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"),
    ],
)
def test_other_files_are_let_through(path: str, content: bytes) -> None:
    assert hit(path, content) is None


def test_a_link_holds_nothing() -> None:
    assert _source_secrets.found([Entry(".pki/ca.key", target="../x")], KNOWN) == {}


def test_the_message_names_files_and_shows_no_secret() -> None:
    hits = _source_secrets.found([Entry(f"a/{number}", PASSWORD.encode()) for number in range(11)], KNOWN)
    said = _source_secrets.message(hits)
    assert "a/0 (the value of backup_slave_password)" in said and "and 3 more" in said
    assert "was_django_source_exclude" in said
    assert PASSWORD not in said


# --- The plugin, with a site around it ---------------------------------------------------------------


class HostVars(dict[str, Any]):
    """Like Ansible's: raw variables by raw_get."""

    raw_get = dict.__getitem__


@pytest.fixture
def shop(tmp_path: pathlib.Path) -> pathlib.Path:
    """Make a project in whose folder the inventory lies, with what playbooks leave there."""
    top = tmp_path / "shop"
    (top / "app").mkdir(parents=True)
    (top / "manage.py").write_text("1")
    (top / "app/a.py").write_text("2")
    return top


@pytest.fixture
def make(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(action.constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "local"))
    monkeypatch.setattr(action.constants.config, "get_config_value", lambda _name: str(tmp_path / "home"))

    def run(source: dict[str, Any], inventory: pathlib.Path, **more: Any) -> dict[str, Any]:
        own = {"inventory_dir": str(inventory), **more.pop("variables", {})}
        variables = {
            "hostvars": HostVars(was1=own),
            "groups": {"was": ["was1"], "all": ["was1"]},
            "ansible_play_hosts_all": ["was1"],
            "ansible_inventory_sources": [str(inventory / "hosts.yml")],
        }
        task = mock.Mock(args={"source": source, **more}, async_val=0, check_mode=False)
        plugin = action.ActionModule(task, mock.Mock(), mock.Mock(), DataLoader(), None, None)
        result: dict[str, Any] = plugin.run(task_vars=variables)
        return result

    return run


def issue(directory: pathlib.Path) -> None:
    certificate.provide(certificate.Store(str(directory), True), "db1", _pki.alternative_names(["db1"], []), 825, 30)


def secrets_file(inventory: pathlib.Path) -> pathlib.Path:
    file = inventory / "group_vars/all/secrets.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    (inventory / "hosts.yml").touch()
    file.write_text(f"backup_slave_password: {PASSWORD}\n")
    return file


def test_an_inventory_in_the_source_is_refused_by_name(make: Any, shop: pathlib.Path) -> None:
    issue(shop / "deploy/.pki")
    secrets_file(shop / "deploy")
    with pytest.raises(AnsibleActionFail) as caught:
        make({"path": str(shop)}, shop / "deploy")
    said = str(caught.value)
    for name in ("deploy/.pki/ca.key", "deploy/.pki/db1.key", "deploy/group_vars/all/secrets.yml"):
        assert name in said
    assert PASSWORD not in said and "PRIVATE" not in said
    # Left out, as the message says, the release is made.
    assert make({"path": str(shop)}, shop / "deploy", exclude=["deploy"])["files"] == 2
    with pytest.raises(AnsibleActionFail, match=r"deploy/\.pki/ca\.key"):
        make({"path": str(shop)}, shop / "deploy", exclude=["secrets.yml"])


def test_a_relocated_directory_and_a_copy_are_found(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    issue(shop / "certificates")
    variables = {"webstack_pki_directory": str(shop / "certificates")}
    with pytest.raises(AnsibleActionFail, match=r"certificates/db1\.key"):
        make({"path": str(shop)}, tmp_path, variables=variables)
    inside = {"path": str(shop), "subdirectory": "app"}
    assert make(inside, tmp_path, variables=variables)["files"] == 1
    (shop / "app/copy").write_bytes((shop / "certificates/ca.key").read_bytes())
    with pytest.raises(AnsibleActionFail, match=r"copy \(a key of the internal authority, ca.key\)"):
        make(inside, tmp_path, variables=variables)


def test_git_and_archives_are_no_other(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inventory = tmp_path / "site"
    issue(inventory / ".pki")
    secrets_file(inventory)
    (shop / "app/old.pem").write_bytes((inventory / ".pki/db1.key").read_bytes())
    (shop / "app/settings.py").write_text(f"BACKUP = '{PASSWORD}'\n")
    variables = {"backup_slave_password": PASSWORD}
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "One"]):
        subprocess.run(["git", *identity, *command], cwd=shop, check=True)
    with tarfile.open(tmp_path / "shop.tar.gz", "w:gz") as tar:
        tar.add(shop / "app", arcname="shop/app")
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as bundle:
        for file in ("app/a.py", "app/old.pem", "app/settings.py"):
            bundle.write(shop / file, f"shop/{file}")
    sources: list[dict[str, str]] = [
        {"type": "git", "url": str(shop)},
        {"type": "archive", "path": str(tmp_path / "shop.tar.gz")},
        {"type": "archive", "path": str(tmp_path / "shop.zip")},
    ]
    for source in sources:
        with pytest.raises(AnsibleActionFail) as caught:
            make(source, inventory, variables=variables)
        assert "app/old.pem (a key of the internal authority, db1.key)" in str(caught.value)
        assert "app/settings.py (the value of backup_slave_password)" in str(caught.value)
        assert make(source, inventory, variables=variables, exclude=["old.pem", "settings.py"])["files"]


@pytest.mark.parametrize("option", ["--vault-password-file", "--vault-id", "setting"])
def test_the_password_of_the_vault(
    make: Any, shop: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    password = tmp_path / "pass"
    password.write_text("open sesame\n")
    options = {"--vault-password-file": ("vault_password_files", [str(password)])}
    options["--vault-id"] = ("vault_ids", [f"prod@{password}", "other@prompt"])
    if option == "setting":
        monkeypatch.setattr(action.constants, "DEFAULT_VAULT_PASSWORD_FILE", str(password))
    else:
        monkeypatch.setattr(action.context, "CLIARGS", dict([options[option]]))
    (shop / "app/phrase").write_text("open sesame")
    with pytest.raises(AnsibleActionFail, match=r"app/phrase \(a password file of Ansible, pass\)"):
        make({"path": str(shop)}, tmp_path)


def test_an_encrypted_file_of_secrets_is_found_elsewhere_too(
    make: Any, shop: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    file = secrets_file(tmp_path / "site")
    text = "$ANSIBLE_VAULT;1.1;AES256\n" + base64.b16encode(b"x" * 100).decode() + "\n"
    file.write_text(text)
    (shop / "app/old.yml").write_text(text)
    with pytest.raises(AnsibleActionFail, match=r"app/old\.yml"):
        make({"path": str(shop)}, tmp_path / "site")


def test_old_passwords_in_a_mapping_count_and_a_broken_expression_does_not_matter(
    make: Any, shop: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (shop / "app/settings.py").write_text(f"CACHE = '{PASSWORD}'\n")
    variables = {
        "redis_shard_password_fallbacks": {"application": [PASSWORD]},
        "webstack_database_password": "{{ nowhere }}",
    }
    with pytest.raises(AnsibleActionFail, match="redis_shard_password_fallbacks"):
        make({"path": str(shop)}, tmp_path, variables=variables)


def test_the_names_are_those_that_are_written() -> None:
    root = pathlib.Path(__file__).resolve().parents[3]
    site = yaml.safe_load((root / "meta/site_specs.yml").read_text(encoding="utf-8"))
    known = action.site_secrets(DataLoader(), {"hostvars": HostVars(), "groups": {}})
    assert list(known.names) == site["secrets"]
