# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables there are, how one is cut into slices of its primary key, and the statements that sum one up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ..core.mariadb import Session, identifier, quote
from .config import SYSTEM_SCHEMAS

#: How a value of these types is written as a literal. A table whose key has another type is one slice.
BARE = {"tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "year"}
WORDS = {"char", "varchar"}
BYTES = {"binary", "varbinary"}
QUOTED = {"date", "datetime", "timestamp", "time", "uuid", "inet4", "inet6"}
#: Values that may be large are summed up by themselves: what a text function returns has a limit.
LARGE = {
    "tinyblob", "blob", "mediumblob", "longblob", "tinytext", "text", "mediumtext", "longtext", "json", "geometry",
    "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection",
}  # fmt: skip
#: A table without a key that could cut it is summed up at once, up to so many rows.
WHOLE_ROWS = 100_000


class Column(NamedTuple):
    name: str
    kind: str
    """The data type, in small letters and without its length."""


class Table(NamedTuple):
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...]
    """The primary key; empty where it has none that could cut it."""
    engine: str = "InnoDB"
    rows: int = 0
    """As the server guesses."""

    @property
    def where(self) -> str:
        return f"{identifier(self.schema)}.{identifier(self.name)}"

    @property
    def title(self) -> str:
        return f"{self.schema}.{self.name}"

    def why_not(self) -> str:
        """Say why it cannot be compared, or nothing."""
        if self.engine.lower() != "innodb":
            return f"engine {self.engine} takes no part in transactions"
        if not self.key and self.rows > WHOLE_ROWS:
            return f"has no primary key that could cut its {self.rows} rows into slices"
        return ""


#: The values of a key, each as a literal.
Edge = Sequence[str]


def can_cut(columns: Sequence[Column]) -> bool:
    return bool(columns) and all(column.kind in BARE | WORDS | BYTES | QUOTED for column in columns)


def asked(column: Column) -> str:
    """Return the expression whose text `literal` understands."""
    name = identifier(column.name)
    if column.kind in WORDS:
        return f"HEX(CONVERT({name} USING utf8mb4))"
    return f"HEX({name})" if column.kind in BYTES else name


def literal(column: Column, text: str) -> str:
    if column.kind in BARE:
        return text
    if column.kind in WORDS:
        return f"_utf8mb4 X'{text}'"
    return f"X'{text}'" if column.kind in BYTES else quote(text)


def beyond(key: Sequence[Column], edge: Edge) -> str:
    """Return the condition that a row comes after this edge."""
    return _side(key, edge, ">", ">")


def up_to(key: Sequence[Column], edge: Edge) -> str:
    """Return the condition that a row comes before this edge, or is on it."""
    return _side(key, edge, "<", "<=")


def _side(key: Sequence[Column], edge: Edge, inner: str, last: str) -> str:
    names = [identifier(column.name) for column in key]
    parts = []
    for index in range(len(names)):
        same = [f"{name} = {value}" for name, value in zip(names[:index], edge[:index], strict=True)]
        sign = last if index == len(names) - 1 else inner
        parts.append(" AND ".join([*same, f"{names[index]} {sign} {edge[index]}"]))
    return "(" + " OR ".join(f"({part})" for part in parts) + ")"


def part(table: Table, low: Edge | None, high: Edge | None) -> str:
    """Return the condition of a slice. The first one has no lower edge, the last one no upper: none is left out."""
    found = [beyond(table.key, low)] if low else []
    found += [up_to(table.key, high)] if high else []
    return " AND ".join(found) or "TRUE"


def next_edge(table: Table, low: Edge | None, rows: int) -> str:
    """Return the question for the last key of a slice of so many rows."""
    names = ", ".join(f"{asked(column)} AS k{index}" for index, column in enumerate(table.key))
    order = ", ".join(identifier(column.name) for column in table.key)
    return (
        f"SELECT {names} FROM {table.where} FORCE INDEX (PRIMARY) WHERE {part(table, low, None)}"
        f" ORDER BY {order} LIMIT 1 OFFSET {rows - 1}"
    )


def edge(table: Table, row: Mapping[str, str | None]) -> Edge:
    return [literal(column, row[f"k{index}"] or "") for index, column in enumerate(table.key)]


def sums(table: Table) -> str:
    """Return the expressions for the number of rows and their sum. The order of rows does not matter to it."""
    row = ", ".join(_value(column) for column in table.columns)
    hashed = f"CAST(CONV(LEFT(MD5(CONCAT({row})), 16), 16, 10) AS UNSIGNED)"
    return f"COUNT(*), COALESCE(BIT_XOR({hashed}), 0)"


def _value(column: Column) -> str:
    """Return a text that is another one for each value, NULL included, and that never runs into the next one."""
    name = identifier(column.name)
    if column.kind in LARGE:
        return f"COALESCE(MD5({name}), '-')"
    return f"COALESCE(CONCAT(OCTET_LENGTH({name}), ':', CAST({name} AS BINARY)), '-')"


def tables(session: Session) -> Iterator[Table]:
    """Return the tables of all schemas but the server's own."""
    system = ", ".join(quote(name) for name in sorted(SYSTEM_SCHEMAS))
    keys = session.rows(
        "SELECT TABLE_SCHEMA AS db, TABLE_NAME AS name, COLUMN_NAME AS col, SUB_PART AS part"
        f" FROM information_schema.STATISTICS WHERE INDEX_NAME = 'PRIMARY' AND TABLE_SCHEMA NOT IN ({system})"
        " ORDER BY 1, 2, SEQ_IN_INDEX"
    )
    key_of = {which: list(rows) for which, rows in groupby(keys, lambda row: (row["db"], row["name"]))}
    found = session.rows(
        "SELECT c.TABLE_SCHEMA AS db, c.TABLE_NAME AS name, COLUMN_NAME AS col, DATA_TYPE AS kind, ENGINE AS engine,"
        " COALESCE(TABLE_ROWS, 0) AS guess FROM information_schema.COLUMNS c JOIN information_schema.TABLES t"
        " USING (TABLE_SCHEMA, TABLE_NAME) WHERE TABLE_TYPE LIKE '%BASE TABLE' OR TABLE_TYPE = 'SYSTEM VERSIONED'"
        " ORDER BY 1, 2, ORDINAL_POSITION"
    )
    for (schema, name), group in groupby(found, lambda row: (str(row["db"]), str(row["name"]))):
        if schema.lower() in SYSTEM_SCHEMAS:
            continue
        rows = list(group)
        columns = {str(row["col"]): Column(str(row["col"]), str(row["kind"]).lower()) for row in rows}
        parts = key_of.get((schema, name), [])
        key = tuple(columns[str(row["col"])] for row in parts)
        if not can_cut(key) or any(row["part"] is not None for row in parts):
            key = ()
        yield Table(schema, name, tuple(columns.values()), key, str(rows[0]["engine"]), int(rows[0]["guess"] or 0))
