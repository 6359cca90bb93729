"""`evolution` says what the worker does with existing tables, and what a table of the user's or a reader may keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
from rowcast.shared.tables.server_defaults import ServerDefault
from rowcast.shared.tables.shape import PortableType, TableShape
from support.direct_replica import DirectReplica, direct_replica
from support.kafka_source import column, shape

pytestmark = pytest.mark.shared_dialect

CODE = PortableType("string", length=10)
LONG = PortableType("string", length=40)
BEFORE = shape("thing", column("gone", nullable=False), column("code", CODE), unique=[("code",)])
AFTER = shape("thing", column("code", LONG), column("more"))
SHOP = shape("shop")


def columns(replica: DirectReplica, table: str = "thing") -> dict[str, bool]:
    return {c["name"]: c["nullable"] for c in sa.inspect(replica.database.engine).get_columns(table)}


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_validate_changes_nothing_and_says_what_follows(engine: str, new_database: NewDatabase) -> None:
    with direct_replica(new_database(engine), BEFORE, evolution="validate") as replica:
        before = columns(replica)
        replica.apply(("c", "thing", {"id": 1, "gone": 1, "code": "a"}))
        replica.add(AFTER, SHOP)
        with pytest.raises(ConfigurationError, match='evolution = "validate"') as raised:
            replica.restart()
        assert columns(replica) == before
        # The user runs the statements.
        statements = str(raised.value).partition("again:\n")[2].split(";\n")
        replica.database.execute(*(s.replace("%", "%%") for s in statements))
        replica.restart()
        replica.apply(("c", "thing", {"id": 2, "code": "a" * 20, "more": 5}), ("c", "shop", {"id": 1}))
        assert replica.rows("thing", "id", "code", "more") == [(1, "a", None), (2, "a" * 20, 5)]
        # A new constraint is a change too.
        replica.add(replace(AFTER, unique=(("more",),)))
        with pytest.raises(ConfigurationError, match="CREATE UNIQUE INDEX rowcast_uq_"):
            replica.restart()


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_none_writes_the_columns_that_both_have(engine: str, new_database: NewDatabase) -> None:
    with direct_replica(new_database(engine), shape("thing", column("old"), column("code", CODE))) as replica:
        replica.apply(("c", "thing", {"id": 1, "old": 1, "code": "a"}))
        replica.add(replace(AFTER, unique=(("code",), ("more",))), SHOP)
        replica.restart(evolution="none")
        replica.apply(("c", "thing", {"id": 2, "code": "b", "more": 5}), ("c", "shop", {"id": 1}))
        assert columns(replica) == {"id": False, "old": True, "code": True}
        assert replica.rows("thing") == [(1, 1, "a"), (2, None, "b")]
        assert not sa.inspect(replica.database.engine).get_indexes("thing")
        if engine == "postgresql":
            # A value that does not fit stops the worker.
            with pytest.raises(DataError, match="too long"):
                replica.apply(("c", "thing", {"id": 3, "code": "a" * 20, "more": 5}))
        replica.add(shape("thing", column("code", CODE), key=("id", "code")))
        with pytest.raises(DataError, match=r"primary key of table public\.thing has changed"):
            replica.restart()


def test_a_table_of_the_users_gets_new_columns_and_keeps_its_constraints(new_database: NewDatabase) -> None:
    with direct_replica(new_database("postgresql")) as replica:
        replica.database.execute(
            "CREATE TABLE thing (id bigint PRIMARY KEY, gone bigint NOT NULL, code varchar(40) UNIQUE)"
        )
        replica.begin(BEFORE)
        replica.add(AFTER)
        replica.restart()
        assert columns(replica) == {"id": False, "gone": False, "code": True, "more": True}
        assert sa.inspect(replica.database.engine).get_unique_constraints("thing")


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_change_waits_for_readers_for_a_while_only(
    engine: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "postgresql" if engine == "postgresql" else "mysql"
    monkeypatch.setattr(f"rowcast.consumer.replica.dialects.{module}.LOCK_S", 1)
    with direct_replica(new_database(engine), BEFORE) as replica:
        with replica.database.engine.connect() as reader:
            reader.exec_driver_sql("SELECT * FROM thing").all()
            replica.add(AFTER)
            with pytest.raises(RetriableError, match=r"(?i)\block"):
                replica.replica.prepare()
        # MariaDB and MySQL have committed a part, so the worker takes the replica over again.
        replica.restart()
        replica.apply(("c", "thing", {"id": 1, "code": "a", "more": 5}))
        assert replica.rows("thing", "id", "more") == [(1, 5)]


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_a_worker_that_is_killed_between_a_change_and_its_record_goes_on(
    engine: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with direct_replica(new_database(engine), BEFORE) as replica:
        replica.apply(("c", "thing", {"id": 1, "gone": 1, "code": "a"}))
        replica.add(AFTER)
        with monkeypatch.context() as patched:
            patched.setattr("rowcast.consumer.replica.table_records.TableRecords.update", kill)
            with pytest.raises(KilledError):
                replica.restart()
        replica.restart()
        replica.apply(("c", "thing", {"id": 2, "code": "a", "more": 5}))
        assert replica.rows("thing", "id", "gone", "more") == [(1, 1, None), (2, None, 5)]


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "sqlite"])
def test_rows_of_older_shapes_follow_the_newest(engine: str, new_database: NewDatabase) -> None:
    """A new replica reads old events, and old and new processes write side by side."""
    newest = shape(
        "thing",
        replace(column("n", nullable=False), default=ServerDefault("number", "7")),
        column("when", nullable=False),
        column("note", CODE, nullable=False),
    )
    oldest: TableShape = shape("thing", column("note", LONG))
    with direct_replica(new_database(engine)) as replica:
        replica.add(oldest)
        early = replica.change("c", "thing", {"id": 1, "note": "x" * 40})
        replica.begin(newest)
        assert columns(replica) == {"id": False, "n": False, "when": False, "note": False}
        late = replica.change("c", "thing", {"id": 2, "n": 8, "when": 9, "note": "y"})
        replica.apply_changes(early, late)
        assert replica.rows("thing", "id", "n", "when", "note") == [(1, 7, None, "x" * 40), (2, 8, 9, "y")]
        assert columns(replica) == {"id": False, "n": False, "when": True, "note": True}


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_rows_with_the_former_name_of_a_column_follow(engine: str, new_database: NewDatabase) -> None:
    """Old and new processes write side by side, and a large value passes unchanged."""
    old = shape("thing", column("name", LONG, nullable=False), column("n"), unique=[("name",)])
    new = shape("thing", column("n"), replace(column("title", LONG, nullable=False), was=("label", "name")))
    with direct_replica(new_database(engine), old) as replica:
        replica.apply(("c", "thing", {"id": 1, "name": "a", "n": 1}))
        early = [
            replica.change("u", "thing", {"id": 1, "name": "b", "n": 2**62}),
            replica.change("c", "thing", {"id": 3, "name": "d", "n": None}),
        ]
        replica.add(replace(new, unique=(("title",),)))
        replica.apply(("c", "thing", {"id": 2, "title": "c", "n": 2}))
        assert columns(replica) == {"id": False, "n": True, "title": False}
        replica.apply_changes(*early, replica.change("u", "thing", {"id": 2, "title": "e", "n": 2}))
        # The values move between rows of both shapes.
        swap = early[0]._replace(after=b'{"id":1,"name":"e","n":4}')
        replica.apply_changes(swap, replica.change("u", "thing", {"id": 2, "title": "b", "n": 2}))
        assert replica.rows("thing", "id", "title", "n") == [(1, "e", 4), (2, "b", 2), (3, "d", None)]


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_a_column_whose_name_changes_in_case_is_the_same_column(engine: str, new_database: NewDatabase) -> None:
    """Two columns with such names are impossible on most engines. The type changes too, and the default stays."""
    seven = ServerDefault("number", "7")
    old = shape("thing", column("Name", CODE), replace(column("n", "int32", nullable=False), default=seven))
    new = shape("thing", column("name", CODE), replace(column("n", "int64", nullable=False), default=seven))
    with direct_replica(new_database(engine), old) as replica:
        early = replica.change("c", "thing", {"id": 1, "Name": "a", "n": 1})
        replica.add(new)
        replica.apply(("c", "thing", {"id": 2, "name": "b", "n": 2**40}))
        replica.apply_changes(early)
        assert replica.rows("thing", "id", "name", "n") == [(1, "a", 1), (2, "b", 2**40)]
        assert list(columns(replica)) == ["id", "name", "n"]
        replica.database.execute("INSERT INTO thing (id) VALUES (3)")
        assert replica.rows("thing", "n")[-1] == (7,)


@pytest.mark.parametrize(
    ("ddl", "word"),
    [
        ("CREATE TABLE thing (id BIGINT PRIMARY KEY, gone INTEGER NOT NULL, code TEXT CHECK (code <> ''))", "CHECK"),
        ("CREATE TABLE thing (id BIGINT PRIMARY KEY, gone INTEGER NOT NULL, code TEXT COLLATE NOCASE)", "COLLATE"),
    ],
)
def test_sqlite_does_not_write_a_table_again_that_has_more_than_a_worker_writes(
    ddl: str, word: str, new_database: NewDatabase
) -> None:
    with direct_replica(new_database("sqlite"), BEFORE) as replica:
        replica.database.execute("DROP TABLE thing", ddl)
        replica.add(AFTER)
        with pytest.raises(ConfigurationError, match=rf"has {word}, which would be lost.*rowcast rebuild"):
            replica.restart()


def test_mysql_writes_a_column_with_a_default_that_is_an_expression(new_database: NewDatabase) -> None:
    """MySQL calls such a default generated, but not the column."""
    with direct_replica(new_database("mysql")) as replica:
        replica.database.execute("CREATE TABLE thing (id bigint PRIMARY KEY, n bigint DEFAULT (1 + 1))")
        replica.begin(shape("thing", column("n")))
        replica.apply(("c", "thing", {"id": 1, "n": 5}))
        assert replica.rows("thing", "id", "n") == [(1, 5)]
