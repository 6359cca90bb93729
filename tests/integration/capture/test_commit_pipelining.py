"""With psycopg the outbox row and COMMIT go in a single round trip, once psycopg has prepared the statement. Errors are
equal to the errors of two round trips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from fixtures.databases import NewDatabase
from integration.capture.conftest import NewShop
from rowcast.producer.database.commit_pipelining import CommitPipeline
from rowcast.shared.database import pipelines
from support.shop import Shop, open_shop


@pytest.fixture
def shop(borrow_shop: NewShop) -> Shop:
    return borrow_shop("postgresql")


@pytest.fixture
def own_shop(new_database: NewDatabase) -> Iterator[Shop]:
    """Open a shop in a database that the test may change."""
    with open_shop(new_database("postgresql")) as shop:
        yield shop


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record for every commit whether it went with the outbox row."""
    sent: list[bool] = []
    original = CommitPipeline.commit_with

    def commit_with(self: CommitPipeline, connection: sa.Connection, values: Mapping[str, Any]) -> bool:
        sent.append(original(self, connection, values))
        return sent[-1]

    monkeypatch.setattr(CommitPipeline, "commit_with", commit_with)
    return sent


def insert(shop: Shop, connection: sa.Connection, name: str) -> None:
    connection.execute(shop.models.Tag.__table__.insert().values(name=name))


def prepare(shop: Shop, connection: sa.Connection) -> list[str]:
    """Commit enough transactions for psycopg to prepare the statement. Return the written names."""
    names = [f"before {n}" for n in range(8)]
    for name in names:
        insert(shop, connection, name)
        connection.commit()
    return names


def names_in(changes: list[dict[str, Any]]) -> list[str]:
    return [change["a"]["name"] for change in changes]


def test_the_pipeline_is_used_once_psycopg_has_prepared_the_statement(shop: Shop, sent: list[bool]) -> None:
    with shop.engine.connect() as connection:
        names = prepare(shop, connection)
        assert sent[0] is False
        assert sent[-2:] == [True, True]
        # The connection is usable as usual: a transaction begins by itself, and can be rolled back.
        insert(shop, connection, "rolled back")
        connection.rollback()
        insert(shop, connection, "after")
        connection.commit()
        assert connection.connection.dbapi_connection.info.transaction_status.name == "IDLE"  # type: ignore[union-attr]
    assert names_in(shop.take()) == [*names, "after"]
    with shop.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(shop.models.Tag)) == 9


def test_the_pipeline_takes_parameters_by_position(own_shop: Shop, sent: list[bool]) -> None:
    engine = sa.create_engine(own_shop.engine.url, paramstyle="format")
    own_shop.capture.install(engine)
    with engine.connect() as connection:
        names = prepare(own_shop, connection)
    engine.dispose()
    assert sent[-1] is True
    assert names_in(own_shop.take()) == names


