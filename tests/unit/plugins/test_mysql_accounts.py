"""Schemas and accounts, with a session that is a fake: what is asked, done, and refused before anything has changed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _mysql_accounts as core
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb import ServerGone, SqlError
from ansible_collections.webstack.ha.plugins.modules import mysql_accounts as module

Rows = list[dict[str, str | None]]


class Session:
    """A server of two schemas and one account; what changes it is written down in `did`."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.closed = False
        self.read_only = "0"
        self.schemas = ["mysql", "site"]
        self.tables: list[str] = []
        self.accounts = {("root", "localhost"): {"plugin": "unix_socket"}}
        self.grants: dict[str, list[str]] = {}
        self.refuses: dict[str, Problem] = {}

    def rows(self, statement: str, _seconds: float | None = None) -> Rows:
        for words, problem in self.refuses.items():
            if words in statement:
                raise problem
        if not statement.startswith(("SELECT", "SHOW")):
            self.did.append(statement)
            return []
        if "read_only" in statement:
            return [{"closed": self.read_only}]
        if "SCHEMATA" in statement:
            return [{"name": name} for name in self.schemas]
        if "information_schema.TABLES" in statement:
            return [{"TABLE_NAME": name} for name in self.tables]
        if "WHERE User = ''" in statement:
            return [{"Host": host} for name, host in self.accounts if name == ""]
        if "global_priv" in statement:
            return [{"User": n, "Host": h, "Priv": json.dumps(priv)} for (n, h), priv in self.accounts.items()]
        name = statement.removeprefix("SHOW GRANTS FOR ")
        return [{f"Grants for {name}": line} for line in self.grants[name]]

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def session() -> Session:
    return Session()


ITEM: dict[str, Any] = {"name": "site", "password": "pw", "privileges": [{"target": "site.*", "grant": ["ALL"]}]}


def bring(session: Session, *items: dict[str, Any], databases: list[str] | None = None, check: bool = False) -> Any:
    return module.bring_about(session, databases or [], [core.wanted(item) for item in items], check)


def have_site(session: Session, **priv: Any) -> None:
    session.accounts["site", "%"] = {
        "plugin": "mysql_native_password", "authentication_string": core.password_hash("pw"), "ssl_type": 1, **priv
    }  # fmt: skip
    session.grants["'site'@'%'"] = [
        "GRANT USAGE ON *.* TO `site`@`%` IDENTIFIED BY PASSWORD '*AB' REQUIRE SSL",
        "GRANT ALL PRIVILEGES ON `site`.* TO `site`@`%`",
    ]


def test_what_is_missing_is_made_and_no_password_is_said(session: Session) -> None:
    steps = bring(session, ITEM, databases=["site", "a`b"])
    assert steps == ["create schema a`b", "create account site@%", "grant ALL PRIVILEGES on `site`.* to site@%"]
    assert session.did[0] == "CREATE DATABASE `a``b`"
    assert session.did[1].startswith("CREATE USER 'site'@'%' IDENTIFIED VIA mysql_native_password USING '*")
    assert "'pw'" not in "".join(session.did)


def test_what_fits_is_left_alone_on_a_closed_server_too(session: Session) -> None:
    have_site(session)
    session.read_only = "1"
    assert bring(session, ITEM, databases=["site"]) == []
    assert session.did == []


@pytest.mark.parametrize(
    ("priv", "step"),
    [
        ({"authentication_string": "*0"}, "set the password of site@%"),
        # Whatever that stores, it is no hash of ours.
        ({"plugin": "ed25519"}, "set the password of site@%"),
        ({"ssl_type": 0}, "require SSL of site@%"),
    ],
)
def test_an_account_that_differs_is_changed(session: Session, priv: dict[str, Any], step: str) -> None:
    have_site(session, **priv)
    assert bring(session, ITEM) == [step]
    assert [words.split("'@'")[0] for words in session.did] == ["ALTER USER 'site"]


OLD = core.password_hash("old")


def test_a_former_password_is_accepted_as_long_as_it_is_listed(session: Session) -> None:
    have_site(session, authentication_string=OLD)
    rotated = {**ITEM, "password_fallbacks": ["old"]}
    assert bring(session, rotated) == ["set the password of site@%, and accept former ones"]
    new = core.password_hash("pw")
    way = "mysql_native_password USING"
    assert session.did == [f"ALTER USER 'site'@'%' IDENTIFIED VIA {way} '{new}' OR {way} '{OLD}'"]


def test_both_are_found_where_the_server_keeps_them(session: Session) -> None:
    second = {"plugin": "mysql_native_password", "authentication_string": OLD}
    have_site(session, auth_or=[{}, second])
    assert bring(session, {**ITEM, "password_fallbacks": ["old"]}) == []
    assert bring(session, ITEM) == ["end the former passwords of site@%"]
    assert bring(session, {**ITEM, "password_fallbacks": ["old", "older"]}) == ["accept 2 former passwords of site@%"]
    have_site(session, auth_or=[{}, {"plugin": "unix_socket"}])
    assert bring(session, ITEM) == ["end the former passwords of site@%"]


