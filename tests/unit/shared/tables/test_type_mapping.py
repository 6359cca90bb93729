"""The mapping between SQLAlchemy's types and portable types, for every engine and without a server."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

from rowcast.shared.tables.shape import TYPE_NAMES, PortableType
from rowcast.shared.tables.type_mapping import engine_family, portable_type, replica_type, shape_of, storage_type


def mariadb() -> Dialect:
    return sa.make_url("mariadb+pymysql://").get_dialect()()


DIALECTS: dict[str, Dialect] = {
    "postgresql": postgresql.dialect(),
    "mysql": mysql.dialect(),
    "mariadb": mariadb(),
    "sqlite": sqlite.dialect(),
}


class Cents(sqltypes.TypeDecorator[int]):
    impl = sa.BigInteger
    cache_ok = True


@pytest.mark.parametrize(
    ("engine", "type_", "name"),
    [
        ("postgresql", sa.Boolean(), "boolean"),
        ("postgresql", sa.SmallInteger(), "int16"),
        ("mysql", mysql.TINYINT(), "int16"),
        ("mysql", mysql.SMALLINT(unsigned=True), "int32"),
        ("mysql", mysql.INTEGER(zerofill=True), "int64"),
        ("mysql", mysql.BIGINT(unsigned=True), "uint64"),
        ("postgresql", Cents(), "int64"),
        ("postgresql", sa.Float(), "float64"),
        ("mysql", sa.Float(), "float32"),
        ("postgresql", sa.REAL(), "float32"),
        ("mysql", sa.REAL(), "float64"),
        ("sqlite", sa.REAL(), "float64"),
        ("postgresql", postgresql.MONEY(), "decimal"),
        ("postgresql", sa.LargeBinary(), "bytes"),
        ("postgresql", sa.DateTime(), "timestamp"),
        ("postgresql", sa.DateTime(timezone=True), "timestamptz"),
        ("mysql", mysql.TIMESTAMP(), "timestamptz"),
        ("postgresql", sa.Time(timezone=True), "timetz"),
        ("sqlite", sa.Time(timezone=True), "time"),
        ("postgresql", sa.Interval(), "interval"),
        ("sqlite", sa.Interval(), "timestamp"),
        ("postgresql", sa.Uuid(), "uuid"),
        ("postgresql", sa.Enum("a", "b", name="letters"), "enum"),
        ("postgresql", sa.Enum("a", "b", native_enum=False), "string"),
        ("sqlite", sa.Enum("a", "b"), "enum"),
        ("postgresql", sa.ARRAY(sa.Integer()), "array"),
        ("postgresql", postgresql.JSONB(), "json"),
        ("mysql", mysql.SET("a", "b"), "native"),
        ("mysql", mysql.BIT(3), "native"),
        ("postgresql", postgresql.INET(), "native"),
        ("postgresql", sa.CHAR(3), "char"),
        ("postgresql", sa.String(3), "string"),
        ("postgresql", sa.String(), "text"),
        ("postgresql", postgresql.DOMAIN("positive", sa.Integer()), "int32"),
    ],
)
def test_a_type_has_a_portable_name(engine: str, type_: sqltypes.TypeEngine[Any], name: str) -> None:
    assert portable_type(type_, DIALECTS[engine]).name == name


def test_a_portable_type_keeps_lengths_digits_labels_and_ddl() -> None:
    postgres = DIALECTS["postgresql"]
    assert portable_type(sa.Numeric(12, 3), postgres) == PortableType(
        "decimal", precision=12, scale=3, native="NUMERIC(12, 3)"
    )
    assert portable_type(sa.Numeric(), postgres).precision is None
    assert portable_type(sa.Numeric(), DIALECTS["mysql"]).precision == 10
    assert portable_type(sa.Enum("a", "b", name="e"), postgres).values == ("a", "b")
    items = portable_type(sa.ARRAY(sa.String(5)), postgres).items
    assert items == PortableType("string", length=5, native="VARCHAR(5)")


def test_variants_and_decorators_are_taken_off() -> None:
    type_ = sa.String(10).with_variant(sa.Text(), "sqlite")
    assert isinstance(storage_type(type_, DIALECTS["sqlite"]), sa.Text)
    assert isinstance(storage_type(Cents(), DIALECTS["sqlite"]), sa.BigInteger)


def test_mariadb_and_mysql_are_a_family() -> None:
    assert {engine_family(engine) for engine in ("mysql", "mariadb")} == {"mysql"}
    assert engine_family("sqlite") == "sqlite"


@pytest.mark.parametrize("engine", DIALECTS)
@pytest.mark.parametrize("name", sorted(TYPE_NAMES))
def test_every_portable_type_exists_on_every_engine(engine: str, name: str) -> None:
    for key in (False, True):
        made = replica_type(PortableType(name, items=PortableType("int32")), "elsewhere", DIALECTS[engine], key=key)
        made.compile(dialect=DIALECTS[engine])


@pytest.mark.parametrize(
    ("type_", "engine", "key", "ddl"),
    [
        (PortableType("uint64"), "postgresql", False, "NUMERIC(20, 0)"),
        (PortableType("uint64"), "mysql", False, "BIGINT UNSIGNED"),
        (PortableType("uint64"), "sqlite", False, ""),
        (PortableType("decimal", precision=40, scale=35), "mariadb", False, "NUMERIC(40, 35)"),
        (PortableType("decimal", precision=40, scale=35), "mysql", False, "LONGTEXT"),
        (PortableType("decimal", precision=66), "mysql", True, "VARCHAR(255)"),
        (PortableType("decimal", precision=15, scale=2), "sqlite", False, "NUMERIC(15, 2)"),
        (PortableType("decimal", precision=16, scale=2), "sqlite", False, ""),
        (PortableType("decimal"), "sqlite", False, ""),
        (PortableType("char", length=3), "mysql", False, "CHAR(3)"),
        (PortableType("char"), "mysql", False, "LONGTEXT"),
        (PortableType("text"), "mysql", True, "VARCHAR(255)"),
        (PortableType("string", length=5000), "mysql", False, "LONGTEXT"),
        (PortableType("string", length=4096), "mysql", False, "VARCHAR(4096)"),
        (PortableType("bytes"), "mysql", True, "VARBINARY(255)"),
        (PortableType("bytes"), "mysql", False, "LONGBLOB"),
        (PortableType("timestamptz"), "mysql", False, "DATETIME(6)"),
        (PortableType("timestamptz"), "postgresql", False, "TIMESTAMP WITH TIME ZONE"),
        (PortableType("json"), "postgresql", False, "JSON"),
        (PortableType("json"), "sqlite", False, "TEXT"),
        (PortableType("array"), "postgresql", False, "TEXT"),
    ],
)
def test_a_type_of_another_engine_holds_every_value(type_: PortableType, engine: str, key: bool, ddl: str) -> None:
    assert replica_type(type_, "elsewhere", DIALECTS[engine], key=key).compile(dialect=DIALECTS[engine]) == ddl


@pytest.mark.parametrize(
    ("type_", "source", "engine", "ddl"),
    [
        (PortableType("native", native="INET"), "postgresql", "postgresql", "INET"),
        (PortableType("enum", native="letters"), "postgresql", "postgresql", "TEXT"),
        (PortableType("array", items=PortableType("enum"), native="letters[]"), "postgresql", "postgresql", "TEXT[]"),
        (PortableType("enum", native="ENUM('a')"), "mariadb", "mysql", "ENUM('a')"),
        (PortableType("uuid", native="UUID"), "mariadb", "mysql", "CHAR(32)"),
        (PortableType("uuid", native="CHAR(32)"), "postgresql", "mariadb", "CHAR(32)"),
        (PortableType("string", length=3), "sqlite", "postgresql", "TEXT"),
        (PortableType("decimal", precision=3), "sqlite", "postgresql", "NUMERIC"),
    ],
)
def test_the_source_decides_whether_its_own_ddl_serves(type_: PortableType, source: str, engine: str, ddl: str) -> None:
    assert replica_type(type_, source, DIALECTS[engine]).compile(dialect=DIALECTS[engine]) == ddl


def test_the_shape_of_a_table_has_its_keys_and_full_unique_indexes() -> None:
    metadata = sa.MetaData()
    sa.Table("customers", metadata, sa.Column("id", sa.Integer, primary_key=True))
    orders = sa.Table(
        "orders",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer_id", sa.ForeignKey("customers.id"), nullable=False),
        sa.Column("number", sa.Integer, unique=True),
        sa.Column("double", sa.Integer, sa.Computed("number * 2")),
        sa.Column("xmin", sa.Integer, system=True),
        sa.Index("by_number", "number", "customer_id", unique=True),
        sa.Index("partial", "customer_id", unique=True, postgresql_where=sa.text("number > 1")),
    )
    shape = shape_of(orders, DIALECTS["postgresql"], "public")
    assert shape.full_name == "public.orders"
    assert shape.default_schema
    assert shape.primary_key == ("id",)
    assert shape.unique == (("number",), ("number", "customer_id"))
    assert [(key.columns, key.referred_table) for key in shape.foreign_keys] == [(("customer_id",), "customers")]
    assert [column.name for column in shape.columns if column.generated] == ["double"]
    assert [column.name for column in shape.columns] == ["id", "customer_id", "number", "double"]
