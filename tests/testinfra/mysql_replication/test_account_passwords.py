"""A new password costs nobody a request: the former one is accepted as long as it is listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_mysql_replication import (
    DB1,
    DB2,
    SITE_PASSWORD,
    Writer,
    client,
    converge,
    count_changed,
    is_pair,
    notes,
    on,
    said,
    sql,
    table,
    until,
)

__all__ = ["table"]
NEW = "anöther 'lab\" secret"
REPLICATION = "another one of the lab"


def site(*passwords: str, **more: Any) -> str:
    account = {"name": "site", "password": passwords[0], "password_fallbacks": passwords[1:]}
    account["privileges"] = [{"target": "site.*", "grant": ["ALL"]}]
    return json.dumps({"mysql_replication_accounts": [account], **more})


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    assert converge().returncode == 0
    until(lambda: is_pair(DB1, DB2), 20)


def test_a_writer_with_the_former_password_goes_on_until_that_is_no_longer_listed() -> None:
    until(lambda: is_pair(DB1, DB2), 20)
    before = json.loads(on(DB2, "cat", "/etc/webstack/db.json").stdout)["password"]
    rotated = site(
        NEW, SITE_PASSWORD,
        mysql_replication_password=REPLICATION, mysql_replication_password_fallbacks=[before],
    )  # fmt: skip
    with Writer("rotated") as writer:
        first = converge("-e", rotated)
        again = converge("-e", rotated)
    assert first.returncode == 0, first.stdout
    assert (again.returncode, count_changed(again)) == (0, 0), again.stdout
    assert not {NEW, SITE_PASSWORD, REPLICATION, before} & set(said(first).split("'"))
    kept = [text for text in notes(DB1) if text.startswith("rotated-")]
    numbers = [int(text.partition("-")[2]) for text in kept]
    assert numbers == list(range(1, len(numbers) + 1)), "one was refused"
    assert len(writer.written) > 20
    assert client("SELECT 1", password=NEW).returncode == 0
    until(lambda: is_pair(DB1, DB2), 20)
    assert len(auth()) == 2
    ended = converge("-e", site(NEW, mysql_replication_password=REPLICATION))
    assert ended.returncode == 0, ended.stdout
    refused = client("SELECT 1")
    assert refused.returncode != 0
    assert "Access denied" in refused.stderr
    assert client("SELECT 1", password=NEW).returncode == 0
    assert len(auth()) == 1
    on(DB2, "webstack", "db", "restart")
    until(lambda: is_pair(DB1, DB2), 20)


def auth() -> list[Any]:
    """The ways in which the account of the replica may log in."""
    kept = json.loads(sql(DB1, "SELECT Priv FROM mysql.global_priv WHERE User = 'replica'")[0][0])
    return kept.get("auth_or") or [kept]
