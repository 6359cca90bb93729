"""Find out what a capture cannot record on an engine, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.capture.transaction_check import AUTOCOMMIT_HINT, IN_AUTOCOMMIT, storage_hint
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.raw_execution import is_autocommit
from rowcast.producer.outbox.capture_mode import TriggerCapturedTables
from rowcast.producer.outbox.schema import OutboxTables, missing_parts
from rowcast.producer.tables.captured import CapturedTable, CapturedTables
from rowcast.producer.tables.row_filter import check_row_filter
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Finding, Verdict

_OUTBOX_RIGHTS = {"rowcast_outbox": ["INSERT"], "rowcast_shape": ["SELECT", "INSERT", "UPDATE"]}
"""What the application needs."""
_CHANGES = ("INSERT", "UPDATE", "DELETE")


def capture_findings(engine: Engine, outbox: OutboxTables, tables: CapturedTables) -> list[Finding]:
    """Return the findings about an engine in AUTOCOMMIT, missing outbox tables, and tables that cannot be captured."""
    findings = []
    with engine.connect() as connection:
        # The application may begin transactions by a listener.
        connection.begin()
        if is_autocommit(connection):
            findings.append(_finding("", f"this engine is in AUTOCOMMIT, {IN_AUTOCOMMIT}", AUTOCOMMIT_HINT))
        for own in outbox:
            if missing := missing_parts(own, connection):
                message, _, hint = missing.partition(". ")
                findings.append(_finding(own.name, message, hint))
            else:
                findings += _missing_rights(connection, own, _OUTBOX_RIGHTS.get(own.name, ()))
        for name in tables.unknown_names():
            message = "is named in the configuration, but the metadata has no such table"
            findings.append(_finding(name, message, "correct the name, or remove it from the configuration"))
        for table in tables.application_tables():
            try:
                findings += _faults(connection, table, outbox, tables)
            except ConfigurationError as error:
                connection.rollback()
                findings.append(Finding("primary", Verdict.configuration, str(error), table=table.fullname))
    return findings


def _faults(connection: Connection, table: sa.Table, outbox: OutboxTables, tables: CapturedTables) -> Iterator[Finding]:
    """Yield the findings about a table. Raise ConfigurationError if the settings are not valid for the table."""
    if not tables.is_captured(table):
        return
    if not table.primary_key.columns:
        yield _finding(table.fullname, "has no primary key", "add one, or do not capture the table")
        return
    captured = tables.captured_table(table, connection.dialect, default_schema(connection.dialect))
    if not sa.inspect(connection).has_table(table.name, schema=table.schema):
        yield _finding(table.fullname, "does not exist in the database", "create it, or run the migration that does")
        return
    place = captured.shape.schema, captured.shape.name
    storage = capture_dialect(connection.dialect).storage_without_transactions(connection, *place)
    if storage is not None:
        message = f"its storage engine {storage} has no transactions, {IN_AUTOCOMMIT}"
        yield _finding(table.fullname, message, storage_hint(table.fullname))
    check_row_filter(connection, captured)
    by_triggers = False
    if sa.inspect(connection).has_table(outbox.shape.name):
        by_triggers = TriggerCapturedTables(outbox.shape).contains(connection, captured, tables.settings(table))
    if by_triggers:
        hindrance = capture_dialect(connection.dialect).hindrance_to_triggers(connection)
        if hindrance is not None:
            message = f"its triggers fail on this engine, because {hindrance}"
            yield _finding(captured.full_name, message, "set PRAGMA trusted_schema = ON, or capture by listeners")
    else:
        yield from _limits_of_role(connection, captured)


def _missing_rights(connection: Connection, table: sa.Table, rights: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding if the current role lacks rights on a table of the outbox."""
    dialect = capture_dialect(connection.dialect)
    lacking = ", ".join(right for right in rights if not dialect.has_right(connection, table, right))
    if lacking:
        message = f"this role lacks the right to {lacking}, so that its commits with captured changes fail"
        yield _finding(table.name, message, f"GRANT {lacking} ON {table.name} to the role")


def _limits_of_role(connection: Connection, captured: CapturedTable) -> Iterator[Finding]:
    """Yield the findings about rows hidden from the current role, and about its missing rights."""
    dialect, name = capture_dialect(connection.dialect), captured.full_name
    if dialect.hides_rows(connection, captured.table):
        message = "row-level security may hide its rows from this role, so that the listeners refuse every statement"
        yield _finding(name, message, f"run `rowcast triggers install {name}`, or use a role that no policy binds")
    changes = {right for right in _CHANGES if dialect.has_right(connection, captured.table, right)}
    read = {str(column.name) for column in (*captured.key_columns, *captured.columns)}
    unread = sorted(c for c in read if not dialect.has_right(connection, captured.table, "SELECT", c))
    if changes and unread:
        message = f"this role may not read {', '.join(unread)}, which the capture reads when the role changes a row"
        yield _finding(name, message, f"GRANT SELECT ({', '.join(unread)}) ON {name} to the role")
    if "DELETE" in changes and "UPDATE" not in changes:
        key = captured.key_columns[0].name
        message = "this role may DELETE but not UPDATE, and the capture locks the rows of some DELETEs"
        yield _finding(name, message, f"GRANT UPDATE ({key}) ON {name} to the role, because locking needs it")


def _finding(table: str, message: str, hint: str) -> Finding:
    return Finding("primary", Verdict.missing, message, hint, table)
