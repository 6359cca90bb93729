"""Capture on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.database.dialects import row_security, search_path
from rowcast.producer.database.dialects.base import CaptureDialect, MissingRow, has_long_values
from rowcast.producer.database.dialects.image_settings import UnderSettings, condition_that_hold, settings_of
from rowcast.producer.database.dialects.keys import PostgreSQLKeys
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.shared.database.driver_errors import sqlstate
from rowcast.shared.tables.shape import PortableType

# Every outbox row is deleted as soon as it is published. Vacuum at a fixed number of dead rows, because a share of a
# table that is nearly empty says nothing, and without pauses.
_EMPTIED = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 2_000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 20_000,
}
# The lease is one row that is updated all the time. The free space lets a new version fit on the page of the old one.
_UPDATED = {"fillfactor": 10, "autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": 1_000}
_STORAGE: dict[str, dict[str, int]] = {
    "rowcast_outbox": {
        **_EMPTIED,
        "toast.autovacuum_vacuum_scale_factor": 0,
        "toast.autovacuum_vacuum_threshold": 2_000,
        "toast.autovacuum_vacuum_cost_delay": 0,
    },
    "rowcast_claim": _EMPTIED,
    "rowcast_lease": _UPDATED,
}

# The default compression takes half as long as making the images. A server may be built without lz4.
_HAS_LZ4 = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"

# A role may have asked for less. Other values are at least as durable, and stay.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"

_READER_SETTINGS = (
    # A plan made for an empty outbox would sort the whole outbox even with millions of rows.
    "SET plan_cache_mode = force_custom_plan",
    "SET enable_seqscan = off",
    # With enable_seqscan off, a plan that must read a whole table has very high costs. The server would compile the
    # plan first, in a tenth of a second for a look at ten rows.
    "SET jit = off",
)

_VACUUM_TIMEOUT = "10s"
# A VACUUM without the right to do so would leave a warning in the server's log each time.
MAY_VACUUM = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = 'rowcast_outbox'::regclass"
# TRUNCATE is off because it locks the table.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) rowcast_outbox, rowcast_claim, rowcast_lease"

# Internal triggers check foreign keys and unique keys, and change nothing as late as COMMIT. But while a deferred
# primary key is violated, a key has several rows.
_HAS_DEFERRABLE_TRIGGERS = sa.text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgdeferrable AND NOT tgisinternal) "
    "OR EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE condeferrable AND contype = 'p')"
)

_LIMIT_EXCEEDED = "54000"
_TOO_LONG = ("invalid memory alloc request size", "Cannot enlarge string buffer", "string buffer exceeds maximum")

_IN_FAILED_TRANSACTION = "25P02"

# Row triggers that run BEFORE DELETE, rules with DO INSTEAD, and row triggers that run BEFORE INSERT and may both write
# and return NULL. Triggers that run BEFORE UPDATE usually change the new row, and reading the rows of every UPDATE
# before would take twice as long.
_REPLACED_STATEMENTS = sa.text(r"""
    SELECT nspname || '.' || relname, verb FROM (
        SELECT tgrelid AS relation, 'DELETE' AS verb FROM pg_catalog.pg_trigger
        WHERE NOT tgisinternal AND tgtype & 11 = 11
        UNION
        SELECT ev_class, CASE ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END
        FROM pg_catalog.pg_rewrite WHERE is_instead AND ev_type IN ('2', '3', '4')
        UNION
        SELECT tgrelid, 'INSERTED ROW' FROM pg_catalog.pg_trigger
        JOIN pg_catalog.pg_proc p ON p.oid = tgfoid JOIN pg_catalog.pg_language g ON g.oid = prolang
        WHERE NOT tgisinternal AND tgtype & 7 = 7 AND lanname NOT IN ('c', 'internal') AND (lanname <> 'plpgsql' OR (
            prosrc ~* '\mreturn\M\s+(?!new\M)' AND prosrc ~* '\m(insert|update|delete|merge|execute|perform|call)\M'
        ))
    ) AS replaced JOIN pg_catalog.pg_class c ON c.oid = relation JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
