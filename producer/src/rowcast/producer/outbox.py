"""The outbox tables, in the application's own metadata, so that ``create_all`` and Alembic see them.

``docs/architecture.md`` says what their columns mean; capture and triggers write them, the relay empties them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

PREFIX = "rowcast_"

# SQLite gives only an INTEGER PRIMARY KEY its own sequence; AUTOINCREMENT (below) keeps it from using an id again.
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Document = sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


def _name(length: int) -> sa.types.TypeEngine[str]:
    """Names compare byte for byte on every engine."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


# Every row is deleted as soon as it is published: dead rows are to go before the table grows, not when a part of it,
# which is always small, is dead. Vacuum may take what it needs for that.
_EMPTIED = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 2_000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 20_000,
}
# One row, updated all the time: the new version finds room on the page of the old one.
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


@dataclass(frozen=True, slots=True)
class OutboxTables:
    """The tables that rowcast adds to a primary database."""

    outbox: sa.Table
    shape: sa.Table
    lease: sa.Table
    claim: sa.Table
    snapshot: sa.Table
    parked: sa.Table

    def __iter__(self) -> Iterator[sa.Table]:
        return iter((self.outbox, self.shape, self.lease, self.claim, self.snapshot, self.parked))


def missing_of(table: sa.Table, connection: Connection) -> str:
    """What the database lacks of an outbox table, and the mend, to stand behind its name: all of it, or columns, as an
    outbox does that another version of rowcast has made. Empty if nothing."""
    if not sa.inspect(connection).has_table(table.name):
        return "does not exist. Create the outbox tables: metadata.create_all(engine), or an Alembic migration"
    there = _columns(table, connection)
    lacking = [str(column.name) for column in table.columns if column.name not in there]
    if not lacking:
        return ""
    return (
        f"has no column {', '.join(lacking)}. Another version of rowcast has made it: migrate it (Alembic's "
        "autogenerate sees the difference)"
    )


def unknown_of(table: sa.Table, connection: Connection) -> str:
    """What an outbox table, which is there, has that this version does not know, and the mend; empty if nothing.

    A newer version means something by it. An application may go on capturing until it is upgraded too; who publishes
    may not.
    """
    unknown = sorted(_columns(table, connection) - {str(column.name) for column in table.columns})
    if not unknown:
        return ""
    return (
        f"has a column {', '.join(unknown)} that this version of rowcast does not know. A newer one has made it: "
        "upgrade rowcast here too"
    )


def _columns(table: sa.Table, connection: Connection) -> set[str]:
    options = connection._execution_options
    try:
        return {str(column["name"]) for column in sa.inspect(connection).get_columns(table.name)}
    finally:
        # On MariaDB and MySQL SQLAlchemy's reflection leaves an option on the connection that hides the application's
        # errors from all listeners, the capture's among them.
        connection._execution_options = options


