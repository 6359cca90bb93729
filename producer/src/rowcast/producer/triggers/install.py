"""Install, renew and drop the triggers of a table, together with the shape that their lines name."""

from __future__ import annotations

import re
from pkgutil import resolve_name

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.capture_mode import CaptureMode, capture_modes, set_capture_mode
from rowcast.producer.outbox.schema import missing_parts, outbox_tables
from rowcast.producer.outbox.shape_versions import NewShape, has_rows, insert_shapes, mark_newest, stored_versions
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import check_row_filter
from rowcast.producer.triggers.base import TriggerDialect
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import ConfigurationError


def triggers_on(connection: Connection) -> TriggerDialect:
    """Return the trigger dialect of the connection's engine.

    Raises ConfigurationError if triggers cannot capture there, as on MySQL.
    """
    dialect = connection.dialect
    triggers: type[TriggerDialect] = resolve_name(capture_dialect(dialect).trigger_dialect(dialect))
    return triggers(connection)


def install(
    connection: Connection, table: CapturedTable, *, instead_of_listeners: bool = False, owner: str | None = None
) -> None:
    """Create or replace the table's triggers, in the connection's transaction if the engine has transactional DDL.

    The triggers capture the table from the end of the transaction on, and ``rowcast_shape`` records it.
    ``instead_of_listeners``: install even if listeners capture the table until now. ``owner``: the role that owns the
    functions of the triggers on PostgreSQL. None: the present owner, or the installing role. Raises ConfigurationError
    if listeners capture the table and the flag is not set, if triggers cannot capture the table, or if a role lacks a
    right.
    """
    triggers = triggers_on(connection)
    if owner is not None:
        triggers.choose_owner(owner)
    shape = _shape_table(connection)
    check_row_filter(connection, table)
    triggers.check_supported(table)
    by = capture_modes(connection, shape).get(table.full_name)
    if by is CaptureMode.listeners and not instead_of_listeners:
        raise ConfigurationError(
            f"{table.full_name} is captured by the listeners of an application, and triggers would write its changes a "
            "second time. To change the mode: declare it with Table(info={'rowcast': 'triggers'}), install with "
            "--instead-of-listeners (Alembic: instead_of_listeners=True), then restart the application."
        )
    try:
        triggers.create_shared(table)
        with triggers.writers_kept_out(table):
            there = stored_versions(connection, shape, [table.full_name]).versions.get(table.full_name, {})
            if table.version in there:
                mark_newest(connection, shape, table, there)
            else:
                rows_before = by is None and has_rows(connection, table)
                insert_shapes(connection, shape, [NewShape(table, max(there.values(), default=0), rows_before)])
            set_capture_mode(connection, shape, table.full_name, CaptureMode.triggers)
            for statement in triggers.create_statements(table, str(triggers.comment_for(table))):
                triggers.execute(statement)
            triggers.finish(table)
    except exc.DBAPIError as error:
        raise _to_rights_error(error, table.full_name, triggers) from error


def drop(connection: Connection, full_name: str) -> None:
    """Drop the table's triggers. Then nobody captures the table until listeners write or triggers are installed.

    Raises ConfigurationError if the role lacks a right.
    """
    triggers = triggers_on(connection)
    schema, _, name = full_name.partition(".")
    try:
        for statement in triggers.drop_statements(schema, name):
            triggers.execute(statement)
        set_capture_mode(connection, _shape_table(connection), full_name, CaptureMode.nobody)
    except exc.DBAPIError as error:
        raise _to_rights_error(error, full_name, triggers) from error


def _shape_table(connection: Connection) -> sa.Table:
    tables = outbox_tables(sa.MetaData())
    for own in (tables.outbox, tables.shape):
        if missing := missing_parts(own, connection):
            raise ConfigurationError(
                f"triggers write into the outbox, but in {connection.engine.url} the table {own.name} {missing}."
            )
    return tables.shape


def _to_rights_error(error: exc.DBAPIError, full_name: str, triggers: TriggerDialect) -> Exception:
    """Return a ConfigurationError if the role lacks a right, otherwise the error itself."""
    if not re.search(_NO_RIGHTS, str(error.orig), re.IGNORECASE):
        return error
    return ConfigurationError(
        f"the triggers of {full_name} in {triggers.connection.engine.url}: {first_line(error)}. {triggers.rights_hint}"
    )


_NO_RIGHTS = r"permission denied|must be owner|command denied|access denied|SUPER privilege"
