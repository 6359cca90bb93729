"""The catalogue gives the tables of the application, and no table of a tool."""

from __future__ import annotations

import sqlalchemy as sa

from rowcast.producer.tables.reflection import reflect_tables


def test_copies_of_alembics_batch_mode_are_left_out() -> None:
    with sa.create_engine("sqlite://").connect() as connection:
        for name in ("orders", "_alembic_tmp_orders", "rowcast_outbox"):
            connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)")
        assert list(reflect_tables(connection, []).tables) == ["orders"]
