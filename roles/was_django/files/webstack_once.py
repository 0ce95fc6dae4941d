"""Run a management command once for a database, whichever server asks.

  python -m webstack_once ever|release PROGRAM... -- COMMAND...

`ever` is once as long as the database lives, `release` once for each release. What was done is kept in the database
itself, so that it is known wherever the database is, and comes back with a backup. One that fails is run again the next
time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time

from django.db import connection

TABLE = "webstack_once"
EVER = "ever"


def main(arguments: list[str]) -> int:
    """Run the command, unless it was done already; return its exit code."""
    # Not django.setup(): an application may need what its management program does before that.
    scope, *rest = arguments
    at = rest.index("--")
    program, command = rest[:at], rest[at + 1 :]
    key = hashlib.sha256("\0".join([scope, *command]).encode()).hexdigest()
    release = EVER if scope == EVER else os.environ["WEBSTACK_RELEASE"]
    if done(key) == release:
        print(f"{' '.join(command)}: was done already")
        return 0
    # The command may take long, and a server closes a connection that is silent.
    connection.close()
    sys.stdout.flush()
    code = subprocess.run([sys.executable, *program, *command], check=False).returncode
    if code == 0:
        remember(key, release, command)
    return code


def done(key: str) -> str | None:
    """Return for which release this was done last."""
    with connection.cursor() as cursor:
        if TABLE not in connection.introspection.table_names(cursor):
            cursor.execute(
                f"CREATE TABLE {TABLE} (id CHAR(64) NOT NULL PRIMARY KEY, command TEXT NOT NULL,"
                " release_id VARCHAR(255) NOT NULL, done_at BIGINT NOT NULL)"
            )
        cursor.execute(f"SELECT release_id FROM {TABLE} WHERE id = %s", [key])
        row = cursor.fetchone()
    return str(row[0]) if row else None


def remember(key: str, release: str, command: list[str]) -> None:
    """Keep that it was done. Of a command only the last release is known."""
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {TABLE} WHERE id = %s", [key])
        cursor.execute(
            f"INSERT INTO {TABLE} (id, command, release_id, done_at) VALUES (%s, %s, %s, %s)",
            [key, " ".join(command), release, int(time.time())],
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
