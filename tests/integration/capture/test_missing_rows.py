"""The drain finds each row that the transaction left in its table, or the commit fails. No delete is guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import Capture
from rowcast.producer.capture.notes.strictness import CaptureWarning
from rowcast.shared.errors import CaptureError
from support.item_programs import IDS, STATEMENTS, execute, folded, item_table, stored
from support.lent_shops import empty_tables

METADATA = sa.MetaData()
ITEM = item_table(METADATA, sa.Column("code", sa.String(20), unique=True))
PART = sa.Table(
    "part",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # The database has ON DELETE CASCADE, of which the metadata does not know.
    sa.Column("item_id", sa.ForeignKey("item.id")),
)
BLOCKER = sa.Table(
    "blocker",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.ForeignKey("item.id")),
)
KILLER = sa.Table(
    "killer",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    info={"rowcast": False},
)
"""A row in this table deletes the item of its id, by a trigger."""
Capture(METADATA, source="shop")  # It adds the tables of rowcast.

_PART_WITH_CASCADE = (
    "CREATE TABLE part (id INTEGER PRIMARY KEY, item_id INTEGER, "
    "FOREIGN KEY (item_id) REFERENCES item (id) ON DELETE CASCADE)"
)
_KILL_FUNCTION = (
    "CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN DELETE FROM item WHERE id = NEW.id; RETURN NEW; END'"
)
_KILL = {
    "postgresql": (
        _KILL_FUNCTION,
        "CREATE TRIGGER kill AFTER INSERT ON killer FOR EACH ROW EXECUTE FUNCTION kill()",
    ),
    "mysql": ("CREATE TRIGGER killing AFTER INSERT ON killer FOR EACH ROW DELETE FROM item WHERE id = NEW.id",),
    "sqlite": ("CREATE TRIGGER kill AFTER INSERT ON killer BEGIN DELETE FROM item WHERE id = NEW.id; END",),
}


@dataclass
class Store:
    """Hold an engine with the capture. ``take`` empties the outbox and returns pairs of op and key."""

    engine: sa.Engine
    capture: Capture

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        outbox = METADATA.tables["rowcast_outbox"]
        with self.engine.begin() as connection:
            text = "".join(connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)))
            connection.execute(outbox.delete())
        # A block has no line for each change, and needs 500 rows.
        lines = [orjson.loads(line) for line in text.splitlines()]
        return [(line["op"], line["k"]) for line in lines]

    def seed(self, *ids: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.insert(ITEM), [{"id": i, "n": i, "code": f"c{i}"} for i in ids])
        self.take()

    def ids(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.scalars(sa.select(ITEM.c.id).order_by(ITEM.c.id)))


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, sa.Engine]]:
    kept: dict[str, sa.Engine] = {}
    yield kept
    for engine in kept.values():
        engine.dispose()


@pytest.fixture(params=ENGINES)
def store(
    request: pytest.FixtureRequest, engines: dict[str, sa.Engine], new_lasting_database: NewDatabase
) -> Iterator[Store]:
    """Lend a database with the tables and the trigger, once for each engine, with a new capture."""
    engine = engines.get(request.param)
    if engine is None:
        engine = engines[request.param] = sa.create_engine(new_lasting_database(request.param))
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
        with engine.begin() as connection:
            METADATA.create_all(connection, [table for table in METADATA.sorted_tables if table is not PART])
            for statement in (_PART_WITH_CASCADE, *_KILL[engine.dialect.name]):
                connection.exec_driver_sql(statement)
    capture = Capture(METADATA, source="shop")
    capture.install(engine)
    yield Store(engine, capture)
    capture.uninstall(engine)
    empty_tables(engine, METADATA.sorted_tables)
    # The connection checks no foreign keys any more.
    engine.dispose()


@contextmanager
def refused(store: Store, *missing: str) -> Iterator[sa.Connection]:
    """Begin a transaction whose commit must fail because of one of the missing rows, and leave nothing behind."""
    before = store.ids()
    with store.engine.connect() as connection:
        yield connection
        with pytest.raises(CaptureError, match=r"is not found at the commit.*rowcast triggers install") as error:
            connection.commit()
        assert any(f"the row ({row}) of " in str(error.value) for row in missing)
    assert store.ids() == before
    assert store.take() == []


def kill(connection: sa.Connection, *ids: int) -> None:
    connection.execute(sa.insert(KILLER), [{"id": i} for i in ids])


@pytest.mark.parametrize("ids", [(1,), (1, 2, 3)], ids=["one", "several"])
def test_an_updated_row_that_something_unseen_deletes_is_refused(store: Store, ids: tuple[int, ...]) -> None:
    store.seed(1, 2, 3)
    with refused(store, *(f"id={i}" for i in ids)) as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id.in_(ids)).values(n=9))
        kill(connection, *ids)


@pytest.mark.parametrize("ids", [(1,), (1, 2, 3)], ids=["one", "several"])
def test_an_inserted_row_that_something_unseen_deletes_is_refused(store: Store, ids: tuple[int, ...]) -> None:
    with refused(store, "id=1") as connection:
        connection.execute(sa.insert(ITEM), [{"id": i} for i in ids])
        kill(connection, 1)


def test_a_missing_row_among_published_rows_is_refused(store: Store) -> None:
    store.seed(1, 2, 3)
    with refused(store, "id=4") as connection:
        connection.execute(sa.insert(ITEM), [{"id": 4}, {"id": 5}])
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=9))
        connection.execute(sa.delete(ITEM).where(ITEM.c.id == 2))
        kill(connection, 4)


def test_a_row_inserted_again_must_be_there(store: Store) -> None:
    store.seed(1)
    with refused(store, "id=1") as connection:
        connection.execute(sa.delete(ITEM).where(ITEM.c.id == 1))
        connection.execute(sa.insert(ITEM), {"id": 1})
        kill(connection, 1)


def test_a_row_with_a_new_key_must_be_there(store: Store) -> None:
    store.seed(1)
    with refused(store, "id=7") as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(id=7))
        kill(connection, 7)


def test_a_cascade_that_the_metadata_does_not_declare_is_refused(store: Store) -> None:
    store.seed(1)
    with store.engine.begin() as connection:
        connection.execute(sa.insert(PART), {"id": 5, "item_id": 1})
    store.take()
    with refused(store, "id=5") as connection:
        connection.execute(sa.update(PART).where(PART.c.id == 5).values(item_id=1))
        connection.execute(sa.delete(ITEM).where(ITEM.c.id == 1))


def test_the_sql_mode_of_the_session_does_not_hide_a_missing_row(store: Store) -> None:
    if store.engine.dialect.name != "mysql":
        pytest.skip("only MariaDB and MySQL have SQL modes")
    store.seed(1, 2)
    for ids in ((1,), (1, 2)):
        with refused(store, "id=1") as connection:
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
            connection.execute(sa.update(ITEM).where(ITEM.c.id.in_(ids)).values(n=9))
            kill(connection, 1)


def test_a_missing_row_is_found_when_the_outbox_row_goes_with_the_commit(store: Store) -> None:
    store.seed(1)
    for n in range(8):
        # From the sixth on, psycopg has prepared the statement, and the outbox row goes together with COMMIT.
        with store.engine.begin() as connection:
            connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=n))
    assert store.take() == [("u", {"id": 1})] * 8
    with refused(store, "id=1") as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=9))
        kill(connection, 1)
    with store.engine.begin() as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=10))
    assert store.take() == [("u", {"id": 1})]


Explanation = Callable[[sa.Connection], Any]
EXPLANATIONS: dict[str, Explanation] = {
    "a row hint": lambda connection: connection.execute(
        sa.text("INSERT INTO killer VALUES (1)"), execution_options={"rowcast": {ITEM: [1]}}
    ),
    "a statement left out": lambda connection: connection.execute(
        sa.delete(ITEM).where(ITEM.c.id == 1), execution_options={"rowcast": "ignore"}
    ),
    "a statement warned of": lambda connection: connection.execute(sa.text("DELETE FROM item WHERE id = 1")),
}


@pytest.mark.filterwarnings(f"ignore::{CaptureWarning.__module__}.CaptureWarning")
@pytest.mark.parametrize("explanation", EXPLANATIONS)
def test_a_missing_row_is_deleted_if_the_application_knows_of_it(store: Store, explanation: str) -> None:
    store.seed(1, 2)
    with store.engine.begin() as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id.in_((1, 2))).values(n=9))
        connection.execute(sa.insert(ITEM), {"id": 3})
        EXPLANATIONS[explanation](connection)
    assert sorted(store.take(), key=str) == [("c", {"id": 3}), ("d", {"id": 1}), ("u", {"id": 2})]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(ITEM), {"id": 1})
        EXPLANATIONS["a statement left out"](connection)
    assert store.take() == []


def test_a_statement_that_finds_no_row_leaves_no_event(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=9))
        connection.execute(sa.delete(ITEM).where(ITEM.c.id == 2))
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 3).values(id=4))
    assert store.take() == []


def test_a_statement_that_finds_some_of_its_keys_leaves_events_of_these_alone(store: Store) -> None:
    store.seed(1, 2)
    named = ITEM.c.id == sa.bindparam("key")
    with store.engine.begin() as connection:
        connection.execute(sa.update(ITEM).where(named), [{"key": 8, "n": 9}, {"key": 1, "n": 9}, {"key": 1, "n": 7}])
        connection.execute(sa.update(ITEM).where(named), [{"key": 8, "id": 9}, {"key": 2, "id": 3}])
        connection.execute(sa.delete(ITEM).where(named), [{"key": 1}, {"key": 8}, {"key": 1}])
    assert sorted(store.take(), key=str) == [("c", {"id": 3}), ("d", {"id": 1}), ("d", {"id": 2})]


def test_a_row_inserted_after_an_update_that_found_none_is_new(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=9))
        connection.execute(sa.insert(ITEM), {"id": 1})
    assert store.take() == [("c", {"id": 1})]


def test_an_upsert_of_a_row_with_another_key_leaves_no_delete(store: Store) -> None:
    if store.engine.dialect.name == "postgresql":
        pytest.skip("an upsert names its unique constraint there")
    store.seed(1, 2)
    upsert: Any
    if store.engine.dialect.name == "sqlite":
        upsert = sa.insert(ITEM).prefix_with("OR IGNORE").values(id=7, code="c1")
    else:
        upsert = mysql.insert(ITEM).values(id=7, code="c1").on_duplicate_key_update(n=9)
    with store.engine.begin() as connection:
        connection.execute(upsert)
        if store.engine.dialect.name != "sqlite":
            connection.execute(sa.insert(ITEM).prefix_with("IGNORE").values(id=8, code="c2"))
    assert {op for op, _ in store.take()} <= {"u"}
    assert store.ids() == [1, 2]


def test_a_row_that_its_own_replace_deletes_again_leaves_no_delete(store: Store) -> None:
    if store.engine.dialect.name != "sqlite":
        pytest.skip("SQLAlchemy has no REPLACE there")
    store.seed(1)
    with store.engine.begin() as connection:
        connection.execute(
            sa.insert(ITEM).prefix_with("OR REPLACE").values([{"id": 5, "code": "c1"}, {"id": 6, "code": "c1"}])
        )
    assert sorted(store.take(), key=str) == [("c", {"id": 6}), ("d", {"id": 1})]
    assert store.ids() == [6]


def test_the_rows_that_a_failed_delete_has_removed_are_deleted(store: Store) -> None:
    store.seed(1, 2, 3)
    with store.engine.begin() as connection:
        connection.execute(sa.insert(BLOCKER), {"id": 1, "item_id": 2})
    store.take()
    delete = sa.delete(ITEM).where(ITEM.c.id == sa.bindparam("key"))
    with store.engine.begin() as connection, connection.begin_nested() as savepoint:
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(delete, [{"key": 1}, {"key": 2}, {"key": 3}])
        if store.engine.dialect.name == "postgresql":
            savepoint.rollback()
    gone = {1, 2, 3} - set(store.ids())
    assert [change for change in store.take() if change[0] == "d"] == [("d", {"id": i}) for i in sorted(gone)]
    assert gone == (set() if store.engine.dialect.name == "postgresql" else {1})


DELETES: dict[str, Explanation] = {
    "by key": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.id == 1)),
    "by keys": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.id == sa.bindparam("key")), [{"key": 1}, {"key": 9}]),
    "by condition": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.n == 1)),
    "returning": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.n == 1).returning(ITEM.c.n)).all(),
}


@pytest.mark.parametrize("delete", DELETES)
@pytest.mark.parametrize("replacement", ["trigger", "rule"])
def test_a_row_that_is_marked_in_the_place_of_its_delete_is_an_update(
    new_database: NewDatabase, delete: str, replacement: str
) -> None:
    if (replacement, delete) == ("rule", "returning"):
        pytest.skip("PostgreSQL refuses the statement")
    engine = sa.create_engine(new_database("postgresql"))
    METADATA.create_all(engine, [ITEM, *(t for t in METADATA.sorted_tables if t.name.startswith("rowcast_"))])
    mark = "UPDATE item SET n = -1 WHERE id = OLD.id"
    statements = {
        "trigger": [
            f"CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {mark}; RETURN NULL; END'",
            "CREATE TRIGGER mark BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION mark()",
        ],
        "rule": [f"CREATE RULE mark AS ON DELETE TO item DO INSTEAD {mark}"],
    }
    with engine.begin() as connection:
        for statement in statements[replacement]:
            connection.exec_driver_sql(statement)
    store = Store(engine, Capture(METADATA, source="shop"))
    store.capture.install(engine)
    store.seed(1, 2)
    with engine.begin() as connection:
        DELETES[delete](connection)
    assert store.take() == [("u", {"id": 1})]
    store.capture.uninstall(engine)
    engine.dispose()


STATEMENT = st.one_of(
    st.tuples(st.just("savepoint"), IDS, st.booleans()),
    st.tuples(st.just("kill"), IDS, st.sampled_from(["unseen", "hint", "ignore"])),
    *STATEMENTS,
)


@pytest.mark.campaign
@pytest.mark.shared_dialect
@given(st.lists(st.lists(STATEMENT, max_size=6), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_program_is_published_as_it_is_stored_or_refused(
    store: Store, transactions: list[list[tuple[Any, ...]]]
) -> None:
    empty_tables(store.engine, [table for table in METADATA.sorted_tables if table.name != "rowcast_shape"])
    outbox = METADATA.tables["rowcast_outbox"]
    for statements in transactions:
        event(run(store, statements))
        with store.engine.begin() as connection:
            assert folded(connection, ITEM, outbox) == stored(connection, ITEM)


def run(store: Store, statements: list[tuple[Any, ...]]) -> str:
    """Run the statements in a transaction. An error of a statement rolls everything back.

    A row is killed without notice only if the transaction has left the row in the table, because the capture does not
    see the deletion of other rows.
    """
    with store.engine.connect() as connection:
        touched: set[int] = set()
        before = stored(connection, ITEM)
        try:
            # Without a change before the first savepoint, SQLite would commit at the end of the savepoint.
            connection.execute(sa.delete(KILLER))
            for statement in statements:
                match statement:
                    case "savepoint", key, rolls_back:
                        nested = connection.begin_nested()
                        connection.execute(sa.update(ITEM).where(ITEM.c.id == key).values(n=ITEM.c.n + 1))
                        connection.execute(sa.delete(ITEM).where(ITEM.c.id == key + 1))
                        if rolls_back:
                            nested.rollback()
                        else:
                            nested.commit()
                    case "kill", key, "unseen" if key in touched:
                        kill(connection, key)
                    case "kill", key, "hint":
                        sql = sa.text("DELETE FROM item WHERE id = :id")
                        connection.execute(sql, {"id": key}, execution_options={"rowcast": {ITEM: [key]}})
                    case "kill", key, "ignore" if key in touched:
                        connection.execute(
                            sa.delete(ITEM).where(ITEM.c.id == key), execution_options={"rowcast": "ignore"}
                        )
                    case "kill", *_:
                        pass
                    case (("update many" | "delete many"), keys, *values):
                        # If such a statement does not find some of its keys, it does not say which.
                        found = [key for key in keys if key in stored(connection, ITEM)]
                        execute(connection, ITEM, (statement[0], sorted(set(found)), *values))
                    case _:
                        execute(connection, ITEM, statement)
                rows = stored(connection, ITEM)
                touched = {key for key, row in rows.items() if row != before.get(key)}
            connection.commit()
        except CaptureError:
            return "refused"
        except sa.exc.IntegrityError:
            return "rolled back"
    return "committed"
