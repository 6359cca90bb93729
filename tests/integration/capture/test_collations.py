"""Test keys that a database takes for equal, for replicas that compare byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import Capture, CaptureError
from servers import DatabaseServer
from support.shop import Models, Shop, shop_engine


@pytest.fixture
def engine(new_database: Any, mariadb: DatabaseServer) -> Iterator[sa.Engine]:
    engine = sa.create_engine(new_database("mariadb"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("type_", [sa.String(20), sa.CHAR(20)])
def test_a_key_by_another_name_is_the_rows_own(engine: sa.Engine, type_: Any) -> None:
    metadata = sa.MetaData()
    table = sa.Table("thing", metadata, sa.Column("k", type_, primary_key=True), sa.Column("v", sa.Integer))
    Capture(metadata, source="test").install(engine)
    metadata.create_all(engine)
    copy: dict[str, int] = {}

    def commit(statement: Any, *rows: dict[str, Any]) -> dict[str, int]:
        """Execute a statement, and play the captured changes into a copy that compares byte by byte."""
        with engine.begin() as connection:
            connection.execute(statement, rows or None)
        outbox = metadata.tables["rowcast_outbox"]
        with engine.begin() as connection:
            for text in connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)).all():
                for change in map(orjson.loads, text.splitlines()):
                    if change["op"] == "d":
                        copy.pop(change["k"]["k"], None)
                    else:
                        copy[change["k"]["k"]] = change["a"]["v"]
            connection.execute(outbox.delete())
            stored = {row.k: row.v for row in connection.execute(sa.select(table))}
        assert copy == stored
        return stored

    commit(sa.insert(table), {"k": "a", "v": 1}, {"k": "b", "v": 1}, {"k": "ends ", "v": 1})
    assert commit(sa.update(table).where(table.c.k == "B").values(v=2))["b"] == 2
    assert commit(sa.update(table).where(table.c.k == "a").values(k="A", v=3)).keys() >= {"A"}
    commit(sa.update(table).where(table.c.k == "ends").values(v=4))
    assert commit(sa.delete(table).where(table.c.k == "B")).keys().isdisjoint({"b", "B"})
    assert commit(sa.delete(table).where(table.c.k.in_(["á", "ends"]))) == {}


@pytest.fixture(params=ENGINES)
def words(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Shop]:
    """Open a shop with a table whose key ignores the case of letters, and a table whose rows delete words unseen."""
    metadata = sa.MetaData()
    collation = {"sqlite": "NOCASE", "postgresql": "no_case"}.get(request.param)
    key = sa.Column("k", sa.String(20, collation=collation), primary_key=True)
    sa.Table("words", metadata, key, sa.Column("v", sa.Integer))
    sa.Table("killers", metadata, sa.Column("k", sa.String(20), primary_key=True), info={"rowcast": False})
    engine = shop_engine(new_database(request.param))
    ddl = ["CREATE TRIGGER killing AFTER INSERT ON killers FOR EACH ROW DELETE FROM words WHERE k = NEW.k"]
    if request.param == "sqlite":
        ddl = ["CREATE TRIGGER killing AFTER INSERT ON killers BEGIN DELETE FROM words WHERE k = NEW.k; END"]
    elif request.param == "postgresql":
        with engine.begin() as connection:
            collation = "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            connection.exec_driver_sql(f"CREATE COLLATION no_case {collation}")
        body = "BEGIN DELETE FROM words WHERE k = NEW.k; RETURN NEW; END"
        ddl = [
            f"CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS '{body}'",
            "CREATE TRIGGER killing AFTER INSERT ON killers FOR EACH ROW EXECUTE FUNCTION kill()",
        ]
    shop = Shop(engine, cast(Models, SimpleNamespace(metadata=metadata)), strict="raise")
    with engine.begin() as connection:
        for statement in ddl:
            connection.exec_driver_sql(statement)
        connection.execute(sa.insert(metadata.tables["words"]), [{"k": k, "v": 1} for k in ("a", "b")])
    shop.take()
    yield shop
    engine.dispose()


# The statements of a transaction. u: update, d: delete, m: move to another key, i: insert.
SPELLINGS = [
    "dA",
    "mA",
    "mA ia",
    "iC dc",
    "uA",
    "uA da",
    "ua dA",
    "uA ua dA",
    "uA db",
    "dA iA ua",
    "uA da iA",
    "uA ma ia",
    "uA ma",
    "iN un dN",
]


@pytest.mark.parametrize("program", SPELLINGS)
def test_one_row_under_several_spellings(words: Shop, program: str) -> None:
    table = words.models.metadata.tables["words"]
    with words.engine.begin() as connection:
        for number, step in enumerate(program.split()):
            verb, key = step[0], step[1]
            of_key = table.c.k == key
            statements = {
                "u": sa.update(table).where(of_key).values(v=number + 10),
                "m": sa.update(table).where(of_key).values(k="moved"),
                "d": sa.delete(table).where(of_key),
                "i": sa.insert(table).values(k=key, v=number),
            }
            connection.execute(statements[verb])
    words.take(strict=True)
    assert words.mirror == {(name.split(".")[-1], key): row for (name, key), row in words.rows().items()}


@pytest.mark.parametrize("also", ["", "b"])
def test_an_updated_row_that_something_unseen_deletes_is_refused(words: Shop, also: str) -> None:
    table, killers = (words.models.metadata.tables[name] for name in ("words", "killers"))
    before = words.rows()
    with words.engine.connect() as connection:
        for key in ["A", *also]:
            connection.execute(sa.update(table).where(table.c.k == key).values(v=2))
        connection.execute(sa.insert(killers), {"k": "a"})
        with pytest.raises(CaptureError, match="is not found at the commit"):
            connection.commit()
    assert words.rows() == before
