"""Define the outbox tables in the application's own metadata, for ``create_all`` and Alembic.

The capture and triggers write the outbox, and the relay empties it. ``docs/architecture.md`` describes the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect, find_capture_dialect
from rowcast.producer.database.raw_execution import keeping_options

KEYS_PER_ROW = 2_000
"""The greatest number of changes in one outbox row. A larger transaction takes several rows."""


# SQLite gives only an INTEGER PRIMARY KEY a sequence. AUTOINCREMENT (below) keeps SQLite from using an id twice.
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Document = sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


def _name(length: int) -> sa.types.TypeEngine[str]:
    """Return the type of a name. Every engine compares names byte by byte."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


@dataclass(frozen=True, slots=True)
class OutboxTables:
    """Hold the tables of rowcast in a primary database."""

    outbox: sa.Table
    shape: sa.Table
    lease: sa.Table
    claim: sa.Table
    snapshot: sa.Table
    parked: sa.Table
    batch: sa.Table
    relay: sa.Table

    def __iter__(self) -> Iterator[sa.Table]:
        return iter(getattr(self, field.name) for field in fields(self))


def missing_parts(table: sa.Table, connection: Connection) -> str:
    """Return the missing parts of an outbox table and how to create them, or "" if the table is complete.

    The text continues a sentence after the table's name. Tables of a different version of rowcast may lack columns.
    """
    if not sa.inspect(connection).has_table(table.name, schema=table.schema):
        return (
            "does not exist. Create the outbox tables: `rowcast init`, capture.create_outbox(engine), or an Alembic "
            "migration"
        )
    there = _columns(table, connection)
    lacking = [str(column.name) for column in table.columns if column.name not in there]
    if not lacking:
        return ""
    return (
        f"has no column {', '.join(lacking)}. Another version of rowcast has made it: migrate it (Alembic's "
        "autogenerate sees the difference)"
    )


def unknown_columns(table: sa.Table, connection: Connection) -> str:
    """Return the unknown columns of an existing outbox table and what to do, or "" if all columns are known.

    The text continues a sentence after the table's name. A newer version of rowcast has added the columns for a
    purpose. Therefore an older relay must not publish, but an application may go on capturing.
    """
    unknown = sorted(_columns(table, connection) - {str(column.name) for column in table.columns})
    if not unknown:
        return ""
    return (
        f"has a column {', '.join(unknown)} that this version of rowcast does not know. A newer one has made it: "
        "upgrade rowcast here too"
    )


def _columns(table: sa.Table, connection: Connection) -> set[str]:
    with keeping_options(connection):
        return capture_dialect(connection.dialect).column_names(connection, table)


