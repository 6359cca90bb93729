"""Parked transactions: shown, dropped, and retried with the rows as they are by then."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import sessionmaker

from command_line import rowcast
from replicas import NAME, settings_for, work_once
from rowcast.consumer.verify import verify
from rowcast.producer import Capture
from rowcast.producer.outbox import OutboxTables, outbox_tables
from rowcast.producer.parked import Parked
from rowcast.producer.relay import Relay
from rowcast.shared.config import RelaySettings, Settings
from rowcast.shared.databases import open_engine
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
from servers import Broker

UUID, OTHER_UUID = uuid.UUID(int=0x1234ABCD << 96 | 7), uuid.UUID(int=8)

# By name: the types of the key's columns, and the keys of a row that stays, of one that changes, and of one that goes.
KEYS: dict[str, tuple[list[Any], list[tuple[Any, ...]]]] = {
    "int": ([sa.BigInteger], [(1,), (-(2**63),), (3,)]),
    "text": ([sa.String(20)], [("a",), ('"é\\',), ("b",)]),
    "pair": ([sa.Integer, sa.String(20)], [(1, "a"), (1, "b"), (2, "a")]),
    "uuid": ([sa.Uuid], [(uuid.UUID(int=0x1234ABCD << 96 | 7),), (uuid.UUID(int=8),), (uuid.UUID(int=9),)]),
    "bytes": ([sa.LargeBinary(8).with_variant(sa.VARBINARY(8), "mysql", "mariadb")], [(b"\0",), (b"\xff'",), (b"a",)]),
    "decimal": ([sa.Numeric(10, 2)], [(Decimal("1.50"),), (Decimal("-2"),), (Decimal("3.25"),)]),
    "moment": ([sa.DateTime], [(datetime(2026, 11, n, 10, 11, 12),) for n in (1, 2, 3)]),
    "zoned": ([sa.DateTime(timezone=True)], [(datetime(2026, 11, n, 10, 11, 12, tzinfo=UTC),) for n in (1, 2, 3)]),
    "float": ([sa.Double], [(0.1,), (-2.5,), (1e300,)]),
}


class App:
    """A captured table, and a primary whose outbox is moved by hand as the relay would."""

    def __init__(self, url: str, *columns: sa.Column[Any], tables: dict[str, Any] | None = None) -> None:
        self.metadata = sa.MetaData()
        self.table = sa.Table("item", self.metadata, *columns)
        self.engine = open_engine(url, "primary", pooled=False)
        self.sessions = sessionmaker(self.engine)
        capture = Capture(self.metadata, source="shop", tables=tables)
        capture.install(self.sessions)
        self.metadata.create_all(self.engine)
        self.own: OutboxTables = outbox_tables(self.metadata)
        self.settings = Settings(source="shop", primary={"url": url}, tables=tables or {})  # type: ignore[arg-type]

    def do(self, *statements: sa.Executable) -> None:
        with self.sessions.begin() as session:
            for statement in statements:
                session.execute(statement)

    def is_(self, key: tuple[Any, ...]) -> sa.ColumnElement[bool]:
        return sa.and_(*(column == value for column, value in zip(self.table.primary_key, key, strict=True)))

    def park(self) -> str:
        """What is in the outbox; the transaction's id."""
        outbox, parked = self.own.outbox.c, self.own.parked
        with self.engine.begin() as connection:
            (tx,) = connection.execute(sa.select(outbox.tx).distinct()).scalars()
            copied = [outbox[name] for name in ("id", "tx", "ts_ms", "changes", "context")]
            rows = sa.select(*copied, sa.literal("too large").label("reason"), sa.literal(1).label("parked_ms"))
            connection.execute(sa.insert(parked).from_select([c.name for c in rows.selected_columns], rows))
        self.publish()
        return str(tx)

    def publish(self) -> list[dict[str, Any]]:
        """Empties the outbox, and gives its changes; the rows are one transaction's."""
        with self.engine.begin() as connection:
            rows = connection.execute(sa.select(self.own.outbox).order_by(self.own.outbox.c.id)).all()
            connection.execute(sa.delete(self.own.outbox))
        assert len({row.tx for row in rows}) <= 1
        assert not rows or rows[-1].complete
        assert not any(row.complete for row in rows[:-1])
        return [orjson.loads(line) for row in rows for line in row.changes.splitlines()]


@pytest.fixture
def new_app(primary_url: str) -> Iterator[Callable[..., App]]:
    made: list[App] = []

    def make(*columns: sa.Column[Any], **options: Any) -> App:
        made.append(App(primary_url, *columns, **options))
        return made[-1]

    yield make
    for app in made:
        app.engine.dispose()


