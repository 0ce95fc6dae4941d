#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers (@webstack-ha)
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: mysql_accounts
short_description: Schemas and accounts of a MariaDB server, in one call
version_added: "0.1.0"
description:
  - Brings the named schemas and accounts into being over the local socket, as root. No password reaches a command line
    or the binary log.
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
      password_fallbacks:
        description: Former passwords that are still accepted.
        type: list
        elements: str
        default: []
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
requirements:
  - PyMySQL on the host, Debian's C(python3-pymysql). The module goes on with C(/usr/bin/python3) when the interpreter
    that runs it has none. Check mode is skipped on a host that has none yet.
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

import importlib.util
import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module
from ansible_collections.webstack.ha.plugins.module_utils import _mysql_accounts as core
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb import Session, identifier, quote

#: For one statement.
SECONDS = 60


def existing(session: Session, accounts: list[core.Account]) -> dict[str, core.Account]:
    """Return the wanted accounts that exist, by their labels."""
    by_name = {
        (row["User"], row["Host"]): json.loads(row["Priv"] or "{}")
        for row in session.rows("SELECT User, Host, Priv FROM mysql.global_priv")
    }
    have = {}
    for account in accounts:
        entry = by_name.get((account.name, account.host))
        if entry is None:
            continue
        grants = [str(line) for row in session.rows(f"SHOW GRANTS FOR {account.sql}") for line in row.values()]
        have[account.label] = core.Account(
            name=account.name,
            host=account.host,
            logins=core.kept_logins(entry),
            tls=int(entry.get("ssl_type", 0)),
            grants=core.parse_grants(grants),
        )
    return have


def steps_to(session: Session, databases: list[str], accounts: list[core.Account]) -> list[tuple[str, str]]:
    """Return statements from what is to what shall be, each with words that may be shown."""
    schemas = [row["name"] for row in session.rows("SELECT SCHEMA_NAME AS name FROM information_schema.SCHEMATA")]
    steps = [(f"CREATE DATABASE {identifier(n)}", f"create schema {n}") for n in databases if n not in schemas]
    for row in session.rows("SELECT Host FROM mysql.global_priv WHERE User = ''"):
        steps.append((f"DROP USER ''@{quote(str(row['Host']))}", f"drop account ''@{row['Host']}"))
    tables = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'test' LIMIT 1"
    if "test" in schemas and "test" not in databases and not session.rows(tables):
        steps.append(("DROP DATABASE `test`", "drop the empty schema test"))
    have = existing(session, accounts)
    for account in accounts:
        steps += core.statements(account, have.get(account.label))
    return steps


def bring_about(session: Session, databases: list[str], accounts: list[core.Account], check: bool) -> list[str]:
    """Have schemas and accounts; return what was done, or what would be."""
    steps = steps_to(session, databases, accounts)
    texts = [text for _statement, text in steps]
    if steps and session.rows("SELECT @@GLOBAL.read_only AS closed")[0]["closed"] != "0":
        raise Problem(
            "the server is read-only, nothing was changed: accounts are made on the primary, and a closed primary is"
            f" opened first ('webstack db promote'). Left to do: {', '.join(texts)}"
        )
    if not check:
        session.run(*(statement for statement, _text in steps))
    return texts


def need_driver(module: AnsibleModule) -> None:
    """Go on with the system's interpreter, for which Debian packages the driver, where this one has none."""
    if importlib.util.find_spec("pymysql") is not None:
        return
    if not has_respawned() and (other := probe_interpreters_for_module(["/usr/bin/python3"], "pymysql")):
        respawn_module(other)
    if module.check_mode:
        module.exit_json(
            changed=False, skipped=True, steps=[], msg="python3-pymysql is not there yet to ask the server"
        )
    module.fail_json(msg="python3-pymysql is not installed: the role mysql_replication installs it")


def main() -> None:
    privilege = {
        "target": {"type": "str", "required": True},
        "grant": {"type": "list", "elements": "str", "required": True},
    }
    account = {
        "name": {"type": "str", "required": True},
        "host": {"type": "str", "default": "%"},
        "password": {"type": "str", "required": True, "no_log": True},
        "password_fallbacks": {"type": "list", "elements": "str", "default": [], "no_log": True},
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
    words: dict[str, Any] = module.params
    need_driver(module)
    # Replicas get what is done here: this session writes the binary log.
    session = Session({"unix_socket": words["socket"], "user": "root"}, SECONDS)
    try:
        accounts = [core.wanted(item) for item in words["accounts"]]
        steps = bring_about(session, words["databases"], accounts, module.check_mode)
    except (Problem, ValueError) as error:
        module.fail_json(msg=f"accounts of the database: {error}")
    finally:
        session.close()
    diff = {"before": "", "after": "".join(f"{text}\n" for text in steps)}
    module.exit_json(changed=bool(steps), steps=steps, diff=diff)


if __name__ == "__main__":
    main()