def outbox_tables(metadata: sa.MetaData) -> OutboxTables:
    """Return the outbox tables of ``metadata``. Add missing tables first.

    The tables are in the default schema of the connection.
    """
    return OutboxTables(
        outbox=_table(
            metadata,
            "rowcast_outbox",
            sa.Column("id", _Id, sa.Identity(), primary_key=True, autoincrement=True),
            sa.Column("tx", _name(64), nullable=False),
            sa.Column("ts_ms", sa.BigInteger, nullable=False),
            sa.Column("complete", sa.Boolean(create_constraint=False)),
            # An engine may cut an oversized text, or store an empty text. The commit must fail instead.
            sa.Column("changes", _Document, nullable=False),
            # JSON: the application's context, and the trace (see context_parser).
            sa.Column("context", _Document),
            sa.CheckConstraint("changes <> ''", name="rowcast_outbox_changes"),
        ),
        shape=_table(
            metadata,
            "rowcast_shape",
            sa.Column("table_name", _name(255), primary_key=True),
            sa.Column("version", _name(16), primary_key=True),
            sa.Column("created_ms", sa.BigInteger, nullable=False),
            # Whether the table had rows when the capture first wrote. The topics lack them until a snapshot.
            sa.Column("rows_before", sa.Boolean(create_constraint=False), nullable=False),
            # The same in all rows of a table: see capture_mode.CaptureMode.
            sa.Column("captured_by", _name(16), nullable=False, server_default="listeners"),
            sa.Column("shape", _Document, nullable=False),
        ),
        lease=_table(
            metadata,
            "rowcast_lease",
            sa.Column("source", _name(100), primary_key=True),
            # The owner is for people to read, because the epoch alone decides. Times are in milliseconds of the
            # database's clock.
            sa.Column("owner", _name(255)),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("expires_ms", sa.BigInteger, nullable=False),
            sa.Column("next_lsn", sa.BigInteger, nullable=False),
            sa.Column("published_lsn", sa.BigInteger, nullable=False),
            # JSON: the partial transaction of the last claim.
            sa.Column("carried", _Document),
            # JSON: where the last leader's configuration sends events.
            sa.Column("destination", _Document),
            # The present timeline (see relay/leader/timelines.py), and its first lsn.
            sa.Column("timeline", sa.Integer, nullable=False, server_default=sa.text("1")),
            sa.Column("timeline_lsn", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        ),
        claim=_table(
            metadata,
            "rowcast_claim",
            sa.Column("first_lsn", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("last_lsn", sa.BigInteger, nullable=False),
            # JSON: the outbox ids in the order of publication, and the partial transactions before and after them.
            sa.Column("outbox_ids", _Document, nullable=False),
            sa.Column("carried", _Document),
            sa.Column("left_unfinished", _Document),
            # JSON: the chunk of a snapshot, if the claim has one instead of outbox rows.
            sa.Column("chunk", _Document),
        ),
        snapshot=_table(
            metadata,
            "rowcast_snapshot",
            sa.Column("id", _Id, sa.Identity(), primary_key=True, autoincrement=True),
            sa.Column("table_name", _name(255), nullable=False),
            # SQL condition on the rows to read.
            sa.Column("condition", _Document),
            sa.Column("chunk_rows", sa.Integer, nullable=False),
            # See snapshot_requests.SnapshotState.
            sa.Column("state", _name(16), nullable=False),
            # JSON: the last key read. The next chunk begins after the key.
            sa.Column("last_key", _Document),
            sa.Column("rows_read", sa.BigInteger, nullable=False),
            sa.Column("requested_ms", sa.BigInteger, nullable=False),
            sa.Column("finished_ms", sa.BigInteger),
            # Why the snapshot failed.
            sa.Column("reason", _Document),
        ),
        parked=_table(
            metadata,
            "rowcast_parked",
            # All rows of a transaction, unchanged from rowcast_outbox.
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("tx", _name(64), nullable=False),
            sa.Column("ts_ms", sa.BigInteger, nullable=False),
            sa.Column("changes", _Document, nullable=False),
            sa.Column("context", _Document),
            # Why the transaction could not be published.
            sa.Column("reason", _Document, nullable=False),
            sa.Column("parked_ms", sa.BigInteger, nullable=False),
        ),
        batch=_table(
            metadata,
            "rowcast_batch",
            # The unfinished batches, by the name that the application gave.
            sa.Column("name", _name(255), primary_key=True),
            # JSON: the last key of the last committed batch.
            sa.Column("last_key", _Document),
            sa.Column("batches", sa.BigInteger, nullable=False),
            sa.Column("rows_done", sa.BigInteger, nullable=False),
            sa.Column("changed_ms", sa.BigInteger, nullable=False),
        ),
        relay=_table(
            metadata,
            "rowcast_relay",
            # The relays that stand by, for rowcast status. A row counts until expires_ms, by the database's clock.
            sa.Column("source", _name(100), primary_key=True),
            sa.Column("owner", _name(255), primary_key=True),
            sa.Column("expires_ms", sa.BigInteger, nullable=False),
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
    event.listen(table, "after_create", tune)
    return table


def tune(table: sa.Table, connection: Connection, **_: Any) -> None:
    """Set how the engine vacuums, fills and compresses one of the outbox tables.

    ``metadata.create_all`` calls the function. Only PostgreSQL has the settings.
    """
    dialect = find_capture_dialect(connection.dialect)
    if dialect is not None:
        dialect.tune_table(connection, table)
