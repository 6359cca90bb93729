"""Each event has the key as it is stored, whatever was sent, for every type that stores or compares a key inexactly."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from uuid import NAMESPACE_URL, uuid5

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import registry

from fixtures.databases import ENGINES, NewDatabase
from support.sent_statements import sent_statements
from support.shop import Models, Shop, shop_engine


class Lowered(sa.TypeDecorator[str]):
    """Store texts in lower case, in Python."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


class LoweredByDatabase(sa.types.UserDefinedType[str]):
    """Store texts in lower case, in the database."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "VARCHAR(20)"

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.lower(bindvalue)


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"
    HUGE = "h"
    TINY = "t"


@dataclass(frozen=True)
class KeyType:
    """A type of key, with six values as an application sends them."""

    engines: str
    type: Any
    values: list[Any]


def _moments(zone: timezone | None = None) -> list[Any]:
    return [datetime(2026, 5, 1, 10, 0, i, 123456 + 100_000 * i, zone) for i in range(6)]


TEXTS = ["Anna", "BERTA", "clara", "Dora", "Emil", "frieda"]
MYSQL = "mariadb mysql"
ALL = "postgresql mariadb mysql sqlite"

KEY_TYPES = {
    "integer_of_text": KeyType("postgresql mariadb mysql sqlite", sa.Integer(), ["3", "4", "5", "6", "7", "8"]),
    "integer_of_decimals": KeyType("postgresql " + MYSQL, sa.Integer(), [Decimal(i) for i in range(3, 9)]),
    "integer_of_booleans": KeyType(MYSQL + " sqlite", sa.Integer(), [True, 2, 3, 4, 5, 6]),
    "date_of_datetimes": KeyType(ALL, sa.Date(), [date(2026, 6, 1), *(datetime(2026, 6, i, 11) for i in range(2, 7))]),
    "decimal": KeyType(ALL, sa.Numeric(8, 3), [48.137154, Decimal("1.5"), 2, Decimal("3.00049"), 0.5, -7.25]),
    "any_decimal": KeyType("postgresql", sa.Numeric(), [Decimal("1.0"), Decimal("2.50"), 3, Decimal(4), 5.25, -6]),
    "double": KeyType(ALL, sa.Double(), [0.5, 0, -0.1, 1e300, 2, 1 / 3]),
    "single": KeyType("postgresql " + MYSQL, sa.Float(24), [0.5, 0, -0.1, 1e30, 2, 1 / 3]),
    "real": KeyType("postgresql", sa.REAL(), [0.5, 0, -0.1, 1e30, 2, 1 / 3]),
    "not_a_number": KeyType("postgresql", sa.Double(), [float("nan"), float("inf"), -0.0, 1.0, 2, 3]),
    "datetime": KeyType(ALL, sa.DateTime(), _moments()),
    "datetime_with_zone": KeyType(ALL, sa.DateTime(timezone=True), _moments(UTC)),
    "datetime_of_zones": KeyType(
        "postgresql sqlite",
        sa.DateTime(timezone=True),
        [datetime(2026, 5, 1, 12, i, tzinfo=timezone(timedelta(hours=i))) for i in range(6)],
    ),
    "seconds": KeyType("postgresql", postgresql.TIMESTAMP(precision=0), _moments()),
    "microseconds": KeyType(MYSQL, mysql.DATETIME(fsp=6), _moments()),
    "mysql_timestamp": KeyType(MYSQL, mysql.TIMESTAMP(fsp=3), _moments()),
    "time": KeyType(ALL, sa.Time(), [time(10, 0, i, 600_000 + i) for i in range(6)]),
    "interval": KeyType("postgresql", sa.Interval(), [timedelta(hours=24 * i, seconds=1) for i in range(6)]),
    "char": KeyType(ALL, sa.CHAR(6), TEXTS),
    "padded": KeyType(MYSQL + " sqlite", sa.CHAR(8), [f"{text} " for text in TEXTS]),
    "text": KeyType(ALL, sa.String(20), TEXTS),
    "lowered": KeyType(ALL, Lowered(), TEXTS),
    "lowered_by_database": KeyType(ALL, LoweredByDatabase(), TEXTS),
    "nocase": KeyType("sqlite", sa.String(20, collation="NOCASE"), TEXTS),
    "rtrim": KeyType("sqlite", sa.String(20, collation="RTRIM"), [f"{text} " for text in TEXTS]),
    "icu": KeyType("postgresql", sa.String(20, collation="folding"), TEXTS),
    "citext": KeyType("postgresql", postgresql.CITEXT(), TEXTS),
    "binary": KeyType(MYSQL, sa.BINARY(4), [b"a", b"bc", b"\0", b"\xff", b"abcd", b"z"]),
    "bytes": KeyType(
        ALL, sa.LargeBinary(20).with_variant(sa.VARBINARY(20), "mysql"), [b"a", bytearray(b"b"), b"c", b"d", b"e", b"f"]
    ),
    "uuid": KeyType(ALL, sa.Uuid(), [uuid5(NAMESPACE_URL, str(i)) for i in range(6)]),
    "uuid_as_text": KeyType(ALL, sa.Uuid(as_uuid=False), [str(uuid5(NAMESPACE_URL, str(i))) for i in range(6)]),
    "enum": KeyType(ALL, sa.Enum(Size), [Size.SMALL, "LARGE", Size.HUGE, Size.TINY]),
    "boolean": KeyType("mariadb mysql sqlite", sa.Boolean(), [True, 0]),
    "array": KeyType("postgresql", sa.ARRAY(sa.Integer), [[1, 2], [], [3], [4, 5], [6], [7]]),
    "jsonb": KeyType("postgresql", postgresql.JSONB(), [{"b": 1, "a": [2]}, [1], "x", 1.50, True, {"c": None}]),
    "json": KeyType("sqlite", sa.JSON(), [{"b": 1, "a": [2]}, [1], "x", 1.50, True, {"c": None}]),
    "bits": KeyType("postgresql", postgresql.BIT(4), ["0001", "0010", "0011", "0100", "0101", "0110"]),
    "mysql_bits": KeyType(MYSQL, mysql.BIT(12), [1, 2, 300, 4, 5, 6]),
    "set": KeyType(MYSQL, mysql.SET("a", "b", "c"), [{"a", "b"}, {"b"}, {"c"}, set(), {"a"}, {"a", "b", "c"}]),
    "year": KeyType(MYSQL, mysql.YEAR(), [26, "2027", 28, "29", 2030, 31]),
    "own_format": KeyType(
        "sqlite",
        sqlite.DATE(storage_format="%(year)04d%(month)02d%(day)02d", regexp=r"(\d{4})(\d{2})(\d{2})"),
        [date(2026, 6, i) for i in range(1, 7)],
    ),
    "range": KeyType("postgresql", postgresql.INT4RANGE(), [f"[{i},{i + 2}]" for i in range(6)]),
    "inet": KeyType("postgresql", postgresql.INET(), [f"10.0.0.{i}/32" for i in range(6)]),
}

PARAMETERS = [(engine, name) for engine in ENGINES for name, one in KEY_TYPES.items() if engine in one.engines.split()]


class KeyShop:
    """Hold a table for each type of key on an engine, and the keys that each table has ever stored."""

    def __init__(self, url: str, engine_name: str) -> None:
        self.engine = shop_engine(url)
        metadata = sa.MetaData()
        self.parents = sa.Table("parents", metadata, sa.Column("id", sa.Integer, primary_key=True))
        if engine_name == "postgresql":
            with self.engine.begin() as connection:
                connection.exec_driver_sql(
                    "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                )
                connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS citext")
        self.tables = {
            name: sa.Table(
                f"key_{name}",
                metadata,
                sa.Column("k", KEY_TYPES[name].type, primary_key=True, autoincrement=False),
                sa.Column("n", sa.Integer),
                sa.Column("parent_id", sa.ForeignKey("parents.id", ondelete="CASCADE")),
            )
            for engine, name in PARAMETERS
            if engine == engine_name
        }
        self.classes: dict[str, Any] = {}
        mapper = registry(metadata=metadata)
        for name, table in self.tables.items():
            self.classes[name] = type(name, (), {})
            mapper.map_imperatively(self.classes[name], table)
        self.shop = Shop(self.engine, cast(Models, SimpleNamespace(metadata=metadata)), strict="raise")
        self.stored: set[tuple[str, bytes]] = set()

    def check(self) -> list[dict[str, Any]]:
        """Replay the outbox, and compare the mirror with the rows. Return the changes."""
        rows = self.shop.rows()
        self.stored.update(rows)
        changes = self.shop.take(strict=True)
        assert self.shop.mirror == rows
        return changes


@pytest.fixture(scope="module")
def key_shops(new_lasting_database: NewDatabase) -> Iterator[Callable[[str], KeyShop]]:
    """Return a function that returns the shop of an engine."""
    shops: dict[str, KeyShop] = {}

    def of_engine(name: str) -> KeyShop:
        if name not in shops:
            shops[name] = KeyShop(new_lasting_database(name), name)
        return shops[name]

    yield of_engine
    for shop in shops.values():
        shop.engine.dispose()


# SQLAlchemy 2.1 warns of its own types BIT and YEAR.
@pytest.mark.filterwarnings("ignore:Type object:sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.parametrize(("engine_name", "key_type"), PARAMETERS)
def test_each_event_has_the_key_as_it_is_stored(
    key_shops: Callable[[str], KeyShop], engine_name: str, key_type: str
) -> None:
    shop = key_shops(engine_name)
    table, values = shop.tables[key_type], KEY_TYPES[key_type].values
    first, second, *others = values
    which = table.c.k == sa.bindparam("which", type_=table.c.k.type)
    is_first, is_second, is_moved = (
        table.c.k == sa.bindparam(None, v, type_=table.c.k.type) for v in (first, second, (others or [second])[0])
    )
    # Each statement runs in a transaction of its own.
    insert_others = [{"k": v, "n": i} for i, v in enumerate(others[1:], 3)]
    existing = [{"which": v} for v in (first, second, *others[1:])]
    left = [{"which": v} for v in others]
    statements: list[tuple[Any, list[dict[str, Any]] | None]] = [  # None: one set without parameters
        (sa.insert(table).values(k=first, n=1), None),
        (sa.insert(table), [{"k": second, "n": 2}]),
        (sa.insert(table), insert_others),
        (sa.update(table).where(is_first).values(n=5), None),
        (sa.update(table).where(which).values(n=6), existing),
        (sa.update(table).where(table.c.n > 0).values(n=sa.func.abs(table.c.n) + 1), None),
        (sa.update(table).where(is_second).values(k=others[0]) if others else None, None),
        (sa.update(table).where(is_moved).values(n=99), None),
        (sa.update(table).where(table.c.n == 99).values(k=second) if others else None, None),
        (sa.update(table).where(table.c.n == 99).values(k=others[0]) if others else None, None),
        (sa.delete(table).where(is_first), None),
        (sa.delete(table).where(which), left),
        (sa.delete(table), None),
    ]
    noted = 0
    for statement, sets in statements:
        if statement is None or sets == []:
            continue
        with shop.engine.begin() as connection:
            connection.execute(statement, sets) if sets else connection.execute(statement)
        for change in shop.check():
            noted += 1
            assert (table.name, orjson.dumps(change["k"])) in shop.stored
    assert noted >= len(values)
    if isinstance(second, dict | list | set | bytearray):
        # The unit of work itself needs keys that are hashable.
        return
    with shop.shop.sessions() as session:
        session.add_all([_made(shop.classes[key_type], value) for value in values])
        session.commit()
    assert len(shop.check()) == len(values)
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(shop.parents), {"id": 1})
        connection.execute(sa.update(table).values(parent_id=1))
    shop.check()
    with shop.engine.begin() as connection:
        connection.execute(sa.delete(shop.parents))
    assert len(shop.check()) == len(values) + 1


@pytest.mark.parametrize("engine_name", ["sqlite", "mysql"])
def test_a_key_that_python_makes_is_noted_as_it_is_stored(new_database: NewDatabase, engine_name: str) -> None:
    models: Any = SimpleNamespace(metadata=sa.MetaData())
    key = sa.Column("k", sa.Integer, primary_key=True, autoincrement=False, default=lambda: "7")
    columns = sa.Column("code", sa.String(10), unique=True), sa.Column("n", sa.Integer)
    table = sa.Table("made", models.metadata, key, *columns)
    shop = Shop(shop_engine(new_database(engine_name)), models)
    insert, of_key = sa.insert(table).values(code="x", n=1), table.c.k == 7
    for statements in ([insert, sa.delete(table).where(of_key)], [insert, sa.update(table).where(of_key).values(k=8)]):
        with shop.engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)
        shop.take(strict=True)
        assert shop.mirror == shop.rows()
    if engine_name == "mysql":
        # The upsert changes the row with the code, and not a row with the sent key.
        upsert = mysql.insert(table).values(k="9", code="x", n=2)
        with shop.engine.begin() as connection:
            connection.execute(upsert.on_duplicate_key_update(n=upsert.inserted.n))
        shop.take(strict=True)
        assert shop.mirror == shop.rows()
    assert len(shop.rows()) == 1
    shop.engine.dispose()


def test_an_update_may_set_a_slice_of_an_array(new_database: NewDatabase) -> None:
    models: Any = SimpleNamespace(metadata=sa.MetaData())
    numbers: Any = sa.Column("numbers", postgresql.ARRAY(sa.Integer))
    table = sa.Table("arrays", models.metadata, sa.Column("k", sa.Integer, primary_key=True), numbers)
    shop = Shop(shop_engine(new_database("postgresql")), models)
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(table), {"k": 1, "numbers": [1, 2, 3]})
        connection.execute(sa.update(table).values({numbers[2:3]: [7, 8]}))
        connection.execute(sa.update(table).where(table.c.k == 1).values({numbers[1]: 6}))
    shop.take()
    assert shop.mirror == shop.rows()
    shop.engine.dispose()


@pytest.mark.parametrize("engine_name", ["postgresql", "mariadb", "sqlite"])
def test_rows_that_the_application_asks_for_beside_defaults_have_no_hidden_key(
    new_database: NewDatabase, engine_name: str
) -> None:
    models: Any = SimpleNamespace(metadata=sa.MetaData())
    columns = sa.Column("k", Lowered, primary_key=True), sa.Column("n", sa.Integer, server_default="7")
    table = sa.Table("texts", models.metadata, *columns)
    shop = Shop(shop_engine(new_database(engine_name)), models)
    insert = sa.insert(table).return_defaults(table.c.n, supplemental_cols=[table.c.k])
    with shop.engine.begin() as connection:
        rows = connection.execute(insert, [{"k": "Anna"}, {"k": "BERTA"}]).all()
    assert sorted(map(tuple, rows)) == [("anna", 7), ("berta", 7)]
    shop.take()
    assert shop.mirror == shop.rows()
    shop.engine.dispose()


class Code:
    """A key of the application's own class."""

    def __init__(self, text: str) -> None:
        self.text = text


