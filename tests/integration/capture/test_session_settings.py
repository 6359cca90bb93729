"""No setting of a session changes what listeners write, whenever the application changes the setting."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import Capture, CaptureError
from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.shared.images import RowImage, register_functions
from rowcast.shared.tables.type_mapping import portable_type
from support.session_settings import COLUMNS, SETTINGS, create_table

UNCHANGED = {
    "postgresql": "SELECT string_agg(current_setting(name), ' ' ORDER BY name) FROM pg_settings "
    "WHERE name IN ('extra_float_digits', 'DateStyle', 'TimeZone', 'IntervalStyle', 'bytea_output', 'lc_monetary')",
    "mariadb": "SELECT @@sql_mode",
    "mysql": "SELECT @@sql_mode",
    "sqlite": "SELECT 1",
}


class OwnType(sa.types.UserDefinedType[Any]):
    """Declare a type that SQLAlchemy does not know."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


class Ledger:
    """Hold the table `item` with values of all kinds, captured by listeners with before images."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)
        self.metadata = sa.MetaData()
        Capture(self.metadata, source="ledger")
        with self.engine.begin() as connection:
            self.name = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else connection.dialect.name
            self.metadata.create_all(connection)
            for statement in create_table(self.name):
                connection.exec_driver_sql(statement)
        own = [("place", "POINT"), ("reading", "READING")] if self.name == "postgresql" else []
        columns = [sa.Column(name, OwnType(type_)) for name, type_ in own]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Did not recognize type")
            self.item = sa.Table("item", self.metadata, *columns, autoload_with=self.engine)
        self.plain = sa.create_engine(url, poolclass=sa.NullPool)
        # The capture would write without before images by a faster way.
        self.capture = Capture(self.metadata, source="ledger", tables={"item": {"before": True}})
        self.capture.install(self.engine)
        self.values: dict[str, Any] = {name: sa.literal_column(sql) for name, (_, sql) in COLUMNS[self.name].items()}

    def image(self, columns: Any) -> RowImage:
        return RowImage([(str(c.name), c, portable_type(c.type, self.engine.dialect)) for c in columns])

    def stored(self) -> dict[str, Any]:
        """Return the rows as a session with default settings writes them."""
        with self.plain.connect() as connection:
            if self.name == "sqlite":
                register_functions(connection.connection.dbapi_connection)
            query = sa.select(self.image(self.item.primary_key), self.image(self.item.c)).select_from(self.item)
            return {_canonical(key): orjson.loads(row) for key, row in connection.execute(query)}

    def take(self) -> tuple[dict[str, Any], list[Any]]:
        """Empty the outbox. Return the rows that a replica would have, and all before images."""
        rows: dict[str, Any] = {}
        before: list[Any] = []
        with self.plain.begin() as connection:
            texts = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars().all()
            connection.exec_driver_sql("DELETE FROM rowcast_outbox")
        for head, key, after, old in (change for text in texts for change in ChangeSplitter().split(text)):
            if old:
                before.append(orjson.loads(old))
            if head.op == "d":
                rows.pop(_canonical(key), None)
            else:
                assert after is not None
                rows[_canonical(key)] = orjson.loads(after)
        return rows, before


def _canonical(key: str | bytes) -> str:
    return orjson.dumps(orjson.loads(key)).decode()


@pytest.fixture(params=[pytest.param(e, marks=pytest.mark.shared_dialect if e == "mysql" else ()) for e in ENGINES])
def ledger(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Ledger]:
    ledger = Ledger(new_database(request.param))
    yield ledger
    ledger.engine.dispose()


def test_no_session_setting_changes_a_row_image(ledger: Ledger) -> None:
    item, default = ledger.item, None
    for setting in SETTINGS[ledger.name]:
        with ledger.engine.connect() as connection, connection.begin():
            for key in (1, 2, 3):
                connection.execute(item.insert().values(id=key, n=1, **ledger.values))
        ledger.take()
        with ledger.engine.connect() as connection:
            with connection.begin():
                connection.execute(item.update().where(item.c.id == 1).values(n=2))
                connection.exec_driver_sql(setting)
                before = connection.exec_driver_sql(UNCHANGED[ledger.name]).scalar()
                connection.execute(item.update().where(item.c.id == 2).values(n=2))
                connection.execute(item.delete().where(item.c.id == 3))
                connection.execute(item.insert().values(id=4, n=2, **ledger.values))
                assert connection.exec_driver_sql(UNCHANGED[ledger.name]).scalar() == before
            assert connection.exec_driver_sql(UNCHANGED[ledger.name]).scalar() == before
            connection.invalidate()
        rows, old = ledger.take()
        stored = ledger.stored()
        assert len(stored) == 3
        assert rows == stored, setting
        images = {str({**image, "id": 0, "n": 0}) for image in (*old, *stored.values())}
        assert len(old) == 3
        assert images == (default := default or images), setting
        with ledger.plain.begin() as connection:
            connection.exec_driver_sql("DELETE FROM item")


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_the_first_commit_of_a_process_is_captured_under_ansi_quotes(
    engine_name: str, new_database: NewDatabase
) -> None:
    metadata, engine = sa.MetaData(), sa.create_engine(new_database(engine_name))
    item = sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True))
    Capture(metadata, source="ledger").install(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET sql_mode = 'ANSI_QUOTES'")
        connection.execute(sa.insert(item), {"id": 1})
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(metadata.tables["rowcast_outbox"])) == 1
    engine.dispose()


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("engine", ["mariadb", pytest.param("mysql", marks=pytest.mark.shared_dialect)])
def test_a_limit_for_the_queries_of_the_session_hides_no_row_from_the_capture(
    new_database: NewDatabase, engine: str, limit: int
) -> None:
    ledger = Ledger(new_database(engine))
    item = ledger.item
    with ledger.engine.begin() as connection:
        connection.execute(item.insert(), [{"id": key, "n": 1} for key in (1, 2, 3, 4)])
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(f"SET sql_select_limit = {limit}")
        connection.execute(item.update().where(item.c.n == 1, item.c.id > 1).values(n=2))
        connection.execute(item.delete().where(item.c.n == 2, item.c.id > 2))
        connection.exec_driver_sql("SET sql_select_limit = DEFAULT")
    rows, before = ledger.take()
    assert rows == ledger.stored()
    assert [row["n"] for row in rows.values()] == [1, 2]
    assert len(before) == 3
    ledger.engine.dispose()


def test_an_update_of_many_rows_writes_the_same_under_any_setting(new_database: NewDatabase) -> None:
    ledger = Ledger(new_database("postgresql"))
    ledger.capture.uninstall(ledger.engine)
    sa.Table("number", ledger.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Double))
    number = ledger.metadata.tables["number"]
    number.create(ledger.plain)
    Capture(ledger.metadata, source="ledger").install(ledger.engine)
    with ledger.plain.begin() as connection:
        connection.exec_driver_sql("INSERT INTO number SELECT i, i / 7.0 FROM generate_series(1, 700) AS i")
    for setting in ("SET extra_float_digits = 1", "SET extra_float_digits = 0"):
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql(setting)
            connection.execute(number.update().values(x=number.c.x + 0.1))
        rows, _ = ledger.take()
        with ledger.plain.connect() as connection:
            stored = {row.id: row.x for row in connection.execute(sa.select(number))}
        assert {row["id"]: row["x"] for row in rows.values()} == stored
    ledger.engine.dispose()


@pytest.mark.parametrize("statement", ["INSERT", "UPDATE", "DELETE"])
def test_a_driver_that_does_not_count_rows_is_refused(new_database: NewDatabase, statement: str) -> None:
    """SQLite's PRAGMA count_changes returns the count as a row, and the driver's rowcount is 0 before it is read."""
    metadata = sa.MetaData()
    item = sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    engine = sa.create_engine(new_database("sqlite"))
    Capture(metadata, source="ledger").install(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(item).values(id=1, n=1))
    by_key = item.c.id == 1
    changes = {
        "INSERT": sa.insert(item).values(id=2, n=2),
        "UPDATE": sa.update(item).where(by_key).values(n=2),
        "DELETE": sa.delete(item).where(by_key),
    }
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA count_changes = ON")
        connection.execute(changes[statement])
        with pytest.raises(CaptureError, match="count_changes"):
            connection.commit()
    with engine.connect() as connection:
        assert connection.execute(sa.select(item)).all() == [(1, 1)]
    engine.dispose()