""")
_PARTITIONS = sa.text("SELECT relname FROM pg_class WHERE relispartition AND relnamespace = to_regnamespace(:schema)")


class PostgreSQLCapture(CaptureDialect):
    """Capture on PostgreSQL."""

    keys = PostgreSQLKeys()
    locks_missing_rows = False
    failure_ends_transaction = True
    transaction_id = sa.cast(sa.func.txid_current(), sa.String)
    qualifies_returning = True
    upserts_a_row_once = True
    has_dml_in_ctes = True
    array_parameters = True
    has_lateral = True
    needs_vacuum = True
    has_boolean = True
    timestamp_digits = 0
    retry_isolation = "READ COMMITTED"
    # Keys are stored as text. In UTC no time comes twice in autumn. A chunk is read faster than its statement compiles.
    row_settings = (
        "datestyle = 'ISO'",
        "intervalstyle = 'postgres'",
        "extra_float_digits = 1",
        "timezone = 'UTC'",
        "jit = off",
        # A read that row security would cut is an error.
        "row_security = off",
    )
    rows_by_ids = "FROM rowcast_outbox AS o WHERE o.id = ANY(CAST(:ids AS bigint[]))"

    raises_for_missing_rows = True

    def lock_for_truncate(self, connection: Connection, tables: Sequence[sa.Table]) -> bool:
        """Lock the tables."""
        names = ", ".join(map(connection.dialect.identifier_preparer.format_table, tables))
        statement = sa.text(f"LOCK TABLE {names.replace(':', chr(92) + ':')} IN ACCESS EXCLUSIVE MODE")
        connection.execute(statement, execution_options={**UNTRANSLATED, **INTERNAL_STATEMENT})
        return True

    def missing_line(
        self, line: ColumnElement[str] | None, table: sa.Table, gone: ColumnElement[str], dialect: Dialect
    ) -> ColumnElement[str]:
        return row_security.missing_line(line, table, gone, dialect)

    def missing_row(self, error: exc.DBAPIError) -> MissingRow | None:
        return row_security.missing_row(error)

    def replaced_statements(self, connection: Connection) -> frozenset[tuple[str, str]]:
        rows = connection.execute(_REPLACED_STATEMENTS, execution_options=INTERNAL_STATEMENT)
        return frozenset((name, verb) for name, verb in rows)

    def tables_with_row_security(self, connection: Connection) -> frozenset[str]:
        return row_security.secured_tables(connection)

    def has_right(self, connection: Connection, table: sa.Table, right: str, column: str | None = None) -> bool:
        return row_security.has_right(connection, table, right, column)

    def hides_rows(self, connection: Connection, table: sa.Table) -> bool:
        return row_security.is_active(connection, table)

    def measured_bytes(self, column: sa.Column[Any], type_: PortableType) -> ColumnElement[int] | None:
        if not has_long_values(type_):
            return None
        if type_.name in ("string", "char", "text", "bytes"):
            # The server knows this length without reading a value that is stored outside of the row.
            return sa.func.octet_length(column)
        whole = sa.func.octet_length(sa.cast(column, sa.Text))
        is_compressed = sa.func.pg_column_compression(column).is_not(sa.null())
        return sa.case((is_compressed, whole), else_=sa.func.pg_column_size(column))

    def is_too_long(self, error: exc.DBAPIError) -> bool:
        return sqlstate(error) == _LIMIT_EXCEEDED or any(text in str(error.orig) for text in _TOO_LONG)

    run_deferred = "SET CONSTRAINTS ALL IMMEDIATE"

    def has_deferrable_triggers(self, connection: Connection) -> bool:
        return bool(connection.execute(_HAS_DEFERRABLE_TRIGGERS, execution_options=INTERNAL_STATEMENT).scalar_one())

    def mark_transaction(self, connection: Connection) -> None:
        """Do nothing, because every statement that may end the transaction does so."""

    def is_marked_transaction(self, connection: Connection) -> bool:
        return False

    def is_aborted(self, error: exc.DBAPIError) -> bool:
        return sqlstate(error) == _IN_FAILED_TRANSACTION

    def now_ms(self) -> ColumnElement[int]:
        return sa.literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)", sa.BigInteger)

    def may_change_schema(self, sql: str, parameters: Any) -> bool:
        in_parameter = "set_config" in sql and "search_path" in str(parameters).lower()
        return in_parameter or search_path.CHANGES.search(sql) is not None

    def schema_of(self, connection: Connection, name: str) -> tuple[str | None, bool]:
        return search_path.schema_of(connection, name)

    def counts_many_sets(self, dialect: Dialect) -> bool:
        return dialect.supports_sane_multi_rowcount

    def placed_text(self, text: ColumnElement[str], tables: Sequence[sa.Table], dialect: Dialect) -> ColumnElement[str]:
        return search_path.placed_text(text, tables, dialect)

    def changed_schema(self, connection: Connection, error: exc.DBAPIError | None) -> str | None:
        return None if error is None else search_path.changed_path(error)

    def under_fixed_settings(self, text: ColumnElement[str], types: Iterable[PortableType]) -> ColumnElement[str]:
        settings = settings_of(types)
        return UnderSettings(text, settings) if settings else text

    def fixed_settings_hold(self, types: Iterable[PortableType]) -> str:
        return condition_that_hold(settings_of(types))

    def insert_unless_there(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> sa.Insert:
        return postgresql.insert(table).values(rows).on_conflict_do_nothing()

    def tune_table(self, connection: Connection, table: sa.Table) -> None:
        if table.name not in _STORAGE:
            return
        name = connection.dialect.identifier_preparer.format_table(table)
        settings = ", ".join(f"{key} = {value}" for key, value in _STORAGE[table.name].items())
        connection.exec_driver_sql(f"ALTER TABLE {name} SET ({settings})")
        if "changes" in table.c and connection.exec_driver_sql(_HAS_LZ4).scalar():
            connection.exec_driver_sql(f"ALTER TABLE {name} ALTER COLUMN changes SET COMPRESSION lz4")

    def prepare_writer(self, connection: Connection, idle_ms: int) -> None:
        connection.exec_driver_sql(f"SET SESSION idle_in_transaction_session_timeout = {idle_ms:d}")
        # Workers may have seen the lsns of a claim. Therefore a crash of the server must not lose the claim.
        connection.exec_driver_sql(_DURABLE)

    def prepare_reader(self, connection: Connection) -> None:
        for setting in _READER_SETTINGS:
            connection.exec_driver_sql(setting)
        # The reader writes claims, too: see ``Claims``.
        connection.exec_driver_sql(_DURABLE)

    def limit_lock_wait(self, connection: Connection, seconds: int) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{seconds:d}s'")

    def lock_table(self, connection: Connection, name: str) -> None:
        connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE MODE")

    def ids_parameter(self, ids: Sequence[int]) -> object:
        return list(ids)

    def vacuum_outbox(self, connection: Connection) -> bool:
        if not connection.exec_driver_sql(MAY_VACUUM).scalar():
            return False
        # The connection goes back to a pool. Therefore the timeout must hold for this statement alone.
        connection.exec_driver_sql(f"SET statement_timeout = '{_VACUUM_TIMEOUT}'")
        try:
            connection.exec_driver_sql(_VACUUM)
        finally:
            connection.exec_driver_sql("RESET statement_timeout")
        return True

    def partitions(self, connection: Connection, schema: str) -> set[str]:
        return set(connection.scalars(_PARTITIONS, {"schema": schema}))

    def trigger_dialect(self, dialect: Dialect) -> str:
        return "rowcast.producer.triggers.postgresql:PostgreSQLTriggers"
