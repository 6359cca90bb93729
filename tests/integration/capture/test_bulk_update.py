"""On PostgreSQL an UPDATE of many rows writes the row images itself, if the images cannot change before commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from integration.capture.conftest import NewShop
from rowcast.producer.capture.drain.bulk_update import BULK_UPDATE_MIN_ROWS
from rowcast.producer.outbox.schema import KEYS_PER_ROW
from support.sent_statements import sent_statements
from support.shop import Shop, open_shop

NewDatabase = Callable[[str], str]

ROWS = 2 * KEYS_PER_ROW + BULK_UPDATE_MIN_ROWS


@pytest.fixture
def shop(borrow_shop: NewShop) -> Shop:
    return filled(borrow_shop("postgresql"))


@pytest.fixture
def own_shop(new_database: NewDatabase) -> Iterator[Shop]:
    """Open a shop in a database that the test may change."""
    with open_shop(new_database("postgresql")) as shop:
        yield filled(shop)


def filled(shop: Shop) -> Shop:
    reading = shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(reading.insert(), [{"sensor": "a", "at": n, "value": 0.0} for n in range(ROWS)])
    know(shop, reading.update().where(reading.c.at == 0).values(value=0.0))
    return shop


def know(shop: Shop, statement: sa.Update) -> None:
    """Execute the statement twice. From the second transaction on, the capture knows that the shape is committed."""
    for _ in range(2):
        with shop.engine.begin() as connection:
            connection.execute(statement)
    shop.take()


def raised(shop: Shop, rows: int = ROWS, by: float = 1.0) -> sa.Update:
    reading = shop.models.Reading.__table__
    return reading.update().where(reading.c.at < rows).values(value=reading.c.value + by)


def written(shop: Shop, connection: sa.Connection) -> int:
    """Return the number of outbox rows of the open transaction."""
    return connection.scalar(sa.select(sa.func.count()).select_from(shop.outbox)) or 0


def values(changes: list[dict[str, Any]]) -> list[Any]:
    return [change["a"]["value"] for change in changes]


def test_many_rows_are_in_the_outbox_with_the_statement(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        assert connection.execute(raised(shop)).rowcount == ROWS
        assert written(shop, connection) == 3
    with shop.engine.connect() as connection:
        kept = connection.execute(sa.select(shop.outbox.c.tx, shop.outbox.c.changes).order_by(shop.outbox.c.id)).all()
    assert [orjson.loads(changes.split("\n")[0])["rows"] for _, changes in kept] == [
        KEYS_PER_ROW,
        KEYS_PER_ROW,
        BULK_UPDATE_MIN_ROWS,
    ]
    assert len({tx for tx, _ in kept}) == 1
    changes = shop.take()
    assert {(change["t"], change["op"]) for change in changes} == {("public.readings", "u")}
    assert sorted(change["k"]["at"] for change in changes) == list(range(ROWS))
    assert shop.mirror == shop.rows()


@pytest.mark.parametrize("rows", [0, 1, BULK_UPDATE_MIN_ROWS - 1])
def test_fewer_rows_wait_for_the_commit(shop: Shop, rows: int) -> None:
    with shop.engine.begin() as connection:
        assert connection.execute(raised(shop, rows)).rowcount == rows
        assert written(shop, connection) == 0
    with shop.engine.connect() as connection:
        assert connection.scalars(sa.select(shop.outbox.c.complete)).all() == [True] * bool(rows)
    assert len(shop.take()) == rows
    assert shop.mirror == shop.rows()


def test_a_bulk_update_of_the_orm_writes_the_outbox_too(shop: Shop) -> None:
    with shop.sessions() as session:
        seen = session.get_one(shop.models.Reading, ("a", 7))
        result = session.execute(sa.update(shop.models.Reading).values(value=5.0))
        assert isinstance(result, sa.CursorResult)
        assert result.rowcount == ROWS
        assert seen.value == 5.0
        assert written(shop, session.connection()) == 3
        session.commit()
    assert set(values(shop.take())) == {5.0}
    assert shop.mirror == shop.rows()


def test_a_trigger_that_changes_the_row_again_is_in_its_image(own_shop: Shop) -> None:
    with own_shop.engine.begin() as connection:
        connection.execute(raised(own_shop))
        assert written(own_shop, connection) == 3
    own_shop.take()
    with own_shop.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.value < 100 THEN UPDATE readings SET value = 100 + value "
                "WHERE sensor = NEW.sensor AND at = NEW.at; END IF; "
                "RETURN NULL; END $$"
            )
        )
        connection.execute(
            sa.text("CREATE TRIGGER again AFTER UPDATE ON readings FOR EACH ROW EXECUTE FUNCTION again()")
        )
    with own_shop.engine.begin() as connection:
        assert connection.execute(raised(own_shop)).rowcount == ROWS
        assert written(own_shop, connection) == 0
    assert set(values(own_shop.take())) == {102.0}
    assert own_shop.mirror == own_shop.rows()


def test_changes_before_a_bulk_update_come_before_it(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        connection.execute(shop.models.Tag.__table__.insert().values(name="before"))
        connection.execute(raised(shop))
        assert written(shop, connection) == 0
    changes = shop.take()
    assert len(changes) == ROWS + 1
    assert changes[0]["t"] == "public.tags"
    assert shop.mirror == shop.rows()


def test_changes_after_a_bulk_update_come_after_it(shop: Shop) -> None:
    reading = shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(raised(shop))
        connection.execute(raised(shop, 3, by=10.0))
        connection.execute(reading.delete().where(reading.c.at == 0))
        connection.execute(reading.update().where(reading.c.at == 1).values(at=-1))
        assert written(shop, connection) == 3
    with shop.engine.connect() as connection:
        complete = connection.scalars(sa.select(shop.outbox.c.complete).order_by(shop.outbox.c.id)).all()
    assert complete == [None, None, None, True]
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_rolled_back_savepoint_removes_the_outbox_rows(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        savepoint = connection.begin_nested()
        connection.execute(raised(shop))
        assert written(shop, connection) == 3
        savepoint.rollback()
        assert written(shop, connection) == 0
        connection.execute(raised(shop, 2, by=3.0))
    assert values(shop.take()) == [3.0, 3.0]
    assert shop.mirror == shop.rows()


def test_a_context_at_commit_reaches_the_written_rows(shop: Shop) -> None:
    connection = shop.engine.connect()
    connection.execute(raised(shop))
    assert written(shop, connection) == 3
    with shop.capture.context(actor="anna"):
        connection.commit()
    assert set(connection.scalars(sa.select(shop.outbox.c.context))) == {'{"actor":"anna"}'}
    connection.close()


def test_with_a_context_the_commit_writes_the_outbox_rows(shop: Shop) -> None:
    with shop.capture.context(actor="anna"), shop.engine.begin() as connection:
        connection.execute(raised(shop))
        assert written(shop, connection) == 0
    with shop.engine.connect() as connection:
        assert set(connection.scalars(sa.select(shop.outbox.c.context))) == {'{"actor":"anna"}'}
    assert len(shop.take()) == ROWS


def test_a_bulk_update_calls_the_commit_callbacks(shop: Shop) -> None:
    calls: list[None] = []
    shop.capture.on_commit(lambda: calls.append(None))
    with shop.sessions() as session:
        session.execute(sa.update(shop.models.Reading).values(value=5.0))
        session.commit()
    assert len(calls) == 1


def test_a_rule_still_takes_effect(own_shop: Shop) -> None:
    with own_shop.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE seen (at integer)"))
        connection.execute(
            sa.text("CREATE RULE look AS ON UPDATE TO readings DO ALSO INSERT INTO seen VALUES (NEW.at)")
        )
    with open_shop(own_shop.engine.url.render_as_string(hide_password=False)) as other:
        know(other, raised(other, 1))
        with other.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM seen"))
            connection.execute(raised(other))
            assert written(other, connection) == 0
            assert connection.scalar(sa.text("SELECT count(*) FROM seen")) == ROWS
        assert len(other.take()) == ROWS


@pytest.mark.parametrize("hashed", [False, True])
def test_a_salt_never_stands_in_a_statement(new_database: NewDatabase, hashed: bool) -> None:
    column = {"salt": "pepper", "hash": "sha256"} if hashed else {"mask": "***"}
    with open_shop(new_database("postgresql"), tables={"tags": {"columns": {"name": column}}}) as shop:
        tag = shop.models.Tag.__table__
        with shop.engine.begin() as connection:
            connection.execute(tag.insert(), [{"id": n, "name": f"n{n}"} for n in range(BULK_UPDATE_MIN_ROWS)])
        know(shop, tag.update().where(tag.c.id == 0).values(name="n0"))
        with sent_statements(shop.engine) as sent, shop.engine.begin() as connection:
            connection.execute(tag.update().values(name=sa.func.upper(tag.c.name)))
            assert written(shop, connection) == (0 if hashed else 1)
        assert sent
        assert not any("pepper" in statement for statement in sent)
        names = {change["a"]["name"] for change in shop.take()}
        assert names.isdisjoint({f"N{n}" for n in range(BULK_UPDATE_MIN_ROWS)})


@pytest.mark.parametrize("schema", ["Other %(schema)s", None])
def test_names_and_values_that_need_quoting(new_database: NewDatabase, schema: str | None) -> None:
    metadata = sa.MetaData()
    table = sa.Table(
        "100%% {of} 'it' :x 5%",
        metadata,
        sa.Column('a "key" %s', sa.Integer, primary_key=True, key="key"),
        sa.Column("select", sa.Text, key="text"),
        schema=schema,
    )
    with open_shop(new_database("postgresql")) as shop:
        with shop.engine.begin() as connection:
            if schema is not None:
                connection.execute(sa.schema.CreateSchema(schema))
            shop.models.metadata.remove(shop.models.order_tag)
            copy = table.to_metadata(shop.models.metadata)
            copy.create(connection)
        with shop.engine.begin() as connection:
            connection.execute(copy.insert(), [{"key": n, "text": "'% {}\\ ü"} for n in range(BULK_UPDATE_MIN_ROWS)])
        know(shop, copy.update().where(copy.c.key == BULK_UPDATE_MIN_ROWS - 1).values(text="'% {}\\ ü"))
        with shop.engine.begin() as connection:
            statement = copy.update().where(copy.c.text.like("'%")).values(text=copy.c.text + " 100%")
            assert connection.execute(statement).rowcount == BULK_UPDATE_MIN_ROWS
            assert written(shop, connection) == 1
        changes = shop.take()
        assert {tuple(change["a"].items())[1:] for change in changes} == {(("select", "'% {}\\ ü 100%"),)}
        assert [change["k"] for change in changes] == [{'a "key" %s': n} for n in range(BULK_UPDATE_MIN_ROWS)]
