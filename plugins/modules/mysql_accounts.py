#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers (@webstack-ha)
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: mysql_accounts
short_description: Schemas and accounts of a MariaDB server, in one call
version_added: "0.1.0"
description:
  - Brings the named schemas and accounts into being over the local socket, as root, with the server's own client. No
    driver is needed on the host, and no password reaches a command line or the binary log.
  - A password that matches is left alone. Privileges are compared with C(SHOW GRANTS), and those that are not listed
    are revoked.
  - Removes anonymous accounts and the empty schema C(test).
  - Schemas and accounts that are not named stay as they are.
  - Refuses to change a server that is read-only. Root may write there all the same, but a replica would then have
    transactions that its primary never had.
options:
  databases:
    description: Names of schemas that shall exist.
    type: list
    elements: str
    default: []
  accounts:
    description: Accounts that shall exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the account.
        type: str
        required: true
      host:
        description: Address, network or wildcard that it connects from.
        type: str
        default: "%"
      password:
        description: Its password.
        type: str
        required: true
      privileges:
        description: What it may do, and nothing else.
        type: list
        elements: dict
        default: []
        suboptions:
          target:
            description: C(*.*), C(schema.*) or C(schema.table).
            type: str
            required: true
          grant:
            description: Privileges, for example C(ALL) or C(SELECT).
            type: list
            elements: str
            required: true
      require_tls:
        description: Whether it may connect over TLS only.
        type: bool
        default: true
      require_certificate:
        description: Whether it also has to show a certificate of the server's CA.
        type: bool
        default: false
  socket:
    description: The server's socket.
    type: path
    default: /run/mysqld/mysqld.sock
author:
  - webstack.ha maintainers (@webstack-ha)
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: Shows what is done, without secrets.
    support: full
"""

EXAMPLES = r"""
- name: Give the application its schema and account
  webstack.ha.mysql_accounts:
    databases: [site]
    accounts:
      - name: site
        password: "{{ webstack_database_password }}"
        privileges:
          - {target: site.*, grant: [ALL]}
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: ["create schema site", "create account site@%"]
"""

import json
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.webstack.ha.plugins.module_utils import _mysql_accounts as core

MARKER = "--webstack--"


class Server:
    def __init__(self, socket: str) -> None:
        self.command = ["mariadb", "--no-defaults", "--user=root", "--protocol=socket", f"--socket={socket}", "--batch"]

    def ask(self, statements: list[str]) -> Any:
        """Run statements through the client's stdin; rows per statement."""
        text = "".join(f"{s};\nSELECT '' AS `{MARKER}`;\n" for s in statements)
        result = subprocess.run(self.command, input=text, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            # The client repeats the failed statement before the line that says what is wrong.
            lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError(lines[0] if lines else "the mariadb client failed")
        return core.split_answers(result.stdout, MARKER)


def existing(
    server: Server, names: list[core.Account]
) -> tuple[bool, list[str], list[list[str]], bool, dict[str, core.Account]]:
    """(read-only, schemas, anonymous accounts, whether an empty schema `test` exists, wanted accounts that exist)"""
    closed, schemas, tables, rows = server.ask(
        [
            "SELECT @@GLOBAL.read_only",
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA",
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'test' LIMIT 1",
            "SELECT User, Host, Priv FROM mysql.global_priv",
        ]
    )
    listed = [row[0] for row in schemas]
    anonymous = [row for row in rows if row[0] == ""]
    by_name = {(row[0], row[1]): json.loads(row[2]) for row in rows}
    found = [a for a in names if (a.name, a.host) in by_name]
    grants = server.ask([f"SHOW GRANTS FOR {a.sql}" for a in found]) if found else []
    have = {}
    for account, lines in zip(found, grants, strict=True):
        entry = by_name[(account.name, account.host)]
        native = entry.get("plugin") in ("", "mysql_native_password")
        have[account.label] = core.Account(
            name=account.name,
            host=account.host,
            password_hash=entry.get("authentication_string", "") if native else "",
            tls=int(entry.get("ssl_type", 0)),
            grants=core.parse_grants(line[0] for line in lines),
        )
    return closed[0][0] not in ("0", "OFF"), listed, anonymous, "test" in listed and not tables, have


def main() -> None:
    privilege = {
        "target": {"type": "str", "required": True},
        "grant": {"type": "list", "elements": "str", "required": True},
    }
    account = {
        "name": {"type": "str", "required": True},
        "host": {"type": "str", "default": "%"},
        "password": {"type": "str", "required": True, "no_log": True},
        "privileges": {"type": "list", "elements": "dict", "default": [], "options": privilege},
        "require_tls": {"type": "bool", "default": True},
        "require_certificate": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "databases": {"type": "list", "elements": "str", "default": []},
            "accounts": {"type": "list", "elements": "dict", "default": [], "options": account},
            "socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
        },
        supports_check_mode=True,
    )
    server = Server(module.params["socket"])
    steps: list[tuple[str, str]] = []
    try:
        accounts = [core.wanted(item) for item in module.params["accounts"]]
        closed, schemas, anonymous, empty_test, have = existing(server, accounts)
        databases = module.params["databases"]
        steps += [
            (f"CREATE DATABASE {core.identifier(n)}", f"create schema {n}") for n in databases if n not in schemas
        ]
        steps += [(f"DROP USER ''@{core.literal(row[1])}", f"drop account ''@{row[1]}") for row in anonymous]
        if empty_test and "test" not in databases:
            steps.append(("DROP DATABASE `test`", "drop the empty schema test"))
        for item in accounts:
            steps += core.statements(item, have.get(item.label))
        if steps and closed:
            raise RuntimeError(
                "the server is read-only, nothing was changed: accounts are made on the primary, and a closed primary"
                f" is opened first ('webstack-db promote'). Left to do: {', '.join(text for _statement, text in steps)}"
            )
        if steps and not module.check_mode:
            server.ask([statement for statement, _text in steps])
    except (RuntimeError, ValueError, OSError) as error:
        module.fail_json(msg=f"accounts of the database: {error}")
    texts = [text for _statement, text in steps]
    diff = {"before": "", "after": "".join(f"{text}\n" for text in texts)}
    module.exit_json(changed=bool(steps), steps=texts, diff=diff)


if __name__ == "__main__":
    main()
