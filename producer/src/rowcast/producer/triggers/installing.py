"""Installing, renewing and dropping a table's triggers, with the shape that their lines name."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.capturing import Capturer, capturers, hand_over
from rowcast.producer.outbox import missing_of, outbox_tables
from rowcast.producer.predicates import check_predicate
from rowcast.producer.shape_log import has_rows, write_newest, written_versions
from rowcast.producer.tables import CapturedTable
from rowcast.producer.triggers.dialect import TriggerDialect
from rowcast.producer.triggers.mysql import MariaDBTriggers
from rowcast.producer.triggers.postgresql import PostgreSQLTriggers
from rowcast.producer.triggers.sqlite import SQLiteTriggers
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.types import MYSQL_FAMILY, engine_family

_DIALECTS: dict[str, type[TriggerDialect]] = {
    "postgresql": PostgreSQLTriggers,
    "mysql": MariaDBTriggers,
    "sqlite": SQLiteTriggers,
}


def triggers_on(connection: Connection) -> TriggerDialect:
    """The triggers of the connection's engine. Raises ConfigurationError if it is MySQL, not MariaDB."""
    dialect = connection.dialect
    if dialect.name in MYSQL_FAMILY and not getattr(dialect, "is_mariadb", False):
        raise ConfigurationError(
            "rowcast's triggers need MariaDB 10.3 or later: nothing tells a trigger of MySQL's which transaction it "
            "runs in, so that its changes could not be published as whole transactions. Capture by listeners there."
        )
    return _DIALECTS[engine_family(dialect.name)](connection)


def install(connection: Connection, table: CapturedTable, *, instead_of_listeners: bool = False) -> None:
    """Makes the table's triggers, or makes them anew, in the connection's transaction where the engine can.

    From its end on they capture the table; ``rowcast_shape`` says so. ``instead_of_listeners``: even if listeners have
    captured it until now. Raises ConfigurationError if they have and that is not wanted, if the table cannot be
    captured by triggers, or if the connection has not the rights.
    """
    triggers = triggers_on(connection)
    shape = _shape_table(connection)
    check_predicate(connection, table)
    triggers.refuse(table)
    by = capturers(connection, shape).get(table.full_name)
    if by is Capturer.listeners and not instead_of_listeners:
        raise ConfigurationError(
            f"{table.full_name} is captured by the listeners of an application, and triggers would write its changes a "
            "second time. To change over: declare it with Table(info={'rowcast': 'triggers'}), install with "
            "--instead-of-listeners (Alembic: instead_of_listeners=True), then restart the application."
        )
    try:
        triggers.prepare()
        with triggers.alone(table):
            there = written_versions(connection, shape, [table.full_name]).get(table.full_name, {})
            write_newest(connection, shape, table, there, rows_before=by is None and has_rows(connection, table))
            hand_over(connection, shape, table.full_name, Capturer.triggers)
            for statement in triggers.create(table, str(triggers.marker(table))):
                triggers.run(statement)
    except exc.DBAPIError as error:
        raise _refused(error, table.full_name, connection) from error


def drop(connection: Connection, full_name: str) -> None:
    """Drops the table's triggers; from then on nobody captures it until listeners write or triggers are installed.

    Raises ConfigurationError if the connection has not the rights.
    """
    triggers = triggers_on(connection)
    schema, _, name = full_name.partition(".")
    try:
        for statement in triggers.drop(schema, name):
            triggers.run(statement)
        hand_over(connection, _shape_table(connection), full_name, Capturer.nobody)
    except exc.DBAPIError as error:
        raise _refused(error, full_name, connection) from error


def _shape_table(connection: Connection) -> sa.Table:
    tables = outbox_tables(sa.MetaData())
    for own in (tables.outbox, tables.shape):
        if missing := missing_of(own, connection):
            raise ConfigurationError(
                f"triggers write into the outbox, but in {connection.engine.url} the table {own.name} {missing}."
            )
    return tables.shape


def _refused(error: exc.DBAPIError, full_name: str, connection: Connection) -> Exception:
    """The database's refusal for want of rights as an error of the user's; any other error as it is."""
    reason = str(error.orig)
    if not re.search(_NO_RIGHTS, reason, re.IGNORECASE):
        return error
    first = reason.strip().splitlines()[0]
    mend = _MEND[engine_family(connection.dialect.name)]
    return ConfigurationError(f"the triggers of {full_name} in {connection.engine.url}: {first}. {mend}")


_NO_RIGHTS = r"permission denied|must be owner|command denied|access denied|SUPER privilege"
_MEND = {
    "postgresql": "Install as the table's owner, with CREATE on its schema.",
    "sqlite": "",
    "mysql": (
        "The user needs TRIGGER on the table, and CREATE, CREATE ROUTINE, ALTER ROUTINE, INSERT and SELECT on the "
        "database. Where the binary log is on, SUPER too, or log_bin_trust_function_creators = 1."
    ),
}
