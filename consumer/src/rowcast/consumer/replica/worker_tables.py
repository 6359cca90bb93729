"""Define, create and upgrade the worker's tables in the replica.

A column added by this version has a default or may be NULL. Therefore the columns can be added to tables of an earlier
version while earlier workers still run, and readers can read the tables before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.schema import CreateColumn, CreateTable

from rowcast.consumer.replica.dialects import Fault, ReplicaDialect
from rowcast.shared.errors import ConfigurationError

MAX_REASON = 2_000

_KNOWN_COLUMNS = "rowcast_columns"


def _name_type(length: int) -> sa.types.TypeEngine[str]:
    """Return a text type that compares byte by byte on every engine."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


METADATA = sa.MetaData()

ROWCAST_REPLICA = sa.Table(
    "rowcast_replica",
    METADATA,
    sa.Column("source", _name_type(100), primary_key=True),
    sa.Column("owner", _name_type(255), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("state", _name_type(16), nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
    sa.Column("tx", _name_type(255)),
    sa.Column("ts_ms", sa.BigInteger, nullable=False),
    # Why the replica cannot vouch for its rows or is not followed any further, and since when. NULL: nothing is wrong.
    sa.Column("reason", _name_type(MAX_REASON)),
    sa.Column("since_ms", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    # The source's timeline of the rows. Messages of version 0.2 and earlier name no timeline, and belong to timeline 1.
    sa.Column("timeline", sa.Integer, nullable=False, server_default=sa.text("1")),
    # Changed by every transaction of a worker. A replica with another stamp is not as the worker left the replica.
    sa.Column("stamp", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    # A loading replica knows all deletes before this time. 0: the time is not known.
    sa.Column("deletes_known_ms", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    # The first lsn of a snapshot of all rows, for tables created before the first event.
    sa.Column("first_lsn", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    # The last comparison of all tables with the primary: the time of the end (0: never), the verdict, and numbers of
    # rows.
    sa.Column("verified_ms", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("verified", _name_type(20)),
    sa.Column("verified_rows", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("verified_differing", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)

ROWCAST_POSITION = sa.Table(
    "rowcast_position",
    METADATA,
    sa.Column("source", _name_type(100), primary_key=True),
    sa.Column("topic", _name_type(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
    # Kafka's id of the topic. NULL: an earlier version wrote the position, or the broker has no ids.
    sa.Column("topic_id", _name_type(32)),
    # The replica knows all deletes of the partition before this time. Only a group of workers writes the column. 0: not
    # known.
    sa.Column("known_ms", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)

ROWCAST_TABLE = sa.Table(
    "rowcast_table",
    METADATA,
    sa.Column("source", _name_type(100), primary_key=True),
    sa.Column("table_name", _name_type(255), primary_key=True),
    sa.Column("shape", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    # False: the table was there before the worker and belongs to the user.
    sa.Column("created", sa.Boolean(create_constraint=False), nullable=False),
    # Events of the table with a smaller lsn are left out, because a later snapshot has published all its rows again.
    sa.Column("first_lsn", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)

# The events of the replica in the dead letter topic, not applied. Later events of the rows follow into the topic.
ROWCAST_DEAD_LETTER = sa.Table(
    "rowcast_dead_letter",
    METADATA,
    sa.Column("source", _name_type(100), primary_key=True),
    # The place of the event in its own topic. An event written twice to the dead letter topic has a single row.
    sa.Column("topic", _name_type(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_offset", sa.BigInteger, primary_key=True, autoincrement=False),
    # The events of a letter are applied together or not at all.
    sa.Column("letter", _name_type(300), nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
    sa.Column("tx", _name_type(255)),
    # NULL: the event cannot be read so far.
    sa.Column("table_name", _name_type(255)),
    sa.Column("row_key", sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4"), "mysql", "mariadb")),
    sa.Column("reason", _name_type(MAX_REASON), nullable=False),
    sa.Column("exception", _name_type(255), nullable=False),
    sa.Column("stage", _name_type(40), nullable=False),
    # False: the event itself was not refused, and follows an earlier event.
    sa.Column("is_cause", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("dlq_topic", _name_type(249), nullable=False),
    sa.Column("dlq_partition", sa.Integer, nullable=False),
    sa.Column("dlq_offset", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)


def create_tables(engine: Engine, replica: ReplicaDialect) -> None:
    """Create missing tables of this module, and add missing columns. Several workers may call this at the same time.

    Raise ConfigurationError with the statements to run if the user lacks the right.
    """
    # Use a single connection, because every start of a worker runs these checks.
    with engine.connect() as connection:
        if _are_complete(connection):
            return
        connection.rollback()
        try:
            # In one transaction where the engine can, because a reader that finds one table looks into others.
            with connection.begin():
                METADATA.create_all(connection)
        except exc.DBAPIError:
            # Other workers may create the tables at the same moment.
            for table in METADATA.sorted_tables:
                _create(connection, replica, table)
        with connection.begin():
            missing = missing_columns(connection)
    for statement in missing.values():
        _add_column(engine, replica, statement)


def _create(connection: Connection, replica: ReplicaDialect, table: sa.Table) -> None:
    """Create a missing table.

    Raise ConfigurationError if the user may not, and an earlier version created the remaining tables.
    """
    try:
        with connection.begin():
            table.create(connection, checkfirst=True)
    except exc.DBAPIError as error:
        if replica.classify(error) in (Fault.LOST, Fault.TRANSIENT):
            raise
        with connection.begin():
            inspector = sa.inspect(connection)
            if inspector.has_table(table.name):
                return  # Another worker was faster.
            if not inspector.has_table(ROWCAST_REPLICA.name):
                raise
        raise _refusal(connection.engine, replica, error, "create tables") from error


def _are_complete(connection: Connection) -> bool:
    """Return whether all tables and columns exist. A statement for each table is enough, and inspecting takes many."""
    try:
        for table in METADATA.sorted_tables:
            connection.execute(sa.select(table).where(sa.false())).close()
    except (exc.ProgrammingError, exc.OperationalError):
        # The creation of the tables meets any other reason again.
        return False
    return True


def missing_columns(bind: Engine | Connection) -> dict[str, str]:
    """Return the statements for the missing columns of tables of an earlier version, by ``table.column``."""
    inspector = sa.inspect(bind)
    missing = {}
    for table in METADATA.sorted_tables:
        if not inspector.has_table(table.name):
            continue
        existing = {column["name"] for column in inspector.get_columns(table.name)}
        for column in _absent(table, existing):
            ddl = CreateColumn(column).compile(dialect=bind.dialect)
            missing[f"{table.name}.{column.name}"] = f"ALTER TABLE {table.name} ADD COLUMN {ddl}"
    return missing


def _add_column(engine: Engine, replica: ReplicaDialect, statement: str) -> None:
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    except exc.DBAPIError as error:
        if statement not in missing_columns(engine).values():
            return  # The other worker was faster.
        if replica.classify(error) in (Fault.LOST, Fault.TRANSIENT):
            raise
        raise _refusal(engine, replica, error, "add columns to them") from error


def _refusal(engine: Engine, replica: ReplicaDialect, error: exc.DBAPIError, what: str) -> ConfigurationError:
    """Return the error for a user who lacks a right, with all statements to run."""
    statements = "\n".join([*_missing_tables(engine), *missing_columns(engine).values()])
    return ConfigurationError(
        "the worker's tables in the replica are those of an earlier version, and the user of the replica's url may "
        f"not {what}: {replica.reason(error)}. Give the user {replica.right_to_add_columns} and the right to create "
        f"tables, or run with another user:\n{statements}"
    )


def _missing_tables(engine: Engine) -> Iterator[str]:
    """Yield the statements for missing tables, each in a line."""
    inspector = sa.inspect(engine)
    for table in METADATA.sorted_tables:
        if not inspector.has_table(table.name):
            yield " ".join(str(CreateTable(table).compile(dialect=engine.dialect)).split())


def select_rows(connection: Connection, table: sa.Table) -> sa.Select[Any]:
    """Return a SELECT of all columns. A column that an earlier version did not create has the default value.

    For readers, because readers do not change the tables.
    """
    known: dict[str, set[str]] = connection.info.setdefault(_KNOWN_COLUMNS, {})
    if table.name not in known:
        known[table.name] = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    absent = {column.name for column in _absent(table, known[table.name])}
    return sa.select(*(_default(column).label(column.name) if column.name in absent else column for column in table.c))


def _absent(table: sa.Table, existing: set[str]) -> Iterator[sa.Column[Any]]:
    return (column for column in table.columns if column.name not in existing)


def _default(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    default = column.server_default
    return sa.literal_column(str(default.arg)) if isinstance(default, sa.DefaultClause) else sa.null()