def retried(app: App, tx: str) -> list[dict[str, Any]]:
    parked = Parked(app.settings)
    try:
        parked.retry(tx)
        assert parked.all() == []
    finally:
        parked.close()
    return app.publish()


@pytest.mark.parametrize("kind", KEYS)
def test_a_retry_tells_the_rows_as_they_are_by_now(new_app: Callable[..., App], kind: str) -> None:
    types, (stays, changes, goes) = KEYS[kind]
    names = "kl"[: len(types)]
    columns = [sa.Column(n, t, primary_key=True, autoincrement=False) for n, t in zip(names, types, strict=True)]
    app = new_app(*columns, sa.Column("note", sa.String(20)))
    others = [dict(zip(names, key, strict=True)) | {"note": "old"} for key in (stays, changes, goes)]
    app.do(sa.insert(app.table).values(others))
    images = {line["a"]["note"]: None for line in app.publish()}
    assert images == {"old": None}
    app.do(sa.update(app.table).values(note="parked"))
    tx = app.park()
    app.do(sa.update(app.table).where(app.is_(changes)).values(note="newer"))
    app.do(sa.delete(app.table).where(app.is_(goes)))
    with app.engine.connect() as connection:
        before = connection.execute(sa.select(app.own.outbox.c.changes).order_by(app.own.outbox.c.id)).scalars().all()
    newer, gone = (orjson.loads(changes) for changes in before)
    with app.engine.begin() as connection:
        connection.execute(sa.delete(app.own.outbox))
    lines = retried(app, tx)
    assert [line["a"]["note"] for line in lines if line["op"] == "u"].count("parked") == 1
    assert newer in lines
    assert gone in lines
    assert len(lines) == 3


def test_a_row_that_does_not_leave_any_more_is_told_as_gone(new_app: Callable[..., App]) -> None:
    app = new_app(
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String(20)) for name in ("note", "card")),
        tables={"item": {"where": "note <> 'draft'", "columns": {"card": {"hash": "sha256", "salt": "s"}}}},
    )
    app.do(sa.insert(app.table).values([{"id": 1, "note": "a", "card": "c"}, {"id": 2, "note": "b", "card": "c"}]))
    first = app.publish()
    app.do(sa.update(app.table).where(app.table.c.id == 1).values(note="x"), sa.update(app.table).values(card="d"))
    tx = app.park()
    app.do(sa.update(app.table).where(app.table.c.id == 2).values(note="draft"))
    app.publish()
    there, gone = retried(app, tx)
    assert (there["op"], there["k"], there["a"]["note"]) == ("u", {"id": 1}, "x")
    assert len(there["a"]["card"]) == len(first[0]["a"]["card"]) == 20
    assert there["a"]["card"] != first[0]["a"]["card"]
    assert (gone["op"], gone["k"]) == ("d", {"id": 2})


def test_a_large_one_takes_several_outbox_rows(new_app: Callable[..., App]) -> None:
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values([{"id": n, "note": "a"} for n in range(1, 251)]))
    tx = app.park()
    app.do(sa.delete(app.table).where(app.table.c.id % 2 == 0))
    app.publish()
    lines = retried(app, tx)
    assert [line["k"]["id"] for line in lines] == list(range(1, 251))
    assert {line["op"] for line in lines[::2]} == {"u"}
    assert {line["op"] for line in lines[1::2]} == {"d"}


@pytest.mark.parametrize("primary_url", ["postgresql", "mariadb"], indirect=True)  # SQLite has one writer at a time.
@pytest.mark.parametrize("change", ["changes", "comes back"])
def test_a_row_in_other_hands_is_waited_for(new_app: Callable[..., App], change: str) -> None:
    """The other transaction has drawn a smaller outbox id when the retry looks: what it has done must be seen."""
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values(id=1, note="parked"))
    tx = app.park()
    if change == "comes back":
        app.do(sa.delete(app.table))
        app.publish()
    done = threading.Event()

    def retry() -> None:
        parked = Parked(app.settings)
        parked.retry(tx)
        parked.close()
        done.set()

    with app.sessions() as session:
        statement = (
            sa.insert(app.table).values(id=1, note="newer")
            if change == "comes back"
            else sa.update(app.table).values(note="newer")
        )
        session.execute(statement)
        thread = threading.Thread(target=retry)
        thread.start()
        assert not done.wait(1)
        session.commit()
    thread.join(60)
    assert done.is_set()
    with app.engine.connect() as connection:
        rows = connection.execute(sa.select(app.own.outbox.c.changes).order_by(app.own.outbox.c.id)).scalars().all()
    assert [orjson.loads(changes)["a"]["note"] for changes in rows] == ["newer", "newer"]


@pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)
def test_what_cannot_be_told_stays_parked(new_app: Callable[..., App]) -> None:
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values(id=1, note="a"))
    tx = app.park()
    row = app.own.parked
    parked = Parked(app.settings)

    def refused(changes: str, reason: str) -> None:
        with app.engine.begin() as connection:
            connection.execute(sa.update(row).values(changes=changes))
        with pytest.raises(DataError, match=reason):
            parked.retry(tx)
        assert [one.tx for one in parked.all()] == [tx]
        assert app.publish() == []

    (good,) = (one.changes for one in parked.rows(tx))
    refused("garbage\n", r"row 1 of rowcast_parked: not an outbox line.*Mend the row.*rowcast snapshot")
    refused(good.replace("main.item", "main.other"), "rowcast_shape does not know the table main.other")
    refused(good.replace('"k":{"id":1}', '"k":{"nr":1}'), "the primary key of main.item was nr, and is id now")
    app.table.drop(app.engine)
    refused(good, "cannot be read again: no such table: item")
    with pytest.raises(ConfigurationError, match=rf"no transaction '7' is parked \(parked: {tx}\)"):
        parked.retry("7")
    with pytest.raises(ConfigurationError, match="no transaction '7' is parked"):
        parked.drop([tx, "7"])
    assert [one.tx for one in parked.all()] == [tx]
    parked.drop([tx])
    assert parked.all() == []
    parked.close()


@pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)
def test_two_that_retry_the_same_write_it_once(new_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch) -> None:
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values(id=1, note="a"))
    tx = app.park()
    one, other = Parked(app.settings), Parked(app.settings)
    found = one.rows(tx)
    monkeypatch.setattr(one, "rows", lambda _: found)
    other.retry(tx)
    with pytest.raises(RetriableError, match="by somebody else"):
        one.retry(tx)
    assert len(app.publish()) == 1
    for each in (one, other):
        each.close()


def test_a_replica_lacks_what_is_parked_until_it_is_retried(
    primary_url: str, kafka: Broker, source_name: str, new_database: Callable[[str], str], tmp_path: Path
) -> None:
    """By the commands, as a user would."""
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), primary_url)
    parking = settings.model_copy(update={"relay": RelaySettings(on_unpublishable="park")})
    text = sa.Text().with_variant(mysql.LONGTEXT, "mysql", "mariadb")
    app = App(primary_url, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", text))
    app.do(sa.insert(app.table).values([{"id": n, "note": "old"} for n in (1, 2, 3)]))
    app.do(
        sa.update(app.table).where(app.table.c.id == 1).values(note="x" * 1_000_100),
        sa.delete(app.table).where(app.table.c.id == 2),
    )
    app.do(sa.update(app.table).where(app.table.c.id == 3).values(note="new"))
    Relay(parking, app.engine).run_once()
    work_once(settings)
    (compared,) = verify(settings, NAME).tables
    assert (compared.different, compared.extra, compared.missing) == (1, 1, 0)

    (tmp_path / "rowcast.toml").write_text(
        f'source = "{source_name}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[primary]\nurl = "{primary_url}"\n'
    )

    def dlq(*arguments: str, code: int = 0) -> str:
        result = rowcast("dlq", *arguments, cwd=tmp_path)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    assert "Say --source" in dlq("list", code=2)
    (one,) = json.loads(dlq("list", "--source", "--json", code=1))
    listed = dlq("list", "--source", code=1)
    for text in (one["tx"], "1 outbox rows", 'key {"id":1}', "message.max.bytes"):
        assert text in listed
    assert json.loads(rowcast("status", "--json", cwd=tmp_path).stdout)["outbox"]["parked"] == 1
    shown = dlq("show", "--source", one["tx"])
    assert '"k":{"id"' in shown
    assert "characters)" in shown
    dlq("retry", "--source", one["tx"])
    assert "no transaction is parked" in dlq("list", "--source")
    # Kafka does not take it yet: it is parked again, with the row that is gone.
    Relay(parking, app.engine).run_once()
    (again,) = json.loads(dlq("list", "--source", "--json", code=1))
    dlq("retry", "--source", again["tx"])
    larger = parking.model_copy(update={"kafka": {**settings.kafka, "message.max.bytes": 1_040_000}})
    Relay(larger, app.engine).run_once()
    work_once(settings)
    assert verify(settings, NAME).equal
    app.engine.dispose()
