"""The replica's columns follow the source's types and parameters, or the worker stops with the statement to run."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fixtures.databases import NewDatabase
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import ForeignKeyShape, PortableType, TableShape
from support.direct_replica import direct_replica
from support.kafka_source import column, shape

pytestmark = pytest.mark.shared_dialect

NOON = "2026-01-01T12:00:00"


def decimal(precision: int, scale: int) -> PortableType:
    return PortableType("decimal", precision=precision, scale=scale, native=f"NUMERIC({precision}, {scale})")


def string(length: int) -> PortableType:
    return PortableType("string", length=length, native=f"VARCHAR({length})")


def enum(*labels: str) -> PortableType:
    return PortableType("enum", values=labels, native=f"ENUM({','.join(map(repr, labels))})")


def native(name: str, ddl: str) -> PortableType:
    return PortableType(name, native=ddl)


DECIMALS = PortableType("array", items=decimal(12, 4), native="NUMERIC(12, 4)[]")

# The type before and afterwards, and a value of each type.
Change = tuple[PortableType, PortableType, Any, Any]

ON_BOTH: dict[str, Change] = {
    "decimal gains digits after the point": (decimal(10, 2), decimal(12, 4), "1.25", "1.2345"),
    "decimal gains digits before the point": (decimal(5, 2), decimal(12, 2), "1.25", "123456789.25"),
    "decimal moves its point": (decimal(10, 2), decimal(10, 4), "12345678.25", "1.2345"),
    "varchar gains characters": (string(10), string(100), "x", "y" * 50),
    "varchar becomes text": (string(10), native("text", "TEXT"), "x", "y" * 50),
    "integer becomes bigint": (native("int32", "INTEGER"), native("int64", "BIGINT"), 1, 2**40),
}
ON_POSTGRESQL: dict[str, Change] = ON_BOTH | {
    "timestamp gains microseconds": (
        native("timestamp", "TIMESTAMP(0) WITHOUT TIME ZONE"), native("timestamp", "TIMESTAMP WITHOUT TIME ZONE"),
        NOON, f"{NOON}.654321",
    ),
    "timestamptz gains microseconds": (
        native("timestamptz", "TIMESTAMP(3) WITH TIME ZONE"), native("timestamptz", "TIMESTAMP(6) WITH TIME ZONE"),
        f"{NOON}.123Z", f"{NOON}.654321Z",
    ),
    "time gains microseconds": (
        native("time", "TIME(0) WITHOUT TIME ZONE"), native("time", "TIME WITHOUT TIME ZONE"),
        "10:00:00", "10:00:00.5",
    ),
    "real becomes double": (native("float32", "REAL"), native("float64", "DOUBLE PRECISION"), 0.5, 0.123456789012),
    "array of decimals": (
        PortableType("array", items=decimal(10, 2), native="NUMERIC(10, 2)[]"),
        DECIMALS,
        ["1.25"], ["1.2345"],
    ),
}  # fmt: skip
ON_MARIADB: dict[str, Change] = ON_BOTH | {
    "datetime gains microseconds": (
        native("timestamp", "DATETIME"), native("timestamp", "DATETIME(6)"), NOON, f"{NOON}.654321",
    ),
    "time gains microseconds": (native("time", "TIME"), native("time", "TIME(6)"), "10:00:00", "10:00:00.5"),
    "enum gains a label": (enum("x", "y"), enum("x", "y", "z"), "x", "z"),
    "text becomes longtext": (native("text", "TEXT"), native("text", "LONGTEXT"), "x", "y" * 70_000),
    "blob becomes longblob": (native("bytes", "BLOB"), native("bytes", "LONGBLOB"), "eA==", "eHh4" * 30_000),
    "float becomes double": (native("float32", "FLOAT"), native("float64", "DOUBLE"), 0.5, 0.123456789012),
}  # fmt: skip
CHANGES = {"postgresql": ON_POSTGRESQL, "mariadb": ON_MARIADB, "mysql": ON_MARIADB}


def thing(type_: PortableType, engine: str, number: int = 0) -> TableShape:
    return shape(f"thing{number}", column("v", type_), engine=engine)


def written(value: Any) -> Any:
    """Return a stored or a sent value in a form that both share."""
    if isinstance(value, list):
        return [written(item) for item in value]
    if isinstance(value, timedelta):
        value = (datetime.min + value).time()
    if isinstance(value, bytes):
        value = b64encode(value).decode()
    if isinstance(value, Decimal):
        return value
    text = str(value).replace("T", " ").replace("+00:00", "Z")
    return Decimal(text) if re.fullmatch(r"[\d.]+", text) else re.sub(r"(\.\d*?)0*(Z?)$", r"\1\2", text)


@pytest.mark.parametrize("replica_url", CHANGES, indirect=True)
def test_a_column_of_the_workers_is_widened(replica_url: str, request: Any) -> None:
    engine = request.node.callspec.params["replica_url"]
    changes = list(CHANGES[engine].values())
    old = [thing(before, engine, number) for number, (before, *_) in enumerate(changes)]
    new = [thing(after, engine, number) for number, (_, after, *_) in enumerate(changes)]
    with direct_replica(replica_url, *old) as replica:
        replica.apply(*(("c", f"thing{n}", {"id": 1, "v": value}) for n, (_, _, value, _) in enumerate(changes)))
        replica.add(*new)
        replica.apply(*(("c", f"thing{n}", {"id": 2, "v": value}) for n, (_, _, _, value) in enumerate(changes)))
        # The old type is the newest again after a rollback: the column stays wide, and nothing is lost.
        replica.add(*old)
        replica.restart()
        for number, (name, (_, _, *values)) in enumerate(CHANGES[engine].items()):
            stored = [value for _, value in replica.rows(f"thing{number}")]
            assert list(map(written, stored)) == list(map(written, values)), name


# A table of the user's, the source's type, and the type that the statement in the error gives the column.
NARROW: dict[str, list[tuple[str, PortableType, str]]] = {
    "postgresql": [
        ("numeric(10, 2)", decimal(12, 4), "NUMERIC(12, 4)"),
        ("real", native("float64", "DOUBLE PRECISION"), "DOUBLE PRECISION"),
        ("double precision", decimal(20, 4), "NUMERIC(20, 4)"),
        ("timestamp(3)", native("timestamp", "TIMESTAMP WITHOUT TIME ZONE"), "TIMESTAMP WITHOUT TIME ZONE"),
        ("date", PortableType("timestamp"), "TIMESTAMP WITHOUT TIME ZONE"),
        ("interval(0)", native("interval", "INTERVAL"), "INTERVAL"),
        ("varchar(10)", string(20), "VARCHAR(20)"),
        ("name", PortableType("text"), "TEXT"),
        ("money", decimal(12, 4), "NUMERIC(21, 4)"),
        ("cents", decimal(12, 4), "NUMERIC(12, 4)"),
        ("mood", enum("sad", "glad", "calm"), "TEXT"),
        ("numeric(10, 2)[]", DECIMALS, "NUMERIC(12, 4)[]"),
    ],
    "mariadb": [
        ("decimal(10, 2)", decimal(12, 4), "NUMERIC(12, 4)"),
        ("double", decimal(20, 4), "NUMERIC(20, 4)"),
        ("float", PortableType("float64"), "DOUBLE"),
        ("double(10, 2)", PortableType("float64"), "DOUBLE"),
        ("datetime", PortableType("timestamp"), "DATETIME(6)"),
        ("date", PortableType("timestamp"), "DATETIME(6)"),
        ("time(3)", PortableType("time"), "TIME(6)"),
        ("varchar(10)", string(20), "VARCHAR(20)"),
        ("char(20)", string(20), "VARCHAR(20)"),
        ("text", PortableType("text"), "LONGTEXT"),
        ("enum('sad','glad')", enum("sad", "glad", "calm"), "LONGTEXT"),
        ("int", decimal(10, 2), "NUMERIC(12, 2)"),
        ("int", PortableType("text"), "LONGTEXT"),
        ("blob", PortableType("bytes"), "LONGBLOB"),
        ("binary(16)", PortableType("bytes", length=16), "LONGBLOB"),
    ],
    "sqlite": [
        ("integer", PortableType("text"), "TEXT"),
        ("real", PortableType("int64"), "BIGINT"),
        ("numeric", PortableType("uuid"), "CHAR(32)"),
    ],
}
NARROW["mysql"] = NARROW["mariadb"]
POSTGRESQL_TYPES = (
    "CREATE DOMAIN price AS numeric(10, 2)",
    "CREATE DOMAIN cents AS price",
    "CREATE TYPE mood AS ENUM ('sad', 'glad')",
)


def source_of(type_: PortableType, engine: str) -> str:
    """Return an engine for the source. A type with DDL belongs to a source on the replica's own engine."""
    return "postgresql" if type_.native and engine == "postgresql" else "elsewhere"