class CodeType(sa.TypeDecorator[Code]):
    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Code | None, dialect: Any) -> str | None:
        return None if value is None else value.text

    def process_result_value(self, value: str | None, dialect: Any) -> Code | None:
        return None if value is None else Code(value)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_cascade_finds_a_key_of_a_class_that_only_the_application_knows(
    engine_name: str, new_database: NewDatabase
) -> None:
    metadata = sa.MetaData()
    parents = sa.Table("parents", metadata, sa.Column("id", sa.Integer, primary_key=True))
    to_parent = sa.ForeignKey("parents.id", ondelete="CASCADE")
    children = sa.Table(
        "children", metadata, sa.Column("code", CodeType(), primary_key=True), sa.Column("parent_id", to_parent)
    )
    shop = Shop(shop_engine(new_database(engine_name)), cast(Models, SimpleNamespace(metadata=metadata)))
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(parents), {"id": 1})
        connection.execute(sa.insert(children), {"code": Code("a"), "parent_id": 1})
    shop.take()
    with shop.engine.begin() as connection:
        connection.execute(sa.delete(parents))
    assert sorted(change["t"].split(".")[-1] for change in shop.take()) == ["children", "parents"]
    assert shop.mirror == {}
    shop.engine.dispose()


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
@pytest.mark.parametrize("id_", [None, 0], ids=["missing", "zero"])
def test_a_drawn_number_beside_a_moment_that_is_cut(
    engine_name: str, id_: int | None, new_database: NewDatabase
) -> None:
    metadata = sa.MetaData()
    number = sa.Column("id", sa.Integer, primary_key=True, autoincrement=True)
    table = sa.Table("entries", metadata, number, sa.Column("at", sa.DateTime, primary_key=True))
    shop = Shop(
        shop_engine(new_database(engine_name)), cast(Models, SimpleNamespace(metadata=metadata)), strict="raise"
    )
    key = {"at": datetime(2026, 5, 1, 10, 0, 0, 400_000), **({} if id_ is None else {"id": id_})}
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(table), key)
    assert [change["op"] for change in shop.take()] == ["c"]
    assert shop.mirror == shop.rows()
    shop.engine.dispose()


