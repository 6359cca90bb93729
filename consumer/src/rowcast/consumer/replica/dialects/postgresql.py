"""PostgreSQL: a batch is a JSON array, the only parameter of the statement. The server splits the array.

Many new rows come by COPY instead.
"""

from __future__ import annotations

import base64
import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import value_limits
from rowcast.consumer.replica.dialects.base import (
    LOCK_S,
    Fault,
    PositionRow,
    ReplicaDialect,
    require_updated,
    require_written,
)
from rowcast.consumer.replica.dialects.capacities import Capacity
from rowcast.consumer.replica.dialects.claims import ClaimSession, PostgreSQLClaim
from rowcast.consumer.replica.dialects.postgresql_copy import COPIED_ROWS, RowCopy
from rowcast.consumer.replica.dialects.postgresql_fields import REFUSED, record_of
from rowcast.consumer.replica.dialects.postgresql_round_trips import begin_with, commit_with
from rowcast.consumer.replica.dialects.quoting import quoted_name
from rowcast.consumer.replica.dialects.replica_table import ReplicaColumn, ReplicaTable, TableName
from rowcast.consumer.replica.dialects.type_capacities import postgresql_capacity
from rowcast.consumer.replica.dialects.value_converters import hex_uuid, is_hex_uuid
from rowcast.consumer.replica.dialects.value_limits import ValueLimit
from rowcast.shared.database.driver_errors import sqlstate
from rowcast.shared.database.engines import open_engine
from rowcast.shared.tables.native_types import is_type
from rowcast.shared.tables.shape import PortableType, TableShape

# The server keeps the rows of an array in work_mem, 4 MB by default, and writes the rest to a file. In a single
# statement, 20,000 rows of 190 bytes take a fifth more time than in four.
_BYTES_PER_STATEMENT = 1_000_000

_log = logging.getLogger("rowcast.worker")

# A worker suspended in the middle of a transaction must not lock rows for ever.
_IDLE_IN_TRANSACTION_MS = 60_000

_SESSION = (
    f"SET idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION_MS}",
    # A plan made while a table was small would scan the table when it is large.
    "SET plan_cache_mode = force_custom_plan",
    "SET timezone = 'UTC'",
    # Values are read alike under all settings of the role.
    "SET datestyle = 'ISO, MDY'",
    "SET intervalstyle = 'postgres'",
    # A read that row security would cut is an error.
    "SET row_security = off",
    "SET check_function_bodies = off",
)

# The xmax of a row is the transaction with the lock. Only sessions of the user's own role can be ended.
_OTHER_WRITERS = sa.text(
    "SELECT l.pid FROM rowcast_replica r JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = r.xmax "
    "AND l.granted JOIN pg_stat_activity a ON a.pid = l.pid AND a.usename = current_user "
    "WHERE r.source = :source AND l.pid <> pg_backend_pid()"
)

_POSITION_HOLDERS = sa.text(
    "SELECT p.topic, p.partition, l.pid FROM rowcast_position p JOIN pg_locks l ON l.locktype = 'transactionid' "
    "AND l.transactionid = p.xmax AND l.granted JOIN pg_stat_activity a ON a.pid = l.pid "
    "AND a.usename = current_user WHERE p.source = :source AND l.pid <> pg_backend_pid()"
)

_COLUMNS = sa.text(
    """
    WITH RECURSIVE wanted AS (
        SELECT w.place, to_regclass(w.quoted) AS id
        FROM unnest(CAST(:quoted AS text[])) WITH ORDINALITY AS w(quoted, place)
    ), base AS (
        SELECT w.place, a.attnum, a.atttypid AS type, a.atttypmod AS modifier
        FROM wanted w JOIN pg_attribute a ON a.attrelid = w.id
        WHERE a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT b.place, b.attnum, t.typbasetype, t.typtypmod
        FROM base b JOIN pg_type t ON t.oid = b.type
        WHERE t.typtype = 'd'
    )
    SELECT b.place, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, a.attgenerated <> '',
        CASE t.typtype WHEN 'e' THEN (
            SELECT 'enum(' || string_agg(quote_literal(l.enumlabel), ',') || ')'
            FROM pg_enum l WHERE l.enumtypid = t.oid
        ) ELSE format_type(b.type, b.modifier) END,
        CASE WHEN a.attidentity <> '' THEN 'identity' ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), '') END
    FROM wanted w JOIN base b ON b.place = w.place JOIN pg_attribute a ON a.attrelid = w.id AND a.attnum = b.attnum
        JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''
    ORDER BY b.place, b.attnum
    """
)

