"""Try to create the missing tables of a replica, for ``rowcast check``.

The engine itself accepts or refuses the names, the columns, the size of the rows and the length of the keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable

from rowcast.consumer.checks.rights import scratch_name
from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.consumer.replica.table_definitions import TableDefinitions, replica_name, table_limits_named
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.shape import TableShape


def creation_findings(
    engine: Engine, dialect: ReplicaDialect, shapes: Sequence[TableShape], area: str
) -> Iterator[Finding]:
    """Yield the tables that cannot exist on the replica's engine. ``shapes``: the source's shapes."""
    with engine.connect() as connection:
        for shape in shapes:
            schema, table = replica_name(shape, dialect)
            if dialect.read_columns(connection, schema, table):
                continue
            try:
                # Another error says nothing about the engine's limits. Missing rights and types are separate findings.
                with suppress(exc.DBAPIError):
                    _try_to_create(connection, dialect, shape)
            except ConfigurationError as error:
                fault, _, hint = str(error).partition(". ")
                yield Finding(area, Verdict.missing, fault, hint.removesuffix("."), shape.full_name)


def _try_to_create(connection: Connection, dialect: ReplicaDialect, shape: TableShape) -> None:
    """Create the table and its unique keys under another name. Raise ConfigurationError for a limit of the engine."""
    definitions = TableDefinitions([shape], dialect, connection.dialect)
    wanted = definitions.tables[shape.full_name]
    table = sa.Table(
        scratch_name(),
        sa.MetaData(),
        *(sa.Column(column.name, column.type, nullable=column.nullable, autoincrement=False) for column in wanted.c),
        sa.PrimaryKeyConstraint(*shape.primary_key),
        **dialect.table_options(shape.engine, connection.dialect),
    )
    try:
        with table_limits_named(shape, dialect):
            connection.execute(CreateTable(table))
            for index in definitions.unique_indexes(shape):
                columns = (table.c[column.name] for column in index.columns)
                connection.execute(CreateIndex(sa.Index(index.name, *columns, unique=True)))
    finally:
        # MariaDB, MySQL, and Python's driver of SQLite do not undo a CREATE.
        connection.rollback()
        connection.execute(DropTable(table, if_exists=True))
        connection.commit()