def outbox_tables(metadata: sa.MetaData) -> OutboxTables:
    """Adds the tables to ``metadata``, or finds them there. They live in the connection's default schema."""
    return OutboxTables(
        outbox=_table(
            metadata,
            "rowcast_outbox",
            sa.Column("id", _Id, sa.Identity(), primary_key=True, autoincrement=True),
            sa.Column("tx", _name(64), nullable=False),
            sa.Column("ts_ms", sa.BigInteger, nullable=False),
            sa.Column("complete", sa.Boolean(create_constraint=False)),
            # An engine that cuts or empties a text it finds too long must fail the application's commit instead.
            sa.Column("changes", _Document, nullable=False),
            # JSON: what the application says of the transaction, and its trace (see rowcast.producer.context).
            sa.Column("context", _Document),
            sa.CheckConstraint("changes <> ''", name="rowcast_outbox_changes"),
        ),
        shape=_table(
            metadata,
            "rowcast_shape",
            sa.Column("table_name", _name(255), primary_key=True),
            sa.Column("version", _name(16), primary_key=True),
            sa.Column("created_ms", sa.BigInteger, nullable=False),
            # Whether rows were there when the capture first wrote: they are not in the topics until a snapshot.
            sa.Column("rows_before", sa.Boolean(create_constraint=False), nullable=False),
            # The same in all rows of a table: see capturing.Capturer.
            sa.Column("captured_by", _name(16), nullable=False, server_default="listeners"),
            sa.Column("shape", _Document, nullable=False),
        ),
        lease=_table(
            metadata,
            "rowcast_lease",
            sa.Column("source", _name(100), primary_key=True),
            # Who leads, for people to read; the epoch alone decides. Times are milliseconds of the database's clock.
            sa.Column("owner", _name(255)),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("expires_ms", sa.BigInteger, nullable=False),
            sa.Column("next_lsn", sa.BigInteger, nullable=False),
            sa.Column("published_lsn", sa.BigInteger, nullable=False),
            # JSON: the transaction that the last claim left unfinished.
            sa.Column("carried", _Document),
            # JSON: where the last leader's configuration sends events.
            sa.Column("destination", _Document),
        ),
        claim=_table(
            metadata,
            "rowcast_claim",
            sa.Column("first_lsn", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("last_lsn", sa.BigInteger, nullable=False),
            # JSON: the outbox ids in the order of publishing; the transaction unfinished before and after them.
            sa.Column("outbox_ids", _Document, nullable=False),
            sa.Column("carried", _Document),
            sa.Column("left_unfinished", _Document),
            # JSON: the chunk of a snapshot that the claim is for, in place of outbox rows.
            sa.Column("chunk", _Document),
        ),
        snapshot=_table(
            metadata,
            "rowcast_snapshot",
            sa.Column("id", _Id, sa.Identity(), primary_key=True, autoincrement=True),
            sa.Column("table_name", _name(255), nullable=False),
            # SQL: only the rows for which it is true.
            sa.Column("condition", _Document),
            sa.Column("chunk_rows", sa.Integer, nullable=False),
            # See snapshots.State.
            sa.Column("state", _name(16), nullable=False),
            # JSON: behind this key the next chunk begins.
            sa.Column("last_key", _Document),
            sa.Column("rows_read", sa.BigInteger, nullable=False),
            sa.Column("requested_ms", sa.BigInteger, nullable=False),
            sa.Column("finished_ms", sa.BigInteger),
            # Why it failed.
            sa.Column("reason", _Document),
        ),
        parked=_table(
            metadata,
            "rowcast_parked",
            # As they were in rowcast_outbox, all rows of a transaction.
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("tx", _name(64), nullable=False),
            sa.Column("ts_ms", sa.BigInteger, nullable=False),
            sa.Column("changes", _Document, nullable=False),
            sa.Column("context", _Document),
            # Why the transaction could not be published.
            sa.Column("reason", _Document, nullable=False),
            sa.Column("parked_ms", sa.BigInteger, nullable=False),
        ),
    )


def _table(metadata: sa.MetaData, name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    if name in metadata.tables:
        return metadata.tables[name]
    table = sa.Table(
        name,
        metadata,
        *columns,
        info={"rowcast": False},
        sqlite_autoincrement=name in ("rowcast_outbox", "rowcast_snapshot"),
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    if name in _STORAGE:
        event.listen(table, "after_create", tune)
    return table


def tune(table: sa.Table, connection: Connection, **_: Any) -> None:
    """Tells PostgreSQL how one of the outbox tables is to be vacuumed, filled and compressed. Other engines need no
    telling. ``metadata.create_all`` does it by itself."""
    if connection.dialect.name != "postgresql" or table.name not in _STORAGE:
        return
    name = connection.dialect.identifier_preparer.format_table(table)
    settings = ", ".join(f"{key} = {value}" for key, value in _STORAGE[table.name].items())
    connection.exec_driver_sql(f"ALTER TABLE {name} SET ({settings})")
    # PostgreSQL's default compression takes half as long as making the images; a server may be built without lz4.
    able = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    if "changes" in table.c and connection.exec_driver_sql(able).scalar():
        connection.exec_driver_sql(f"ALTER TABLE {name} ALTER COLUMN changes SET COMPRESSION lz4")