# A batch has two texts of the same key ('1.0', '1.00'). In separate statements, both succeed.
_ROW_CHANGED_TWICE = "21000"

_WRITE_POSITIONS = """
    INSERT INTO rowcast_position (source, topic, partition, next_offset, lsn, topic_id)
    SELECT p->>0, p->>1, (p->>2)::integer, (p->>3)::bigint, (p->>4)::bigint, p->>5
    FROM json_array_elements($1::json) AS p
    ON CONFLICT (source, topic, partition) DO UPDATE
    SET next_offset = excluded.next_offset, lsn = excluded.lsn, topic_id = excluded.topic_id
"""


class PostgreSQLReplica(ReplicaDialect):
    """Write to PostgreSQL. Foreign keys are checked at the end of the transaction, a state that the primary had."""

    name = "postgresql"
    refuses_large_integers = True
    longest_name = 63
    name_unit = "bytes"
    has_deferrable_foreign_keys = True
    has_schemas = True
    right_to_add_columns = "the ownership of the tables"
    value_limits = (
        value_limits.NO_ZERO_DATES,
        value_limits.NO_LONG_TIMES,
        ValueLimit("numbers other than 0 and 1", frozenset(("boolean",))),
        ValueLimit("texts with a NUL character", value_limits.TEXTS),
    )

    def __init__(self) -> None:
        self._upserts: dict[tuple[ReplicaTable, RowLayout], str] = {}
        self._updates: dict[tuple[ReplicaTable, RowLayout], str] = {}
        self._deletes: dict[tuple[ReplicaTable, RowLayout], str] = {}
        self._copies: dict[tuple[ReplicaTable, RowLayout], RowCopy] = {}

    def forget_tables(self) -> None:
        """Forget the statements of all tables."""
        self._upserts.clear()
        self._updates.clear()
        self._deletes.clear()
        self._copies.clear()

    def configure(self, engine: Engine) -> None:
        """Set the session up."""

        @event.listens_for(engine, "connect")
        def set_up_session(connection: object, _record: object) -> None:
            with connection.cursor() as cursor:  # type: ignore[attr-defined]
                for statement in _SESSION:
                    cursor.execute(statement)
            connection.commit()  # type: ignore[attr-defined]

    def new_claim(self, url: URL, label: str, source: str, lease_s: float) -> ClaimSession:
        """Return a session with an advisory lock."""
        return PostgreSQLClaim(open_engine(url, label, pooled=False, isolation_level="READ COMMITTED"), source, lease_s)

    def end_silent_transactions(self, connection: Connection, seconds: float) -> None:
        """Let the server end the session, and give up the wait for a lock after this time."""
        for name in ("idle_in_transaction_session_timeout", "lock_timeout"):
            connection.exec_driver_sql(f"SET {name} = {math.ceil(seconds * 1000):d}")
        connection.commit()

    def end_position_holders(
        self, connection: Connection, source: str, partitions: Collection[tuple[str, int]]
    ) -> None:
        """Terminate the sessions. The server waits without end for the rows of a COPY."""
        with connection.begin():
            for topic, partition, pid in connection.execute(_POSITION_HOLDERS, {"source": source}).all():
                if (topic, partition) in partitions:
                    _log.warning("ending the session %d, which holds the position of %s/%d", pid, topic, partition)
                    connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid:d})")

    def end_other_writers(self, connection: Connection, source: str) -> None:
        """Terminate the sessions whose transactions have locked the replica's row."""
        with connection.begin():
            for (pid,) in connection.execute(_OTHER_WRITERS, {"source": source}).all():
                _log.warning("ending the session %d of an earlier worker, which holds the lock of the replica", pid)
                connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid:d})")

    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ReplicaColumn]:
        """Return the table's columns by name."""
        return self.read_all_columns(connection, [(schema, name)])[schema, name]

    def read_all_columns(
        self, connection: Connection, names: Collection[TableName]
    ) -> dict[TableName, dict[str, ReplicaColumn]]:
        """Return the columns of each table, read in one statement."""
        in_order = list(names)
        found: dict[TableName, dict[str, ReplicaColumn]] = {name: {} for name in in_order}
        rows = connection.execute(_COLUMNS, {"quoted": _quoted_names(connection, in_order)})
        for place, column, type_, nullable, generated, stored, default in rows:
            found[in_order[place - 1]][column] = ReplicaColumn(
                column, type_.lower(), nullable, generated, stored=stored, default=default
            )
        return found

    def read_triggers(self, connection: Connection, names: Collection[TableName]) -> Iterator[tuple[TableName, str]]:
        """Yield the enabled triggers and rules of these tables."""
        in_order = list(names)
        for place, trigger in connection.execute(_TRIGGERS, {"quoted": _quoted_names(connection, in_order)}):
            yield in_order[place - 1], trigger

    def is_limit(self, error: exc.DBAPIError) -> bool:
        """Return whether the server refuses the number of columns or the size of an index's row."""
        return (sqlstate(error) or "").startswith(_LIMIT_EXCEEDED)

    def capacity(self, column_type: str) -> Capacity | None:
        """Return what a column of a type holds."""
        return postgresql_capacity(column_type)

    def type_change(self, connection: Connection, table: str, column: ReplicaColumn, type_: str) -> str | None:
        """Return the statement that gives a column another type."""
        return f"ALTER TABLE {table} ALTER COLUMN {quoted_name(connection, None, column.name)} TYPE {type_}"

    def table_renaming(self, connection: Connection, table: TableName, new: TableName) -> Iterator[str]:
        """Yield the statements. A move to another schema comes first."""
        default = str(connection.dialect.default_schema_name)
        if (table[0] or default) != (new[0] or default):
            schema = quoted_name(connection, None, new[0] or default)
            if new[0]:
                yield f"CREATE SCHEMA IF NOT EXISTS {schema}"
            yield f"ALTER TABLE {quoted_name(connection, *table)} SET SCHEMA {schema}"
        if table[1] != new[1]:
            moved = quoted_name(connection, new[0], table[1])
            yield f"ALTER TABLE {moved} RENAME TO {quoted_name(connection, None, new[1])}"

    @contextmanager
    def bounded_lock_waits(self, connection: Connection) -> Iterator[None]:
        """Limit the wait for a lock, because every later reader of the table waits behind the change."""
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_S:d}s'")
        yield
        connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")

    def defer_foreign_keys(self, connection: Connection) -> None:
        """Check foreign keys at the end of the transaction."""
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")

    def key_values(self, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Return texts. PostgreSQL reads a text as the type of the compared column."""
        convert = [(n, _key_converter(layout.shape.column(n).type, table.columns[n].type)) for n in table.key]
        for key in keys:
            row = orjson.loads(key)
            yield tuple(converter(str(row[name])) for name, converter in convert)

    def upsert(
        self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes],
        create: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        """Write rows by primary key: many new rows by COPY, the others as JSON arrays."""
        if sum(create) >= COPIED_ROWS:
            copy = self._copies.get((table, layout))
            if copy is None:
                copy = self._copies[table, layout] = RowCopy(connection, table, layout)
            images = copy.write(connection, images, create)
        if images:
            self._write(connection, table, layout, images)

    def _write(self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes]) -> None:
        statement = self._upserts.get((table, layout))
        if statement is None:
            statement = self._upserts[table, layout] = _upsert_statement(connection, table, layout)
        written = _execute_in_pieces(connection, statement, images)
        if len(table.writable_columns(layout)) > len(table.key):
            # ON CONFLICT DO NOTHING does not count rows that exist.
            require_written(table, written, len(images))

    def update(self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes]) -> None:
        """Write the columns of the layout to existing rows, as JSON arrays."""
        if len(table.writable_columns(layout)) > len(table.key):
            statement = self._updates.get((table, layout))
            if statement is None:
                statement = self._updates[table, layout] = _update_statement(connection, table, layout)
            require_updated(table, layout, _execute_in_pieces(connection, statement, images), len(images))

    def delete(self, connection: Connection, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> None:
        """Delete rows by primary key, as JSON arrays."""
        statement = self._deletes.get((table, layout))
        if statement is None:
            statement = self._deletes[table, layout] = _delete_statement(connection, table, layout)
        _execute_in_pieces(connection, statement, keys)

    def begin(
        self, connection: Connection, statement: sa.Update, parameters: Mapping[str, Any], *, defer_foreign_keys: bool
    ) -> int:
        """Send BEGIN, the statement and SET CONSTRAINTS at once."""
        found = begin_with(connection, statement, parameters, defer_foreign_keys=defer_foreign_keys)
        if found is not None:
            return found
        return super().begin(connection, statement, parameters, defer_foreign_keys=defer_foreign_keys)

    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        """Insert or update rows of ``rowcast_position``, as one JSON array."""
        connection.exec_driver_sql(_WRITE_POSITIONS.replace("$1", "%s"), (orjson.dumps(rows).decode(),))

    def finish(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        """Send the positions and COMMIT at once."""
        if not commit_with(connection, _WRITE_POSITIONS, [orjson.dumps(rows).decode()]):
            self.write_positions(connection, rows)

    def reason(self, error: exc.DBAPIError) -> str:
        """Return the server's message, or the refusal of a value that the column would round."""
        refused = REFUSED.search(str(error.orig))
        return refused[1].removeprefix("rowcast: ") if refused else super().reason(error)

    def _classify_by_code(self, error: exc.DBAPIError) -> Fault:
        if sqlstate(error) == _ROW_CHANGED_TWICE:
            return Fault.CONFLICT
        return super()._classify_by_code(error)

    def is_violated_by_rows(self, error: exc.DBAPIError) -> bool:
        """Return whether rows prevented a constraint."""
        return isinstance(error, exc.IntegrityError)

    def missing_types(self, connection: Connection, shapes: Sequence[TableShape]) -> dict[str, list[str]]:
        """Return the columns of PostgreSQL sources with a missing type, for example a type of an extension."""
        columns: dict[str, list[str]] = {}
        for shape in shapes:
            for column in shape.columns:
                type_ = column.type.items or column.type
                if type_.name == "native" and self.is_own_engine(shape.engine) and is_type(type_.native):
                    columns.setdefault(type_.native, []).append(f"{shape.full_name}.{column.name}")
        return {
            name: names
            for name, names in columns.items()
            if connection.scalar(sa.select(sa.func.to_regtype(name))) is None
        }


_LIMIT_EXCEEDED = "54"

_TRIGGERS = sa.text(
    "SELECT t.place, found.name FROM unnest(CAST(:quoted AS text[])) WITH ORDINALITY AS t (quoted, place) JOIN ("
    "SELECT tgrelid AS relation, tgname AS name FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') "
    "UNION ALL SELECT ev_class, rulename FROM pg_rewrite WHERE ev_type <> '1' AND ev_enabled IN ('O', 'A')"
    ") AS found ON found.relation = to_regclass(t.quoted) ORDER BY 1, 2"
)


def _quoted_names(connection: Connection, names: Collection[TableName]) -> list[str]:
    # to_regclass reads a name as SQL does, so the doubling of % for the driver is undone.
    return [quoted_name(connection, *name).replace("%%", "%") for name in names]


def _key_converter(portable: PortableType, column_type: str) -> Callable[[str], Any]:
    if column_type == "bytea":
        return base64.b64decode
    return hex_uuid if is_hex_uuid(portable, column_type) else str


def _execute_in_pieces(connection: Connection, statement: str, documents: Sequence[bytes]) -> int:
    """Return the number of rows that the statement has written or deleted."""
    ends = list(accumulate(map(len, documents)))
    start = written = 0
    while start < len(documents):
        before = ends[start - 1] if start else 0
        end = bisect_right(ends, before + _BYTES_PER_STATEMENT, start) + 1
        written += _execute(connection, statement, documents[start:end])
        start = end
    return written


def _execute(connection: Connection, statement: str, documents: Sequence[bytes]) -> int:
    array = b"[" + b",".join(documents) + b"]"
    return connection.exec_driver_sql(statement, (array.decode(),)).rowcount


def _upsert_statement(connection: Connection, table: ReplicaTable, layout: RowLayout) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    names = table.writable_columns(layout)
    columns = ", ".join(quote(name) for name in names)
    record, values = record_of(connection, table, layout, names)
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in table.key)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    return (
        f"INSERT INTO {table.quoted} ({columns}) OVERRIDING SYSTEM VALUE "
        f"SELECT {values} FROM json_to_recordset(%s::json) AS r({record}) "
        f"ON CONFLICT ({', '.join(quote(name) for name in table.key)}) DO {action}"
    )


def _update_statement(connection: Connection, table: ReplicaTable, layout: RowLayout) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    names = table.writable_columns(layout)
    changed = [name for name in names if name not in table.key]
    record, _ = record_of(connection, table, layout, names)
    _, values = record_of(connection, table, layout, changed)
    _, key = record_of(connection, table, layout, table.key)
    return (
        f"UPDATE {table.quoted} AS t SET ({', '.join(map(quote, changed))}) = ROW({values}) "
        f"FROM json_to_recordset(%s::json) AS r({record}) "
        f"WHERE ({', '.join(f't.{quote(name)}' for name in table.key)}) = ({key})"
    )


def _delete_statement(connection: Connection, table: ReplicaTable, layout: RowLayout) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    record, values = record_of(connection, table, layout, table.key)
    columns = ", ".join(f"t.{quote(name)}" for name in table.key)
    return (
        f"DELETE FROM {table.quoted} AS t USING json_to_recordset(%s::json) AS r({record}) "
        f"WHERE ({columns}) = ({values})"
    )
