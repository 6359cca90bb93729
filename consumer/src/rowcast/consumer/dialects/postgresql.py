"""PostgreSQL: a batch is one JSON array, which the server takes apart; one parameter a statement."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.dialects.dialect import (
    Fault,
    PositionRow,
    ReplicaDialect,
    ReplicaTable,
    StoredColumn,
    quoted_name,
)
from rowcast.consumer.dialects.values import is_plain_uuid, plain_uuid
from rowcast.consumer.layouts import Layout
from rowcast.shared.shapes import PortableType

# The server keeps the rows of an array in work_mem, 4 MB by default, and writes what is more to a file: 20,000 rows of
# 190 bytes in one statement are a fifth slower than in four.
_BYTES_PER_STATEMENT = 1_000_000

# A worker that was stopped in the middle of a transaction must not hold its rows' locks for ever.
_IDLE_IN_TRANSACTION_MS = 60_000

_SESSION = (
    f"SET idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION_MS}",
    # A plan made while a table was small would scan it when it is large.
    "SET plan_cache_mode = force_custom_plan",
    "SET timezone = 'UTC'",
    # A floating-point number is stored as the very one that was sent, whatever the role's settings are.
    "SET datestyle = 'ISO, MDY'",
    "SET intervalstyle = 'postgres'",
    "SET check_function_bodies = off",
)

_COLUMNS = sa.text(
    """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, a.attgenerated <> ''
    FROM pg_attribute a
    WHERE a.attrelid = to_regclass(:quoted) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
    """
)


_WRITE_POSITIONS = """
    INSERT INTO rowcast_position (source, topic, partition, next_offset, lsn)
    SELECT p->>0, p->>1, (p->>2)::integer, (p->>3)::bigint, (p->>4)::bigint FROM json_array_elements(%s::json) AS p
    ON CONFLICT (source, topic, partition) DO UPDATE SET next_offset = excluded.next_offset, lsn = excluded.lsn
"""


class PostgreSQLReplica(ReplicaDialect):
    """Foreign keys are deferred to the transaction's end, whose state the primary was in."""

    name = "postgresql"
    deferrable = True
    has_schemas = True

    def __init__(self) -> None:
        self._upserts: dict[tuple[ReplicaTable, Layout], str] = {}
        self._deletes: dict[tuple[ReplicaTable, Layout], str] = {}

    def configure(self, engine: Engine) -> None:
        @event.listens_for(engine, "connect")
        def session(connection: object, _record: object) -> None:
            with connection.cursor() as cursor:  # type: ignore[attr-defined]
                for statement in _SESSION:
                    cursor.execute(statement)
            connection.commit()  # type: ignore[attr-defined]

    def stored_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, StoredColumn]:
        # Not ready for a driver: to_regclass reads the name as SQL would, where a % is a %.
        quoted = quoted_name(connection, schema, name).replace("%%", "%")
        rows = connection.execute(_COLUMNS, {"quoted": quoted})
        return {r[0]: StoredColumn(r[0], r[1].lower(), r[2], r[3]) for r in rows}

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")

    def key_values(self, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Texts, which take the type of the column that they are compared with."""
        convert = [(n, _key_converter(layout.shape.column(n).type, table.columns[n].type)) for n in table.key]
        for key in keys:
            row = orjson.loads(key)
            yield tuple(converter(str(row[name])) for name, converter in convert)

    def upsert(self, connection: Connection, table: ReplicaTable, layout: Layout, images: Sequence[bytes]) -> None:
        statement = self._upserts.get((table, layout))
        if statement is None:
            statement = self._upserts[table, layout] = _upsert_statement(connection, table, layout)
        _execute_in_pieces(connection, statement, images)

    def delete(self, connection: Connection, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> None:
        statement = self._deletes.get((table, layout))
        if statement is None:
            statement = self._deletes[table, layout] = _delete_statement(connection, table, layout)
        _execute_in_pieces(connection, statement, keys)

    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        connection.exec_driver_sql(_WRITE_POSITIONS, (orjson.dumps(rows).decode(),))

    def _other_fault(self, error: exc.DBAPIError) -> Fault:
        state = str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")
        if state[:2] in ("40", "53") or state in ("55P03", "57014"):
            return Fault.PASSING
        if state[:2] in ("08", "57") or state == "25P03" or (not state and isinstance(error, exc.OperationalError)):
            return Fault.LOST
        # 21000: two texts of one key in a batch ('1.0', '1.00'); one after the other they do.
        return Fault.CONFLICT if state == "21000" else Fault.DATA

    def rows_stand_in_the_way(self, error: exc.DBAPIError) -> bool:
        return isinstance(error, exc.IntegrityError)


def _key_converter(portable: PortableType, stored: str) -> Callable[[str], Any]:
    if stored == "bytea":
        return base64.b64decode
    return plain_uuid if is_plain_uuid(portable, stored) else str


def _execute_in_pieces(connection: Connection, statement: str, documents: Sequence[bytes]) -> None:
    start = size = 0
    for i, document in enumerate(documents):
        size += len(document) + 1
        if size > _BYTES_PER_STATEMENT:
            _execute(connection, statement, documents[start : i + 1])
            start, size = i + 1, 0
    if start < len(documents):
        _execute(connection, statement, documents[start:])


def _execute(connection: Connection, statement: str, documents: Sequence[bytes]) -> None:
    array = b"[" + b",".join(documents) + b"]"
    connection.exec_driver_sql(statement, (array.decode(),))


def _upsert_statement(connection: Connection, table: ReplicaTable, layout: Layout) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    names = table.taken(layout)
    columns = ", ".join(quote(name) for name in names)
    record, values = _record(connection, table, layout, names)
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in table.key)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    return (
        f"INSERT INTO {table.quoted} ({columns}) OVERRIDING SYSTEM VALUE "
        f"SELECT {values} FROM json_to_recordset(%s::json) AS r({record}) "
        f"ON CONFLICT ({', '.join(quote(name) for name in table.key)}) DO {action}"
    )


def _delete_statement(connection: Connection, table: ReplicaTable, layout: Layout) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    record, values = _record(connection, table, layout, table.key)
    columns = ", ".join(f"t.{quote(name)}" for name in table.key)
    return (
        f"DELETE FROM {table.quoted} AS t USING json_to_recordset(%s::json) AS r({record}) "
        f"WHERE ({columns}) = ({values})"
    )


def _record(connection: Connection, table: ReplicaTable, layout: Layout, names: Sequence[str]) -> tuple[str, str]:
    """The record's definition, and the expressions that turn its fields into the columns' values.

    The field has the type of the column itself, so that the type's own input function reads the text.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    fields, values = [], []
    for name in names:
        portable, stored = layout.shape.column(name).type, table.columns[name].type
        field, value = _field(portable, stored.replace("%", "%%"), f"r.{quote(name)}")
        fields.append(f"{quote(name)} {field}")
        values.append(value)
    return ", ".join(fields), ", ".join(values)


def _field(portable: PortableType, stored: str, field: str) -> tuple[str, str]:
    if portable.name == "bytes" and stored == "bytea":
        return "text", f"decode({field}, 'base64')"
    # A json field would keep the string that holds the document, instead of the document.
    if stored in ("json", "jsonb"):
        return "text", f"{field}::{stored}"
    if stored in ("json[]", "jsonb[]"):
        return "text[]", f"{field}::{stored}"
    # The decimal point of its own text is that of lc_monetary.
    if stored in ("money", "money[]"):
        return stored.replace("money", "numeric"), f"{field}::{stored}"
    if is_plain_uuid(portable, stored):
        return "text", f"replace({field}, '-', '')"
    return stored, field
