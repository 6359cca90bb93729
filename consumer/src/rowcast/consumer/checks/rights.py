"""Try the rights of a worker in the replica, for ``rowcast check``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.consumer.replica.worker_tables import METADATA
from rowcast.shared.database.rights import WRITES, Right, refused_rights, rights_finding, table_rights
from rowcast.shared.findings import Finding
from rowcast.shared.tables.shape import TableShape

SCRATCH_PREFIX = "rowcast_try_"


def scratch_name() -> str:
    """Return a new name for a temporary table of the check."""
    return f"{SCRATCH_PREFIX}{secrets.token_hex(4)}"


def rights_findings(
    engine: Engine, dialect: ReplicaDialect, shapes: list[TableShape], name: str, area: str
) -> Iterator[Finding]:
    """Yield the finding about the rights of the connection's user. ``shapes``: the tables of the replica."""
    with engine.connect() as connection:
        tried, refused = _scratch_table(connection, dialect)
        existing = list(_existing(connection, dialect, shapes))
        connection.rollback()
        refused = [*refused, *refused_rights(connection, existing)]
    user = str(engine.url.username or "of this process")
    yield rights_finding(area, [*tried, *existing], refused, user, f"rowcast worker {name}")


def _scratch_table(connection: Connection, dialect: ReplicaDialect) -> tuple[list[Right], list[Right]]:
    """Create, change and drop a table. Return the tried rights, and the refused rights.

    Where a CREATE rolls back, the owner of a table has all other rights. MariaDB and MySQL cannot undo a CREATE and
    grant each right by itself. Therefore the right to drop is tried first, on a table that does not exist.
    """
    table = scratch_name()
    create = Right("CREATE TABLE", "", sa.text(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, note INTEGER)"))
    drop = Right("DROP TABLE", "", sa.text(f"DROP TABLE IF EXISTS {table}"))
    tried = [create] if dialect.has_transactional_ddl else [drop, create]
    refused = refused_rights(connection, tried)
    if drop in refused or create in refused:
        return tried, refused
    if not dialect.has_transactional_ddl:
        rest = [
            *(Right(right.name, "", right.statement) for right in table_rights(table, None, ["id", "note"], WRITES)),
            Right("ALTER TABLE", "", sa.text(f"ALTER TABLE {table} ADD COLUMN more INTEGER")),
            Right("CREATE INDEX", "", sa.text(f"CREATE INDEX {table}_note ON {table} (note)")),
            Right("REFERENCES", "", sa.text(f"ALTER TABLE {table} ADD FOREIGN KEY (note) REFERENCES {table} (id)")),
        ]
        tried += rest
        refused = refused_rights(connection, rest)
    # Python's driver of SQLite does not roll back a CREATE.
    connection.execute(drop.statement)
    connection.commit()
    return tried, refused


def _existing(connection: Connection, dialect: ReplicaDialect, shapes: list[TableShape]) -> Iterator[Right]:
    inspector = sa.inspect(connection)
    for own in METADATA.sorted_tables:
        if inspector.has_table(own.name):
            yield from table_rights(own.name, None, [column.name for column in own.primary_key], ("SELECT", *WRITES))
    for shape in shapes:
        schema, table = replica_name(shape, dialect)
        if dialect.read_columns(connection, schema, table):
            yield from table_rights(table, schema, list(shape.primary_key), ("SELECT", *WRITES))