@pytest.mark.parametrize("command", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_statement_that_the_server_has_forgotten_takes_two_round_trips(
    shop: Shop, sent: list[bool], command: str
) -> None:
    with shop.engine.connect() as connection:
        names = prepare(shop, connection)
        driver: Any = connection.connection.dbapi_connection
        driver.autocommit = True
        driver.execute(command)
        driver.autocommit = False
        sent.clear()
        insert(shop, connection, "after")
        connection.commit()
        assert sent == [False]
    assert names_in(shop.take()) == [*names, "after"]


def test_the_pipeline_is_not_used_without_prepared_statements(shop: Shop, sent: list[bool]) -> None:
    with shop.engine.connect() as connection:
        connection.connection.dbapi_connection.prepare_threshold = None  # type: ignore[union-attr]
        names = prepare(shop, connection)
    assert not any(sent)
    assert names_in(shop.take()) == names


def test_the_pipeline_is_not_used_with_an_old_libpq(
    shop: Shop, sent: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "_available", False)
    with shop.engine.connect() as connection:
        names = prepare(shop, connection)
    assert sent == [False] * len(names)
    assert names_in(shop.take()) == names


def test_a_commit_that_the_database_refuses_commits_nothing(own_shop: Shop, sent: list[bool]) -> None:
    """COMMIT itself checks a deferred constraint."""
    with own_shop.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE tags DROP CONSTRAINT tags_name_key"))
        connection.execute(sa.text("ALTER TABLE tags ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"))
    with own_shop.engine.connect() as connection:
        names = prepare(own_shop, connection)
        assert sent[-1]
        insert(own_shop, connection, names[0])
        with pytest.raises(exc.IntegrityError, match="duplicate key"):
            connection.commit()
        connection.rollback()
        assert sent[-1]
        insert(own_shop, connection, "after")
        connection.commit()
    assert names_in(own_shop.take()) == [*names, "after"]


def test_an_outbox_row_that_the_database_refuses_commits_nothing(own_shop: Shop, sent: list[bool]) -> None:
    with own_shop.engine.connect() as connection:
        names = prepare(own_shop, connection)
        assert sent[-1]
        with own_shop.engine.begin() as other:
            other.execute(
                sa.text("ALTER TABLE rowcast_outbox ADD CONSTRAINT small CHECK (length(changes) < 10) NOT VALID")
            )
        insert(own_shop, connection, "refused")
        with pytest.raises(exc.IntegrityError, match="small") as refused:
            connection.commit()
        assert "INSERT INTO rowcast_outbox" in str(refused.value)
        connection.rollback()
        with own_shop.engine.begin() as other:
            other.execute(sa.text("ALTER TABLE rowcast_outbox DROP CONSTRAINT small"))
        insert(own_shop, connection, "after")
        connection.commit()
    assert names_in(own_shop.take()) == [*names, "after"]


@pytest.mark.parametrize("when", ["at the outbox row", "at COMMIT"])
def test_a_server_that_ends_the_connection_meanwhile_commits_nothing(
    own_shop: Shop, sent: list[bool], when: str
) -> None:
    ends = "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {} THEN "
    ends += "PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END $$"
    at_commit = "CREATE CONSTRAINT TRIGGER ends AFTER INSERT ON tags DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    at_row = "CREATE TRIGGER ends AFTER INSERT ON rowcast_outbox FOR EACH ROW"
    trigger, condition = (
        (at_commit, "NEW.name = 'lost'") if when == "at COMMIT" else (at_row, "NEW.changes LIKE '%lost%'")
    )
    with own_shop.engine.begin() as connection:
        connection.exec_driver_sql(ends.format(condition).replace("%", "%%"))
        connection.exec_driver_sql(f"{trigger} EXECUTE FUNCTION ends()")
    with own_shop.engine.connect() as connection:
        names = prepare(own_shop, connection)
        insert(own_shop, connection, "lost")
        with pytest.raises(exc.OperationalError) as lost:
            connection.commit()
        assert lost.value.connection_invalidated
        assert len(sent) == len(names)
        connection.rollback()
        insert(own_shop, connection, "after")
        connection.commit()
    assert names_in(own_shop.take()) == [*names, "after"]
    assert own_shop.mirror == own_shop.rows()


def test_what_a_later_listener_writes_at_commit_is_in_the_same_transaction(own_shop: Shop, sent: list[bool]) -> None:
    def write(connection: sa.Connection) -> None:
        connection.exec_driver_sql("INSERT INTO log VALUES (txid_current())")

    with own_shop.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE log (tx bigint)"))
    event.listen(own_shop.engine, "commit", write)
    with own_shop.engine.connect() as connection:
        prepare(own_shop, connection)
    assert not any(sent)
    with own_shop.engine.connect() as connection:
        logged = set(connection.scalars(sa.text("SELECT tx::text FROM log")))
        assert set(connection.scalars(sa.text("SELECT tx FROM rowcast_outbox"))) <= logged


def test_a_connection_that_is_lost_commits_nothing(shop: Shop, sent: list[bool]) -> None:
    with shop.engine.connect() as connection:
        names = prepare(shop, connection)
        insert(shop, connection, "lost")
        own_id = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        with shop.engine.begin() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:id)"), {"id": own_id})
        with pytest.raises(exc.OperationalError) as lost:
            connection.commit()
        assert lost.value.connection_invalidated
        connection.rollback()
        insert(shop, connection, "after")
        connection.commit()
    assert names_in(shop.take()) == [*names, "after"]
