"""Some tables belong neither to the application nor to the capture."""

from __future__ import annotations

import sqlalchemy as sa

from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.tables.own_tables import is_application_table, is_rowcast_table


def test_every_table_of_the_outbox_is_rowcasts_own() -> None:
    for table in outbox_tables(sa.MetaData()):
        assert is_rowcast_table(table.name)
        assert not is_application_table(table.name)


def test_tables_of_tools_are_not_the_applications() -> None:
    names = ("alembic_version", "_alembic_tmp_orders", "sqlite_sequence", "orders")
    assert [name for name in names if is_application_table(name)] == ["orders"]
    assert not is_rowcast_table("alembic_version")
