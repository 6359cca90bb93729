"""A row filter is evaluated for stored rows and for given values, and an invalid filter is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import RowFilter, check_row_filter
from rowcast.shared.config.table_settings import read_table_settings
from rowcast.shared.errors import ConfigurationError

TABLE = sa.Table(
    "post", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("status", sa.String(20))
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        TABLE.create(connection)
        connection.execute(sa.insert(TABLE), [{"id": 1, "status": "draft"}, {"id": 2, "status": "live"}])
        yield connection


def captured(connection: Connection, where: str | None) -> CapturedTable:
    settings = read_table_settings({"where": where} if where else True, "post")
    return CapturedTable(TABLE, connection.dialect, "main", settings)


def test_stored_rows_are_filtered(connection: Connection) -> None:
    table = captured(connection, "status <> 'draft'")
    assert connection.execute(sa.select(TABLE.c.id).where(RowFilter(table))).scalars().all() == [2]


@pytest.mark.parametrize(("status", "expected"), [("draft", 0), ("live", 1)])
def test_given_values_take_the_place_of_the_columns(connection: Connection, status: str, expected: int) -> None:
    values = {"id": sa.literal_column("7"), "status": sa.literal(status)}
    table = captured(connection, "status <> 'draft'")
    assert connection.scalar(sa.select(RowFilter(table, lambda column: values[str(column.name)]))) == expected


def test_a_filter_that_the_database_rejects_is_named_with_its_table(connection: Connection) -> None:
    check_row_filter(connection, captured(connection, None))
    check_row_filter(connection, captured(connection, "status <> 'draft'"))
    with pytest.raises(ConfigurationError, match=r"rejects the row filter of table main\.post, where = 'statuss = 1'"):
        check_row_filter(connection, captured(connection, "statuss = 1"))
