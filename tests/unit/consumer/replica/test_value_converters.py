"""Values are stored on SQLite and MariaDB as SQLAlchemy's own types would store them, or refused."""

from __future__ import annotations

import base64
import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from rowcast.consumer.replica.dialects import mysql as mysql_replica
from rowcast.consumer.replica.dialects import sqlite as sqlite_replica
from rowcast.consumer.replica.dialects.value_converters import RowReader
from rowcast.shared import row_values
from rowcast.shared.tables.shape import PortableType

SQLITE = sqlite.dialect()


def convert(module: Any, name: str, column_type: str, value: Any) -> Any:
    converter: Callable[[Any], Any] | None = module.converter(PortableType(name), column_type)
    return value if converter is None else converter(value)


def stored_by_sqlalchemy(type_: sa.types.TypeEngine[Any], value: Any) -> Any:
    processor = type_.dialect_impl(SQLITE).bind_processor(SQLITE)
    return value if processor is None else processor(value)


moments = st.datetimes(min_value=dt.datetime(1, 1, 1), max_value=dt.datetime(9999, 12, 31))


@given(moments, st.booleans())
def test_timestamps_on_sqlite(moment: dt.datetime, trimmed: bool) -> None:
    text = moment.isoformat(timespec="microseconds")
    if trimmed and "." in text:
        text = text.rstrip("0").rstrip(".")
    assert convert(sqlite_replica, "timestamp", "datetime", text) == stored_by_sqlalchemy(sa.DateTime(), moment)
    assert convert(sqlite_replica, "timestamptz", "datetime", text + "Z") == stored_by_sqlalchemy(sa.DateTime(), moment)


@given(st.times(), st.dates())
def test_times_and_dates_on_sqlite(clock: dt.time, day: dt.date) -> None:
    assert convert(sqlite_replica, "time", "time", clock.isoformat()) == stored_by_sqlalchemy(sa.Time(), clock)
    assert convert(sqlite_replica, "date", "date", day.isoformat()) == stored_by_sqlalchemy(sa.Date(), day)


@given(st.uuids(), st.binary(), st.booleans())
def test_uuids_bytes_and_booleans_on_sqlite(id: uuid.UUID, data: bytes, flag: bool) -> None:
    assert convert(sqlite_replica, "uuid", "char(32)", str(id)) == stored_by_sqlalchemy(sa.Uuid(), id)
    assert convert(sqlite_replica, "uuid", "char(36)", str(id)) == str(id)
    assert convert(sqlite_replica, "bytes", "blob", base64.b64encode(data).decode()) == data
    assert convert(sqlite_replica, "boolean", "boolean", flag) == stored_by_sqlalchemy(sa.Boolean(), flag)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**8), max_value=10**8))
def test_numbers_on_sqlite(number: Decimal) -> None:
    engine = sa.create_engine("sqlite://")
    table = sa.Table("t", sa.MetaData(), sa.Column("ours", sa.Numeric(12, 4)), sa.Column("theirs", sa.Numeric(12, 4)))
    with engine.begin() as connection:
        table.create(connection)
        text = convert(sqlite_replica, "decimal", "numeric(12, 4)", str(number))
        connection.exec_driver_sql("INSERT INTO t (ours) VALUES (?)", (text,))
        connection.execute(sa.update(table).values(theirs=number))
        row = connection.exec_driver_sql("SELECT ours, theirs, typeof(ours), typeof(theirs) FROM t").one()
        assert row[0] == row[1]
        assert row[2] == row[3]
        assert connection.execute(sa.select(table.c.ours)).scalar_one() == number


@pytest.mark.parametrize(
    ("module", "name", "column_type", "value"),
    [
        (sqlite_replica, "float64", "double", "NaN"),
        (sqlite_replica, "decimal", "numeric(9, 2)", "NaN"),
        (sqlite_replica, "uint64", "numeric(20, 0)", 2**63),
        (sqlite_replica, "timestamp", "datetime", "infinity"),
        (sqlite_replica, "timestamp", "datetime", "0044-03-15T12:00:00 BC"),
        (sqlite_replica, "timestamptz", "datetime", "12026-01-01T00:00:00Z"),
        (sqlite_replica, "date", "date", "infinity"),
        (sqlite_replica, "time", "time", "noon"),
        (sqlite_replica, "bytes", "blob", "no base64!"),
        (mysql_replica, "float64", "double", "NaN"),
        (mysql_replica, "float64", "double", "-Infinity"),
        (mysql_replica, "decimal", "decimal(9,2)", "Infinity"),
        (mysql_replica, "timestamp", "datetime(6)", "infinity"),
    ],
)
def test_what_an_engine_cannot_hold_is_refused(module: Any, name: str, column_type: str, value: Any) -> None:
    with pytest.raises(ValueError):
        convert(module, name, column_type, value)


def test_what_an_engine_can_hold_in_its_own_way() -> None:
    assert convert(sqlite_replica, "float64", "double", "Infinity") == float("inf")
    assert convert(mysql_replica, "decimal", "longtext", "NaN") == "NaN"
    assert convert(mysql_replica, "native", "bit(8)", "5") == 5
    assert convert(mysql_replica, "timestamptz", "datetime(6)", "2026-11-21T10:11:12Z") == "2026-11-21 10:11:12.000000"
    assert convert(mysql_replica, "array", "longtext", [1, None, "ü"]) == '[1,null,"ü"]'


def test_a_refused_value_names_its_column() -> None:
    reader = RowReader([("id", None), ("at", sqlite_replica.converter(PortableType("date"), "date"))])
    assert list(reader.rows([b'{"at":null,"id":1,"more":2}'])) == [(1, None)]
    with pytest.raises(ValueError, match="column at: a date cannot be held"):
        list(reader.rows([b'{"id":1,"at":"soon"}']))
    with row_values.shown_if(True), pytest.raises(ValueError, match="column at: date 'soon' cannot be held"):
        list(reader.rows([b'{"id":1,"at":"soon"}']))