@pytest.mark.parametrize("engine_name", ["postgresql", "mariadb"])
def test_a_trigger_that_changes_keys_is_known_in_every_schema(engine_name: str, new_database: NewDatabase) -> None:
    engine = shop_engine(new_database(engine_name))
    other = f"{engine.url.database}_other"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {other}")
    metadata = sa.MetaData()
    tables = [
        sa.Table("numbered", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), schema=name)
        for name in (None, other)
    ]
    shop = Shop(engine, cast(Models, SimpleNamespace(metadata=metadata)), strict="raise")
    with engine.begin() as connection:
        if engine_name == "postgresql":
            body = "BEGIN new.id := new.id + 100; RETURN new; END"
            connection.exec_driver_sql(f"CREATE FUNCTION renumber() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
        for table in tables:
            # On MariaDB a trigger has a schema. On PostgreSQL it has none.
            name, action = f"{table.fullname}_renumber", "SET new.id = new.id + 100"
            if engine_name == "postgresql":
                name, action = "renumber", "EXECUTE FUNCTION renumber()"
            connection.exec_driver_sql(f"CREATE TRIGGER {name} BEFORE INSERT ON {table.fullname} FOR EACH ROW {action}")
    with engine.begin() as connection:
        for number, table in enumerate(tables):
            connection.execute(sa.insert(table), {"id": number})
    assert [change["k"] for change in shop.take()] == [{"id": 100}, {"id": 101}]
    with engine.begin() as connection:
        metadata.drop_all(connection, tables)
        connection.exec_driver_sql(f"DROP SCHEMA {other}")
    engine.dispose()


REKEYING = {
    "assigned": "BEGIN new.id := new.id + 100; RETURN new; END",
    "compared": "BEGIN IF new.n > 5 THEN new.id = new.id + 100; END IF; RETURN new; END",
    "into": "BEGIN SELECT old.id + 100 INTO new.id; RETURN new; END",
    "whole row": "BEGIN new := (old.id + 100, new.n); RETURN new; END",
    "other row": "BEGIN RETURN ROW(old.id + 100, new.n); END",
}


@pytest.mark.parametrize("body", REKEYING.values(), ids=REKEYING)
def test_a_trigger_that_changes_the_keys_of_updated_rows(new_database: NewDatabase, body: str) -> None:
    with _triggered_item(new_database("postgresql"), body) as (shop, item):
        with shop.engine.begin() as connection:
            assert connection.execute(sa.update(item).where(item.c.n > 0).values(n=item.c.n + 4)).rowcount == 2
        operations = {(change["op"], change["k"]["id"]) for change in shop.take()}
        assert shop.mirror == shop.rows()
        assert operations > {("d", 2), ("c", 102)}
        if body == REKEYING["compared"]:
            assert operations == {("d", 2), ("c", 102), ("u", 1)}


@pytest.mark.parametrize(
    "body",
    ["BEGIN new.n := new.n + 1; RETURN new; END", "BEGIN IF new.id = 7 THEN RETURN NULL; END IF; RETURN new; END"],
)
def test_with_a_trigger_that_changes_no_key_nothing_is_locked_before(new_database: NewDatabase, body: str) -> None:
    with _triggered_item(new_database("postgresql"), body) as (shop, item):
        update = sa.update(item).where(item.c.n > 0).values(n=item.c.n + 4)
        with shop.engine.begin() as connection:
            connection.execute(update)
        with sent_statements(shop.engine) as sent, shop.engine.begin() as connection:
            connection.execute(update)
        assert not [sql for sql in sent if "UPDATE" in sql and sql.startswith("SELECT")]
        shop.take()
        assert shop.mirror == shop.rows()


@contextmanager
def _triggered_item(url: str, body: str) -> Iterator[tuple[Shop, sa.Table]]:
    """Yield a table with two rows and a BEFORE UPDATE trigger."""
    metadata = sa.MetaData()
    key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    item = sa.Table("item", metadata, key, sa.Column("n", sa.Integer))
    shop = Shop(shop_engine(url), cast(Models, SimpleNamespace(metadata=metadata)), strict="raise")
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
        connection.exec_driver_sql("CREATE TRIGGER t BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION f()")
        connection.execute(sa.insert(item), [{"id": 1, "n": 1}, {"id": 2, "n": 3}])
    shop.take()
    yield shop, item
    shop.engine.dispose()


def _made(cls: Any, value: Any) -> Any:
    made = cls()
    made.k, made.n = value, 1
    return made
