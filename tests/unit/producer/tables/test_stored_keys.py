from __future__ import annotations

import enum
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from rowcast.producer.tables.stored_keys import KeyFacts, StoredKeys, stored_key_columns
from rowcast.shared.tables.type_mapping import NativeType

PG, MYSQL, SQLITE = postgresql.dialect(), mysql.dialect(), sqlite.dialect()


class Lowered(sa.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


class Renamed(sa.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True


class OtherUUID(uuid.UUID):
    """Stand for a driver's class of UUIDs."""


class Size(enum.Enum):
    SMALL = "s"


def keys_of(dialect: Any, *types: Any) -> StoredKeys:
    columns = [sa.Column(f"k{i}", type_, primary_key=True) for i, type_ in enumerate(types)]
    table = sa.Table("t", sa.MetaData(), *columns)
    return StoredKeys(tuple(table.primary_key.columns), dialect)


@pytest.mark.parametrize(
    ("dialect", "type_", "value"),
    [
        (PG, sa.BigInteger(), 3),
        (PG, sa.Uuid(), uuid.UUID(int=1)),
        (PG, sa.Uuid(), OtherUUID(int=1)),
        (PG, sa.String(9), "x"),
        (PG, Renamed(), "x"),
        (PG, sa.LargeBinary(), b"x"),
        (PG, sa.DateTime(timezone=True), datetime(2026, 1, 1, tzinfo=UTC)),
        (PG, sa.Enum(Size), Size.SMALL),
        (MYSQL, sa.String(9), "x "),
        (MYSQL, sa.CHAR(9), "x"),
        (MYSQL, sa.Uuid(), uuid.UUID(int=1)),
        (MYSQL, mysql.DATETIME(fsp=6), datetime(2026, 1, 1)),
        (SQLITE, sa.Integer(), 3),
        (SQLITE, sa.DateTime(), datetime(2026, 1, 1)),
        (SQLITE, sa.Boolean(), True),
    ],
)
def test_a_value_of_its_own_class_is_stored_as_sent(dialect: Any, type_: Any, value: Any) -> None:
    keys = keys_of(dialect, type_)
    assert keys.may_be_sent
    assert keys.holds((value,))
    assert keys.holds_keys([(value,), (value,)])
    assert keys.columns is keys.given


@pytest.mark.parametrize(
    ("dialect", "type_", "value"),
    [
        (PG, sa.Integer(), "3"),
        (PG, sa.Integer(), True),
        (PG, sa.Integer(), 3.0),
        (PG, sa.Integer(), Decimal(3)),
        (PG, sa.Date(), datetime(2026, 1, 1)),
        (PG, sa.DateTime(), datetime(2026, 1, 1, tzinfo=UTC)),
        (PG, sa.DateTime(timezone=True), datetime(2026, 1, 1)),
        (MYSQL, sa.CHAR(9), "x "),
        (MYSQL, mysql.DATETIME(fsp=6), datetime(2026, 1, 1, tzinfo=UTC)),
        (SQLITE, sa.LargeBinary(), bytearray(b"x")),
    ],
)
def test_a_value_of_another_class_may_be_stored_otherwise(dialect: Any, type_: Any, value: Any) -> None:
    keys = keys_of(dialect, type_)
    assert keys.may_be_sent
    assert not keys.holds((value,))
    assert not keys.holds_keys([(value,), (value,)])


@pytest.mark.parametrize(
    ("dialect", "type_"),
    [
        (PG, sa.Numeric(8, 3)),
        (PG, sa.REAL()),
        (PG, sa.CHAR(5)),
        (PG, postgresql.TIMESTAMP(precision=0)),
        (PG, postgresql.JSONB()),
        (PG, sa.ARRAY(sa.Integer)),
        (PG, Lowered()),
        (MYSQL, sa.DateTime()),
        (MYSQL, sa.Time()),
        (MYSQL, mysql.TIMESTAMP(fsp=6)),
        (MYSQL, sa.Float()),
        (MYSQL, sa.BINARY(4)),
        (MYSQL, sa.Enum("a", "b")),
        (MYSQL, mysql.SET("a", "b")),
        (SQLITE, sa.Numeric(8, 3)),
        (SQLITE, NativeType("")),
        (SQLITE, sqlite.DATE(storage_format="%(year)04d")),
        (SQLITE, Lowered()),
    ],
)
def test_a_key_of_a_type_that_changes_values_is_read_and_bound_otherwise(dialect: Any, type_: Any) -> None:
    keys = keys_of(dialect, sa.Integer(), type_)
    assert not keys.may_be_sent
    assert keys.columns[0] is keys.given[0]
    assert keys.columns[1] is not keys.given[1]
    assert [str(c.name) for c in keys.columns] == ["k0", "k1"]


def test_postgresql_reads_and_binds_an_inexact_key_as_text() -> None:
    _, k1 = keys_of(PG, sa.Integer(), sa.Numeric(8, 3)).columns
    assert str(sa.select(k1).where(k1 == "1.5").compile(dialect=PG)) == (
        "SELECT CAST(t.k1 AS TEXT) AS k1 \nFROM t \nWHERE t.k1 = CAST(%(k1_1)s::VARCHAR AS NUMERIC(8, 3))"
    )


@pytest.mark.parametrize(
    ("dialect", "type_", "folds"),
    [
        (PG, sa.String(9), False),
        (PG, sa.Numeric(), True),
        (MYSQL, sa.String(9), True),
        (MYSQL, sa.Integer(), False),
        (MYSQL, sa.DateTime(), False),
        (SQLITE, sa.String(9), False),
        (SQLITE, sa.String(9, collation="NOCASE"), True),
        (SQLITE, sa.String(9, collation="binary"), False),
    ],
)
def test_equal_values_can_differ_in_columns_that_fold(dialect: Any, type_: Any, folds: bool) -> None:
    assert bool(keys_of(dialect, type_).folding_columns) is folds


def test_the_catalogue_tells_of_triggers_and_collations() -> None:
    keys = keys_of(PG, sa.String(9), sa.Integer())
    assert not keys.is_complete
    keys.learn({"other": KeyFacts(rewritten=True, rekeyed=True, folds=True)}, "t")
    assert keys.is_complete
    assert keys.may_be_sent
    assert not keys.folding_columns
    assert not keys.are_rekeyed
    keys.learn({"t": KeyFacts(rewritten=True, rekeyed=True, folds=True)}, "t")
    assert keys.are_rekeyed
    assert not keys.may_be_sent
    assert [str(column.given.name) for column in keys.folding_columns] == ["k0"]


def test_the_key_columns_of_an_alias_are_read_alike() -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("k", sa.Numeric(8, 3), primary_key=True))
    [column] = stored_key_columns(table, PG, table.alias("a"))
    assert str(sa.select(column).compile(dialect=PG)) == "SELECT CAST(a.k AS TEXT) AS k \nFROM t AS a"


def test_a_returning_names_the_table_only_where_several_tables_are_visible() -> None:
    keys = keys_of(PG, sa.Integer(), sa.Numeric(8, 3))
    assert keys.returning(qualified=False) == ("k0", "CAST(k1 AS TEXT)")
    assert keys.returning(qualified=True) == ("t.k0", "CAST(t.k1 AS TEXT)")
