"""A value that a replica's column cannot hold is refused, never rounded, cut or changed.

Two different keys that a collation compares as equal are refused, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from fixtures.databases import NewDatabase
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import Fault, ReplicaTable, quoted_name, replica_dialect
from rowcast.consumer.replica.table_definitions import TableDefinitions
from rowcast.shared.database.engines import open_engine
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape


class Replica:
    """Create a table on an engine as a worker does, or with the test's own DDL."""

    def __init__(self, connection: sa.Connection, type_: PortableType, source: str, ddl: str | None = None) -> None:
        key = ColumnShape("k", PortableType("text"), nullable=False)
        self.shape = TableShape("public", "thing", source, (key, ColumnShape("v", type_)), ("k",))
        self.connection = connection
        self.dialect = replica_dialect(connection.dialect.name)
        if ddl is None:
            TableDefinitions([self.shape], self.dialect, connection.dialect).tables[self.shape.full_name].create(
                connection
            )
        else:
            connection.exec_driver_sql(ddl)
        columns = self.dialect.read_columns(connection, None, "thing")
        quoted = quoted_name(connection, None, "thing")
        self.table = ReplicaTable(None, "thing", quoted, columns, ("k",), False)
        self.layout = RowLayout(self.shape, ("k", "v"))

    def write(self, *rows: tuple[str, Any]) -> None:
        images = [orjson.dumps({"k": key, "v": value}) for key, value in rows]
        self.dialect.upsert(self.connection, self.table, self.layout, images)

    def delete(self, *keys: str) -> None:
        self.dialect.delete(self.connection, self.table, self.layout, [orjson.dumps({"k": key}) for key in keys])

    def rows(self) -> list[tuple[Any, ...]]:
        found = self.connection.exec_driver_sql("SELECT k, v FROM thing").all()
        return sorted(tuple(row) for row in found)