def test_a_new_account_accepts_former_passwords_too(session: Session) -> None:
    bring(session, {**ITEM, "password_fallbacks": ["old"]})
    assert session.did[0].count("mysql_native_password USING") == 2
    assert "old'" not in "".join(session.did)


def test_accounts_without_a_name_and_the_empty_schema_test_go(session: Session) -> None:
    session.accounts["", "it's"] = {}
    session.schemas.append("test")
    assert bring(session) == ["drop account ''@it's", "drop the empty schema test"]
    assert session.did == ["DROP USER ''@'it''s'", "DROP DATABASE `test`"]


@pytest.mark.parametrize(("tables", "databases"), [(["t"], []), ([], ["test"])])
def test_a_schema_test_that_is_used_stays(session: Session, tables: list[str], databases: list[str]) -> None:
    session.schemas.append("test")
    session.tables = tables
    assert bring(session, databases=databases) == []


def test_check_mode_changes_nothing(session: Session) -> None:
    assert bring(session, databases=["shop"], check=True) == ["create schema shop"]
    assert session.did == []


@pytest.mark.parametrize("check", [False, True])
def test_a_server_that_is_closed_is_refused_with_what_is_left_to_do(session: Session, check: bool) -> None:
    session.read_only = "1"
    with pytest.raises(Problem, match=r"read-only, nothing was changed: .*'webstack db promote'.* create schema shop"):
        bring(session, databases=["shop"], check=check)
    assert session.did == []


def test_a_target_that_is_none_is_refused_before_the_server_is_asked(session: Session) -> None:
    with pytest.raises(ValueError, match="'site' is no target of a privilege"):
        bring(session, {**ITEM, "privileges": [{"target": "site", "grant": ["ALL"]}]})
    assert session.did == []


# --- the module -------------------------------------------------------------------------------------


class Ended(Exception):
    pass


class Fake:
    """AnsibleModule with these inputs."""

    def __init__(self, check_mode: bool = False, **words: Any) -> None:
        self.params = {"databases": ["shop"], "accounts": [ITEM], "socket": "/s", **words}
        self.check_mode = check_mode
        self.said: dict[str, Any] = {}

    def exit_json(self, **said: Any) -> NoReturn:
        self.said = said
        raise Ended

    def fail_json(self, **said: Any) -> NoReturn:
        self.said = {"failed": True, **said}
        raise Ended


def called(fake: Fake, session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(module, "AnsibleModule", lambda **_: fake)
    monkeypatch.setattr(
        module, "Session", lambda options, _seconds: session if options["unix_socket"] == "/s" else None
    )
    with pytest.raises(Ended):
        module.main()
    return fake.said


def test_the_module_says_what_it_did(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    have_site(session)
    said = called(Fake(), session, monkeypatch)
    assert said == {
        "changed": True, "steps": ["create schema shop"], "diff": {"before": "", "after": "create schema shop\n"}
    }  # fmt: skip
    assert session.closed


@pytest.mark.parametrize(
    ("words", "problem"),
    [("SCHEMATA", ServerGone("ERROR 2002: no socket")), ("CREATE DATABASE", SqlError("ERROR 1007: there is one"))],
)
def test_what_the_server_says_is_the_failure(
    session: Session, monkeypatch: pytest.MonkeyPatch, words: str, problem: Problem
) -> None:
    session.refuses[words] = problem
    said = called(Fake(), session, monkeypatch)
    assert said == {"failed": True, "msg": f"accounts of the database: {problem}"}
    assert session.closed
    assert session.did == []


@pytest.mark.parametrize("check", [False, True])
def test_a_host_without_the_driver_is_not_asked(session: Session, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    """Check mode is a host that only pretended to install it."""
    monkeypatch.setattr(module, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)))
    monkeypatch.setattr(module, "probe_interpreters_for_module", lambda *_: None)
    said = called(Fake(check), session, monkeypatch)
    assert said.get("failed", False) is not check
    assert said.get("skipped", False) is check
    assert "python3-pymysql" in said["msg"]


def test_another_interpreter_goes_on_with_the_one_that_has_the_driver(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def respawn(other: str) -> NoReturn:
        found.append(other)
        raise Ended

    monkeypatch.setattr(module, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)))
    monkeypatch.setattr(module, "probe_interpreters_for_module", lambda names, _driver: names[0])
    monkeypatch.setattr(module, "respawn_module", respawn)
    assert called(Fake(), session, monkeypatch) == {}
    assert found == ["/usr/bin/python3"]
    # Once is enough.
    monkeypatch.setattr(module, "has_respawned", lambda: True)
    assert "python3-pymysql is not installed" in called(Fake(), session, monkeypatch)["msg"]
