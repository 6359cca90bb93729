"""The worker's tables in a replica as versions 0.1 and 0.2 created them, with a loaded row."""

from __future__ import annotations

import sqlalchemy as sa

OLD_METADATA = sa.MetaData()

_REPLICA = sa.Table(
    "rowcast_replica",
    OLD_METADATA,
    sa.Column("source", sa.String(100), primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
    sa.Column("tx", sa.String(255)),
    sa.Column("ts_ms", sa.BigInteger, nullable=False),
)

_POSITION = sa.Table(
    "rowcast_position",
    OLD_METADATA,
    sa.Column("source", sa.String(100), primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
)

_TABLE = sa.Table(
    "rowcast_table",
    OLD_METADATA,
    sa.Column("source", sa.String(100), primary_key=True),
    sa.Column("table_name", sa.String(255), primary_key=True),
    sa.Column("shape", sa.Text, nullable=False),
    sa.Column("created", sa.Boolean(create_constraint=False), nullable=False),
)


def create_old_tables(engine: sa.Engine, source: str) -> None:
    """Create the tables, with the row and the position of a consistent replica that has applied lsn 7."""
    with engine.begin() as connection:
        OLD_METADATA.create_all(connection)
        row = {"source": source, "owner": "old", "epoch": 3, "state": "consistent", "lsn": 7, "tx": "701", "ts_ms": 5}
        connection.execute(sa.insert(_REPLICA).values(**row))
        position = {"source": source, "topic": f"{source}.public.a", "partition": 0, "next_offset": 2, "lsn": 7}
        connection.execute(sa.insert(_POSITION).values(**position))