@pytest.mark.parametrize("replica_url", NARROW, indirect=True)
def test_a_narrower_column_of_the_users_is_refused(replica_url: str, request: Any) -> None:
    engine = request.node.callspec.params["replica_url"]
    with direct_replica(replica_url) as replica:
        if engine == "postgresql":
            replica.database.execute(*POSTGRESQL_TYPES)
        for number, (type_, wanted, statement) in enumerate(NARROW[engine]):
            replica.database.execute(f"CREATE TABLE thing{number} (id BIGINT PRIMARY KEY, v {type_})")
            replica.add(thing(wanted, source_of(wanted, engine), number))
            refusal = f"column v of the replica's table thing{number} is .*, which is narrower than the source's column"
            with pytest.raises(ConfigurationError, match=refusal) as raised:
                replica.replica.prepare()
            match = re.search(r"Run: (ALTER TABLE .*), and start", str(raised.value))
            if match is None:
                assert engine == "sqlite"
                assert f"Create the table again with {statement} there" in str(raised.value)
                replica.database.execute(f"DROP TABLE thing{number}")
            else:
                assert f" {statement}" in match[1]
                replica.database.execute(match[1])
            # The table fits now.
            replica.replica.prepare()


@pytest.mark.parametrize("replica_url", ["postgresql", "mariadb"], indirect=True)
def test_a_narrower_integer_of_the_users_takes_all_numbers_that_fit(
    replica_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with direct_replica(replica_url) as replica:
        replica.database.execute("CREATE TABLE thing (id BIGINT PRIMARY KEY, v INTEGER)")
        replica.begin(shape("thing", column("v")))
        assert re.search("The worker stops at the first value that does not fit. .* run: ALTER TABLE", caplog.text)
        replica.apply(("c", "thing", {"id": 1, "v": 2**31 - 1}))
        with pytest.raises(DataError, match=r"offset .* the replica refuses a value: .*[Oo]ut of range"):
            replica.apply(("c", "thing", {"id": 2, "v": 2**31}))
        assert replica.rows("thing") == [(1, 2**31 - 1)]


# A table of the user's that is not narrower, although its types are others.
WIDE: dict[str, list[tuple[str, PortableType]]] = {
    "postgresql": [
        ("numeric", decimal(12, 4)), ("text", string(20)), ("varchar(30)", string(20)),
        ("bigint", PortableType("int16")), ("timestamptz", PortableType("timestamp")),
        ("timestamp(3)", native("timestamp", "TIMESTAMP(3) WITHOUT TIME ZONE")),
        ("text", decimal(12, 4)), ("text", PortableType("timestamp")), ("double precision", decimal(10, 2)),
        ("mood", enum("glad")), ("jsonb", PortableType("json")), ("char(32)", PortableType("uuid")),
        ("numeric(23, 4)", PortableType("int64")), ("double precision", PortableType("float32")),
    ],
    "mariadb": [
        ("decimal(20, 4)", decimal(12, 4)), ("text", string(20)), ("varchar(30)", string(20)),
        ("bigint", PortableType("int16")), ("bit(1)", PortableType("boolean")), ("int", PortableType("boolean")),
        ("varchar(20)", enum("sad", "glad")), ("enum('sad','glad')", enum("glad")),
        ("char(20)", PortableType("char", length=20)), ("timestamp(6)", PortableType("timestamptz")),
        ("longblob", PortableType("bytes")), ("char(32)", PortableType("uuid")),
        ("json", PortableType("json")), ("double", decimal(10, 2)), ("datetime(6)", PortableType("date")),
    ],
    "sqlite": [
        ("real", decimal(10, 2)), ("text", PortableType("int64")), ("json", PortableType("json")),
        ("varchar(10)", string(20)), ("datetime", PortableType("date")), ("", PortableType("decimal")),
    ],
}  # fmt: skip
WIDE["mysql"] = WIDE["mariadb"]


@pytest.mark.parametrize("replica_url", WIDE, indirect=True)
def test_a_column_that_is_wide_enough_is_used(replica_url: str, request: Any) -> None:
    engine = request.node.callspec.params["replica_url"]
    with direct_replica(replica_url) as replica:
        if engine == "postgresql":
            replica.database.execute(*POSTGRESQL_TYPES)
        for number, (type_, wanted) in enumerate(WIDE[engine]):
            replica.database.execute(f"CREATE TABLE thing{number} (id BIGINT PRIMARY KEY, v {type_})")
            replica.add(thing(wanted, source_of(wanted, engine), number))
        replica.replica.prepare()


@pytest.mark.parametrize("replica_url", ["postgresql", "mariadb", "mysql"], indirect=True)
def test_columns_of_foreign_keys_are_widened(replica_url: str, request: Any) -> None:
    engine = request.node.callspec.params["replica_url"]

    def shapes(type_: PortableType) -> list[TableShape]:
        word = shape("word", column("w", type_, nullable=False), key=("w",), engine=engine)
        key = ForeignKeyShape(("w",), "public", "word", ("w",))
        use = shape("use", column("w", type_), engine=engine)
        return [word, replace(use, foreign_keys=(key,))]

    with direct_replica(replica_url, *shapes(string(10))) as replica:
        replica.apply(("c", "word", {"w": "a"}), ("c", "use", {"id": 1, "w": "a"}))
        replica.add(*shapes(string(100)))
        replica.apply(("c", "word", {"w": "b" * 50}), ("c", "use", {"id": 2, "w": "b" * 50}))
        assert replica.rows("use") == [(1, "a"), (2, "b" * 50)]
        with pytest.raises(DataError):
            replica.apply(("c", "use", {"id": 3, "w": "c"}))


def test_a_statement_that_the_server_refuses_is_named(new_database: NewDatabase) -> None:
    """A view of the user's needs the column's type."""
    with direct_replica(new_database("postgresql"), thing(decimal(10, 2), "postgresql")) as replica:
        replica.database.execute("CREATE VIEW seen AS SELECT v FROM thing0")
        replica.add(thing(decimal(12, 4), "postgresql"))
        with pytest.raises(ConfigurationError, match=r"cannot alter type of a column used by a view.*Run: ALTER TABLE"):
            replica.apply(("c", "thing0", {"id": 1, "v": "1.2345"}))
        assert replica.rows("thing0") == []


def test_an_event_of_a_wider_shape_than_the_newest(new_database: NewDatabase) -> None:
    """Old and new processes of a rolling deployment take turns, and both kinds of events are exact."""
    with direct_replica(new_database("postgresql"), thing(decimal(10, 2), "postgresql")) as replica:
        wide = thing(decimal(12, 4), "postgresql")
        replica.add(wide)
        event = replica.change("c", "thing0", {"id": 1, "v": "1.2345"})
        replica.add(thing(decimal(10, 2), "postgresql"))
        replica.apply_changes(event)
        assert replica.rows("thing0") == [(1, Decimal("1.2345"))]


ROUNDED: list[tuple[PortableType, Any, Any]] = [
    (decimal(10, 2), "1.50", "1.234"),
    (native("timestamp", "TIMESTAMP(3) WITHOUT TIME ZONE"), f"{NOON}.123", f"{NOON}.1234"),
    (native("timestamptz", "TIMESTAMP(0) WITH TIME ZONE"), f"{NOON}Z", f"{NOON}.5Z"),
    (native("time", "TIME(0) WITHOUT TIME ZONE"), "10:00:00", "10:00:00.5"),
    (native("interval", "INTERVAL(0)"), "P1D", "PT0.5S"),
]


def test_a_value_with_more_digits_than_its_own_column_is_refused(new_database: NewDatabase) -> None:
    """PostgreSQL would round. The application's model may say less than the primary's table has."""
    shapes = [thing(type_, "postgresql", number) for number, (type_, _, _) in enumerate(ROUNDED)]
    with direct_replica(new_database("postgresql"), *shapes) as replica:
        for number, (_, exact, rounded) in enumerate(ROUNDED):
            name = f"thing{number}"
            replica.apply(("c", name, {"id": 1, "v": exact}), ("c", name, {"id": 2, "v": None}))
            with pytest.raises(
                DataError, match=r"table public\.thing\d .* the value has more digits than the column \("
            ) as raised:
                replica.apply(("c", name, {"id": 3, "v": rounded}))
            assert rounded not in str(raised.value)
            assert len(replica.rows(name)) == 2


@pytest.mark.parametrize("replica_url", ["mariadb", "mysql"], indirect=True)
def test_a_time_with_more_digits_than_its_own_column_is_refused(replica_url: str) -> None:
    types = [native("timestamp", "DATETIME"), native("timestamptz", "TIMESTAMP(3)"), native("time", "TIME(1)")]
    shapes = [thing(type_, "mysql", number) for number, type_ in enumerate(types)]
    with direct_replica(replica_url, *shapes) as replica:
        for number, value in enumerate((f"{NOON}.5", f"{NOON}.0005Z", "10:00:00.25")):
            with pytest.raises(DataError, match=r"table public\.thing\d .* column v: the time has more than \d digits"):
                replica.apply(("c", f"thing{number}", {"id": 3, "v": value}))