@pytest.fixture
def connection(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[sa.Connection]:
    """Connect to a new database of the engine that the parameter names, set up as a worker does."""
    engine = open_engine(new_database(request.param), "replica", pooled=False)
    replica_dialect(engine.dialect.name).configure(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


MONEY = PortableType("decimal", precision=12, scale=2)
REFUSED = [
    ("mariadb", PortableType("float64"), "NaN"),
    ("mariadb", PortableType("float64"), "-Infinity"),
    ("mariadb", MONEY, "NaN"),
    ("mariadb", MONEY, "1.005"),
    ("mariadb", PortableType("timestamp"), "infinity"),
    ("mariadb", PortableType("timestamp"), "0044-03-15T10:00:00 BC"),
    ("mariadb", PortableType("timestamptz"), "12345-03-15T10:00:00.000000Z"),
    ("mariadb", PortableType("date"), "-infinity"),
    ("mariadb", PortableType("string", length=3), "abcd"),
    ("sqlite", PortableType("float64"), "NaN"),
    ("sqlite", MONEY, "NaN"),
    ("sqlite", PortableType("timestamp"), "infinity"),
    ("sqlite", PortableType("timestamptz"), "0044-03-15T10:00:00+00 BC"),
    ("sqlite", PortableType("date"), "5874897-12-31"),
    ("sqlite", PortableType("time"), "24:00:00"),
    ("sqlite", PortableType("time"), "-01:00:00.000000"),
    ("sqlite", PortableType("time"), "838:59:59.999999"),
    ("postgresql", PortableType("time"), "24:00:00.000001"),
    ("postgresql", PortableType("time"), "-01:00:00.000000"),
    ("postgresql", PortableType("date"), "0000-00-00"),
    ("postgresql", PortableType("timestamptz"), "0000-00-00T00:00:00.000000Z"),
    ("postgresql", PortableType("text"), "a\0b"),
    ("postgresql", PortableType("boolean"), 2),
    ("postgresql", PortableType("uint64"), "no number"),
]


if sa.__version__ >= "2.1":  # before 2.1, SQLAlchemy uses MariaDB's type only under the name mariadb
    REFUSED.append(("mariadb", PortableType("uuid"), "884d957a-58bd-cf43-7ea4-0c4106f52a24"))


@pytest.mark.parametrize(("connection", "type_", "value"), REFUSED, indirect=["connection"])
def test_what_an_engine_cannot_hold_is_refused(connection: sa.Connection, type_: PortableType, value: Any) -> None:
    replica = Replica(connection, type_, "elsewhere")
    with pytest.raises((ValueError, exc.DBAPIError)) as raised:
        replica.write(("a", value))
    if isinstance(raised.value, exc.DBAPIError):
        assert replica.dialect.classify(raised.value) is Fault.DATA


HELD = [
    ("sqlite", PortableType("uint64"), 2**64 - 1, "18446744073709551615"),
    ("sqlite", PortableType("uint64"), 2**63 - 1, 2**63 - 1),
    ("sqlite", PortableType("decimal"), "0.1234567890123456", "0.1234567890123456"),
    ("sqlite", PortableType("decimal", precision=20, scale=2), "12.50", 12.5),
    ("sqlite", PortableType("decimal"), "NaN", "NaN"),
    ("sqlite", PortableType("json"), "1.50", "1.50"),
    ("mariadb", PortableType("decimal"), "NaN", "NaN"),
    ("mariadb", PortableType("decimal", precision=70, scale=40), "0." + "1" * 40, "0." + "1" * 40),
    ("mariadb", PortableType("time"), "24:00:00", "24:00:00.000000"),
]


@pytest.mark.parametrize(("connection", "type_", "value", "held"), HELD, indirect=["connection"])
def test_what_an_engines_numbers_cannot_hold_is_held_as_text(
    connection: sa.Connection, type_: PortableType, value: Any, held: Any
) -> None:
    replica = Replica(connection, type_, "elsewhere")
    replica.write(("a", value))
    found = "CAST(v AS CHAR)" if connection.dialect.name != "sqlite" else "v"
    assert connection.exec_driver_sql(f"SELECT {found} FROM thing").scalar_one() == held


WIDE = PortableType("decimal", precision=20, scale=2)


@pytest.mark.parametrize("connection", ["sqlite"], indirect=True)
def test_a_numeric_column_of_the_users_own_takes_what_it_holds_exactly(connection: sa.Connection) -> None:
    replica = Replica(connection, WIDE, "elsewhere", "CREATE TABLE thing (k TEXT PRIMARY KEY, v NUMERIC(20, 2))")
    replica.write(("a", "1234567890123.45"))
    with pytest.raises(ValueError, match="column v: a value cannot be held exactly"):
        replica.write(("b", "12345678901234567.89"))
    assert replica.rows() == [("a", 1234567890123.45)]


KEYS = ("a", "A", "a ", "ä", "😀", "😁")


@pytest.mark.parametrize("connection", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_keys_that_a_collation_may_take_for_equal_stay_apart(connection: sa.Connection) -> None:
    replica = Replica(connection, PortableType("int32"), "elsewhere")
    replica.write(*((key, n) for n, key in enumerate(KEYS)))
    replica.write(("A", 7))
    replica.delete("a", "ä")
    assert replica.rows() == sorted([("A", 7), ("a ", 2), ("😀", 4), ("😁", 5)])


LOOSE_COLLATION = "CREATE TABLE thing (k VARCHAR(50) COLLATE utf8mb4_general_ci PRIMARY KEY, v INTEGER)"


@pytest.mark.parametrize("connection", ["mariadb"], indirect=True)
@pytest.mark.parametrize("other", ["A", "a ", "á"])
def test_a_key_that_a_collation_takes_for_another_is_refused(connection: sa.Connection, other: str) -> None:
    """The row of the other key is neither changed nor deleted."""
    replica = Replica(connection, PortableType("int32"), "elsewhere", LOOSE_COLLATION)
    replica.write(("a", 1), ("b", 2))
    replica.delete(other)
    assert replica.rows() == [("a", 1), ("b", 2)]
    with pytest.raises(exc.IntegrityError) as raised:
        replica.write((other, 3))
    assert replica.dialect.classify(raised.value) is Fault.CONFLICT
    assert "collation takes for the same" in replica.dialect.reason(raised.value)
    replica.write(("a", 4))
    replica.delete("b")
    assert replica.rows() == [("a", 4)]


@pytest.mark.parametrize("connection", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_a_padded_key_is_found(connection: sa.Connection) -> None:
    shape = TableShape("public", "thing", "elsewhere", (ColumnShape("k", PortableType("char", length=4)),), ("k",))
    replica = Replica(connection, PortableType("int32"), "elsewhere")
    connection.exec_driver_sql("DROP TABLE thing")
    TableDefinitions([shape], replica.dialect, connection.dialect).tables[shape.full_name].create(connection)
    columns = replica.dialect.read_columns(connection, None, "thing")
    table = ReplicaTable(None, "thing", replica.table.quoted, columns, ("k",), False)
    layout = RowLayout(shape, ("k",))
    key = orjson.dumps({"k": "ab  "})
    replica.dialect.upsert(connection, table, layout, [key])
    assert len(connection.exec_driver_sql("SELECT k FROM thing").all()) == 1
    replica.dialect.delete(connection, table, layout, [key])
    assert connection.exec_driver_sql("SELECT k FROM thing").all() == []
