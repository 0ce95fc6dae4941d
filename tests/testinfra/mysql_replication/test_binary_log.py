"""What the role's programs say to a replica stays out of its binary log, where it would be a transaction of its own."""

from __future__ import annotations

import json
import os
import pathlib
import re

from rerun import play
from test_mysql_replication import DB1, DB2, Writer, converge, is_pair, notes, on, said, sql, table, until

__all__ = ["table"]

#: Commands of `webstack db` that need an argument.
ARGUMENTS = {
    "receive": [f"--from={DB1}"],
    "send": [f"--to={DB1}"],
    "receive-wait": ["--wait=1"],
    "settle": ["--wait=5"],
}
#: The service itself runs it all the time; a receiver of its own would wait a minute for its sender.
ENDLESS = {"watch", "receive-run"}


def position(host: str) -> str:
    return sql(host, "SELECT @@gtid_binlog_pos")[0][0]


def own_transactions(host: str) -> str:
    """The newest transaction that this server did not get from the other one."""
    own = sql(host, "SELECT @@server_id")[0][0]
    return ",".join(re.findall(rf"\d+-{own}-\d+", sql(host, "SELECT @@gtid_binlog_state")[0][0]))


def test_no_command_is_logged_by_a_replica() -> None:
    listing = on(DB2, "webstack", "db", "--help").stdout
    commands = re.findall(r"^ {4}([a-z-]+)(?: |$)", listing, re.MULTILINE)
    assert {"status", "apply", "relink", "settle"} <= set(commands)
    sql(DB1, "INSERT INTO site.note (text) VALUES ('a position')")
    until(lambda: position(DB2) == position(DB1), 10)
    logged = {}
    for command in [c for c in commands if c not in ENDLESS]:
        # As after a renewed certificate: what a run with nothing to do leaves out is said too.
        on(DB2, "sed", "-i", 's/"tls": "[0-9a-f]*"/"tls": ""/', "/run/webstack/db/started.json", check=False)
        before = position(DB2)
        on(DB2, "webstack", "db", command, *ARGUMENTS.get(command, []), check=False)
        if position(DB2) != before:
            logged[command] = f"{before} -> {position(DB2)}"
    assert logged == {}
    on(DB2, "webstack", "db", "apply")
    until(lambda: is_pair(DB1, DB2), 10)


def test_accounts_are_never_made_on_a_replica(tmp_path: pathlib.Path) -> None:
    module = {"webstack.ha.mysql_accounts": {"databases": ["site", "stray"]}}
    book = tmp_path / "accounts.yml"
    book.write_text(json.dumps([{"hosts": DB2, "gather_facts": False, "tasks": [module]}]))
    before = position(DB2)
    refused = play("mysql_replication", book=book)
    assert refused.returncode != 0
    assert "the server is read-only, nothing was changed" in said(refused)
    assert "create schema stray" in said(refused)
    assert position(DB2) == before
    assert not sql(DB2, "SHOW DATABASES LIKE 'stray'")


def test_renewed_certificates_are_taken_into_use_under_writes() -> None:
    pki = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
    since = {host: sql(host, "SHOW STATUS LIKE 'Ssl_server_not_before'") for host in (DB1, DB2)}
    for host in (DB1, DB2):
        for path in pki.glob(f"{host}.*"):
            path.unlink()
    own = own_transactions(DB2)
    with Writer("renewed") as writer:
        result = converge()
    assert result.returncode == 0, result.stdout
    assert len(writer.written) > 5
    until(lambda: is_pair(DB1, DB2), 10)
    until(lambda: notes(DB1) == notes(DB2), 10)
    assert set(writer.written) <= set(notes(DB2))
    assert own_transactions(DB2) == own
    for host in (DB1, DB2):
        served = "echo | openssl s_client -connect 127.0.0.1:3306 -starttls mysql 2>/dev/null | openssl x509"
        stored = "openssl x509 -in /etc/mysql/webstack/cert.pem"
        assert on(host, "sh", "-c", served).stdout == on(host, "sh", "-c", stored).stdout != "", since
    again = converge()
    assert again.returncode == 0, again.stdout
    assert "left to do" not in again.stdout
