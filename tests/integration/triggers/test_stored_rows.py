"""Every event of a trigger has the key and the row as stored, whatever the statement asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.databases import NewDatabase
from integration.triggers.conftest import ENGINES
from rowcast.producer.triggers.install import triggers_on
from support.lock_waits import InBackground
from support.triggered_tables import TriggeredTables, triggered_tables

ITEMS = (
    "CREATE TABLE parents (id int PRIMARY KEY)",
    """CREATE TABLE item (id int PRIMARY KEY, n int UNIQUE, s varchar(5) NOT NULL, p int, c int CHECK (c < 10),
    FOREIGN KEY (p) REFERENCES parents (id))""",
)
SEED = (
    "INSERT INTO parents VALUES (1), (2)",
    "INSERT INTO item VALUES (1, 1, 'a', 1, 1), (2, 2, 'b', 2, 2), (3, 3, 'c', NULL, 3)",
)


@pytest.fixture(scope="module")
def items_on_mariadb(new_lasting_database: NewDatabase) -> Iterator[TriggeredTables]:
    with triggered_tables(new_lasting_database("mariadb"), *ITEMS) as tables:
        yield tables


@pytest.fixture
def items(items_on_mariadb: TriggeredTables) -> TriggeredTables:
    """Return the tables with the rows of SEED."""
    items_on_mariadb.execute("DELETE FROM item", "DELETE FROM parents", *SEED)
    return items_on_mariadb


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE IGNORE item SET n = 1 WHERE id = 2",
        "UPDATE IGNORE item SET id = 1 WHERE id = 2",
        "UPDATE IGNORE item SET id = id + 1 ORDER BY id",
        "UPDATE IGNORE item SET c = 99 WHERE id = 2",
        "UPDATE IGNORE item SET p = 99 WHERE id = 2",
        "UPDATE IGNORE item AS i JOIN parents AS q ON q.id = i.p SET i.n = 3, i.id = i.id + 100",
        "INSERT IGNORE INTO item VALUES (1, 7, 'z', 1, 1), (9, 1, 'z', 1, 1), (8, 8, 'x', 99, 1), (7, 7, 'x', 1, 99)",
        "INSERT IGNORE INTO item VALUES (1, 7, 'z', 1, 1) ON DUPLICATE KEY UPDATE n = 2",
    ],
)
def test_a_row_that_ignore_leaves_unchanged_stays_as_stored(items: TriggeredTables, statement: str) -> None:
    tables = items
    tables.execute(statement)
    assert tables.copied() == tables.stored()


def test_a_value_that_ignore_cuts_is_captured_as_cut(items: TriggeredTables) -> None:
    items.assert_copied("UPDATE IGNORE item SET s = 'much too long' WHERE id = 2")
    items.assert_copied("UPDATE IGNORE item SET s = NULL WHERE id = 1")


def test_an_ignored_update_publishes_no_row_of_the_transactions_snapshot(items: TriggeredTables) -> None:
    tables = items
    with tables.engine.connect() as connection:
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        connection.exec_driver_sql("SELECT * FROM item").all()
        tables.execute("UPDATE item SET s = 'new' WHERE id = 2")
        connection.exec_driver_sql("UPDATE IGNORE item SET n = 1, s = 'lost' WHERE id = 2")
        connection.commit()
    assert tables.copied() == tables.stored()


def test_an_ignored_update_publishes_no_row_that_is_older_than_its_lock(items: TriggeredTables) -> None:
    """At READ COMMITTED, a read without a lock sees what was committed before the first trigger of the statement."""
    writer = items.engine.connect().execution_options(isolation_level="READ COMMITTED")
    with items.engine.connect() as other, writer:
        other.exec_driver_sql("UPDATE item SET s = 'new' WHERE id = 2")
        # The trigger of row 1 reads before the statement waits for row 2, whose change is then ignored.
        statement = "UPDATE IGNORE item SET c = 9, n = if(id = 1, 1, 3) WHERE id IN (1, 2)"
        update = InBackground(writer, lambda: writer.exec_driver_sql(statement))
        assert update.waits
        other.commit()
        update.join()
        writer.commit()
    assert items.copied() == items.stored()


FOLDED = {
    "postgresql": (
        "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "folded",
    ),
    "mariadb": ("SELECT 1", "utf8mb4_general_ci"),
    "sqlite": ("SELECT 1", "NOCASE"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_that_changes_only_for_bytes_is_a_delete_and_a_create(new_database: NewDatabase, engine: str) -> None:
    before, collation = FOLDED[engine]
    table = f"CREATE TABLE item (k varchar(9) COLLATE {collation} NOT NULL PRIMARY KEY, n int)"
    with triggered_tables(new_database(engine), before, table) as tables:
        tables.assert_copied("INSERT INTO item VALUES ('anna', 1), ('Bob', 2)")
        tables.assert_copied("UPDATE item SET k = upper(k)")
        changes = [(change["op"], change["k"]["k"]) for change in tables.changes()[2:]]
        assert sorted(changes) == [("c", "ANNA"), ("c", "BOB"), ("d", "Bob"), ("d", "anna")]
        assert changes.index(("d", "anna")) < changes.index(("c", "ANNA"))
        tables.assert_copied("UPDATE item SET k = lower(k), n = n + 1 WHERE k = 'bob'")
        tables.assert_copied("DELETE FROM item WHERE k = 'anna'")


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_a_key_that_changes_only_its_padding_is_a_delete_and_a_create(new_database: NewDatabase, engine: str) -> None:
    collation = "RTRIM" if engine == "sqlite" else "utf8mb4_bin"
    table = f"CREATE TABLE item (k varchar(9) COLLATE {collation} NOT NULL PRIMARY KEY, n int)"
    padded = "k || ' '" if engine == "sqlite" else "concat(k, ' ')"
    with triggered_tables(new_database(engine), table) as tables:
        tables.assert_copied("INSERT INTO item VALUES ('a', 1), ('b', 2)")
        tables.assert_copied(f"UPDATE item SET k = {padded} WHERE k = 'a'")
        tables.assert_copied("DELETE FROM item WHERE k = 'a'")


# Keys that are stored otherwise than sent: types, values, and a change to keys that are equal or stored equally.
ROUNDED: dict[str, list[tuple[tuple[str, ...], str, str]]] = {
    "postgresql": [
        (("numeric(8, 3)", "timestamp(0)", "char(5)"), "48.137154 '2026-05-01T10:00:00.6' 'a'", "a = a * 1.00"),
        (("numeric", "real", "interval"), "1.0 '-0.0' '24h'", "a = a * 1.00, b = abs(b), c = justify_hours(c)"),
        (("jsonb", "text[] COLLATE folded"), """'{"x":1.0}' '{a}'""", """a = '{"x":1.00}', b = '{A}'"""),
    ],
    "mariadb": [
        (("datetime", "datetime(3)"), "'2026-05-01T10:00:00.123456' '2026-05-01T10:00:00.123456'", "a = a"),
        (("time", "timestamp"), "'10:00:00.7' '2026-05-01T10:00:00.6'", "a = a"),
        (("float", "decimal(6, 2)", "binary(4)", "char(5)"), "0.1 1.005 'a' 'b'", "d = concat(d, ' ')"),
    ],
    "sqlite": [(("integer NOT NULL", "numeric NOT NULL", "text NOT NULL"), "'3' 3.0 3", "a = '3', c = 3")],
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_every_event_has_the_key_as_stored(new_database: NewDatabase, engine: str) -> None:
    ddl: list[str] = []
    names: list[str] = []
    for n, (types, _, _) in enumerate(ROUNDED[engine]):
        columns = ", ".join(f"{name} {type_}" for name, type_ in zip("abcd", types, strict=False))
        names.append(f"item_{n}")
        ddl.append(f"CREATE TABLE item_{n} ({columns}, n int, PRIMARY KEY ({', '.join('abcd'[: len(types)])}))")
    with triggered_tables(new_database(engine), FOLDED[engine][0], *ddl, names=tuple(names)) as tables:
        for name, (_, values, changed) in zip(names, ROUNDED[engine], strict=True):
            tables.assert_copied(f"INSERT INTO {name} VALUES ({values.replace(' ', ', ')}, 1)")
            tables.assert_copied(f"UPDATE {name} SET n = 2")
            tables.assert_copied(f"UPDATE {name} SET {changed}, n = 3")
            tables.assert_copied(f"DELETE FROM {name}")


BEFORE = {
    "postgresql": (
        "CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.k := lower(NEW.k); RETURN NEW; END $$",
        "CREATE TRIGGER fold BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION fold()",
    ),
    "mariadb": tuple(
        f"CREATE TRIGGER fold_{event} BEFORE {event} ON item FOR EACH ROW SET NEW.k = lower(NEW.k)"
        for event in ("INSERT", "UPDATE")
    ),
    # SQLite's BEFORE triggers cannot change the row. Its AFTER triggers change the stored row.
    "sqlite": tuple(
        f"CREATE TRIGGER fold_{event} AFTER {event} ON item BEGIN "
        "UPDATE item SET k = lower(k) WHERE k = NEW.k AND k <> lower(k); END"
        for event in ("INSERT", "UPDATE")
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_that_a_trigger_of_the_application_rewrites_is_captured_as_stored(
    new_database: NewDatabase, engine: str
) -> None:
    binary = " COLLATE utf8mb4_bin" if engine == "mariadb" else ""
    table = f"CREATE TABLE item (k varchar(9){binary} NOT NULL PRIMARY KEY, n int)"
    with triggered_tables(new_database(engine), table, *BEFORE[engine]) as tables:
        tables.assert_copied("INSERT INTO item VALUES ('Anna', 1), ('BOB', 2)")
        assert {key["k"] for key in (change["k"] for change in tables.changes())} >= {"anna", "bob"}
        tables.assert_copied("UPDATE item SET k = 'CARL' WHERE k = 'anna'")
        tables.assert_copied("UPDATE item SET k = 'BOB', n = 3 WHERE k = 'bob'")
        tables.assert_copied("DELETE FROM item WHERE k = 'carl'")


@pytest.mark.parametrize("storage", ["", "WITHOUT ROWID"])
@pytest.mark.parametrize("collation", ["BINARY", "NOCASE", "RTRIM"])
def test_rows_that_sqlite_replaces_are_deletes(new_database: NewDatabase, storage: str, collation: str) -> None:
    table = f"CREATE TABLE item (k text COLLATE {collation} NOT NULL PRIMARY KEY, n int UNIQUE) {storage}"
    with triggered_tables(new_database("sqlite"), table) as tables:
        tables.assert_copied("INSERT INTO item VALUES ('a', 1), ('b', 2), ('c', 3), ('d', 4)")
        tables.assert_copied("INSERT OR REPLACE INTO item VALUES ('A', 2)")
        tables.assert_copied("INSERT OR REPLACE INTO item VALUES ('A ', 5), ('e', 5), ('f', 4)")
        tables.assert_copied("UPDATE OR REPLACE item SET k = 'F', n = 3 WHERE n = 5")
        tables.assert_copied("INSERT INTO item VALUES ('f', 9) ON CONFLICT (k) DO UPDATE SET n = 6, k = excluded.k")
        tables.execute("UPDATE OR IGNORE item SET n = 3", "INSERT OR IGNORE INTO item VALUES ('z', 3)")
        assert tables.copied() == tables.stored()
        tables.assert_copied("UPDATE OR REPLACE item SET n = 7")
        tables.assert_copied("PRAGMA recursive_triggers = ON", "INSERT OR REPLACE INTO item VALUES ('x', 7)")
        tables.execute("DELETE FROM rowcast_outbox")
        tables.execute("UPDATE OR FAIL item SET n = n + 1")
        assert [c["op"] for c in tables.changes()] == ["u"]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_what_sqlites_triggers_cannot_see_is_named(new_database: NewDatabase) -> None:
    ddl = (
        "CREATE TABLE item (k text PRIMARY KEY, n int)",
        "CREATE UNIQUE INDEX item_parity ON item (n % 10)",
    )
    with triggered_tables(new_database("sqlite"), *ddl) as tables, tables.engine.connect() as connection:
        assert list(triggers_on(connection).unseen_changes("main", "item")) == [
            "rows that REPLACE deletes because of item_parity, which is unique over an expression",
            "rows without a key, because SQLite allows NULL in k. Declare the column NOT NULL",
        ]
