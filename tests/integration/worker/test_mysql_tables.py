"""What MariaDB and MySQL would do in silence is either avoided or refused by name: cut, round, roll back in part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import ForeignKeyShape, PortableType
from support.direct_replica import direct_replica
from support.kafka_source import Line, column, shape

pytestmark = [
    pytest.mark.shared_dialect,
    pytest.mark.parametrize("replica_url", ["mariadb", "mysql"], indirect=True),
]

CODE = PortableType("string", length=20)
ITEM = shape("item", column("note", "text"))
WORD = shape("word", column("w", CODE, nullable=False), column("n"), key=("w",), engine="mysql")
USE = replace(
    shape("use", column("w", CODE), engine="mysql"),
    foreign_keys=(ForeignKeyShape(("w",), "public", "word", ("w",)),),
)


def test_a_row_longer_than_the_server_accepts_is_refused(replica_url: str) -> None:
    with direct_replica(replica_url, ITEM) as replica:
        with replica.database.engine.connect() as connection:
            limit = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
        # Each quote becomes two bytes in the statement.
        long = "'" * (limit // 2 + 1)
        replica.apply(("c", "item", {"id": 1, "note": "x"}))
        with pytest.raises(DataError, match=r"table public\.item.*max_allowed_packet of the server is"):
            replica.apply(("c", "item", {"id": 2, "note": "y"}), ("c", "item", {"id": 3, "note": long}))
        replica.apply(("c", "item", {"id": 4, "note": "x" * (limit // 2 + 1)}))
        assert [id_ for id_, _ in replica.rows("item")] == [1, 4]


def test_the_mode_of_the_session_is_strict_whatever_the_server_says(replica_url: str) -> None:
    lax = sa.make_url(replica_url).update_query_dict({"init_command": "SET SESSION sql_mode = ''"})
    short = shape("item", column("note", CODE), column("n", "int16"), engine="mysql")
    with direct_replica(lax.render_as_string(hide_password=False), short) as replica:
        for row in ({"id": 1, "note": "x" * 21, "n": 1}, {"id": 1, "note": "x", "n": 70_000}):
            with pytest.raises(DataError, match=r"table public\.item"):
                replica.apply(("c", "item", row))
        assert replica.rows("item") == []


@pytest.mark.parametrize("storage_engine", ["MyISAM", "MEMORY"])
def test_a_table_without_transactions_is_refused(replica_url: str, storage_engine: str) -> None:
    with direct_replica(replica_url) as replica:
        replica.database.execute(
            f"CREATE TABLE item (id BIGINT PRIMARY KEY, note VARCHAR(20)) ENGINE = {storage_engine}"
        )
        refusal = f"table item: its storage engine {storage_engine} has no transactions.*ALTER TABLE `item` ENGINE = I"
        replica.add(shape("item", column("note", CODE)))
        with pytest.raises(ConfigurationError, match=refusal) as raised:
            replica.replica.prepare()
        replica.database.execute(str(raised.value).partition("Run: ")[2])
        replica.replica.prepare()
        replica.apply(("c", "item", {"id": 1, "note": "x"}))
        # A table that was changed while the worker was stopped is found at the next start.
        replica.database.execute(f"ALTER TABLE item ENGINE = {storage_engine}")
        with pytest.raises(ConfigurationError, match=refusal):
            replica.restart()


def test_a_table_of_the_worker_without_transactions_is_refused(replica_url: str) -> None:
    with direct_replica(replica_url, ITEM) as replica:
        replica.database.execute("ALTER TABLE rowcast_replica ENGINE = MyISAM")
        with pytest.raises(ConfigurationError, match=r"table rowcast_replica: its storage engine MyISAM"):
            replica.restart()


COLLATIONS = ["utf8mb4_general_ci", "utf8mb4_bin"]
EQUAL = {"utf8mb4_general_ci": ["a", "A", "á", "a "], "utf8mb4_bin": ["a", "a "]}


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("together", [True, False], ids=["one run", "two runs"])
def test_keys_that_are_equal_on_the_replica_only_are_refused(replica_url: str, collation: str, together: bool) -> None:
    first, *others = EQUAL[collation]
    with direct_replica(replica_url) as replica:
        replica.database.execute(f"CREATE TABLE word (w VARCHAR(20) COLLATE {collation} PRIMARY KEY, n BIGINT)")
        replica.begin(WORD)
        replica.apply(("c", "word", {"w": first, "n": 1}))
        for other in others:
            before: list[Line] = [("u", "word", {"w": first, "n": 3})] if together else []
            with pytest.raises(DataError, match="takes for the same"):
                replica.apply(*before, ("c", "word", {"w": other, "n": 2}))
            # A delete of the other key leaves the row alone.
            replica.apply(("d", "word", {"w": other}))
        assert replica.rows("word") == [(first, 1)]
        # A key that takes the place of an equal key.
        replica.apply(("d", "word", {"w": first}), ("c", "word", {"w": others[0], "n": 5}))
        assert replica.rows("word") == [(others[0], 5)]


def test_a_child_may_refer_by_a_text_that_the_collation_takes_for_the_same(replica_url: str) -> None:
    with direct_replica(replica_url) as replica:
        replica.begin(WORD, USE)
        replica.apply(("c", "word", {"w": "a", "n": 1}), ("c", "use", {"id": 1, "w": "A"}))
        assert replica.rows("use") == [(1, "A")]
