"""Parked transactions are shown, dropped, and retried with the current rows."""

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
from sqlalchemy.orm import sessionmaker

from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.outbox.schema import OutboxTables, outbox_tables
from rowcast.producer.parking.parked import ParkedTransactions
from rowcast.producer.relay import Relay
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
from servers import Broker
from support.command_line import rowcast
from support.worker_runs import NAME, settings_for, work_once

UUID, OTHER_UUID = uuid.UUID(int=0x1234ABCD << 96 | 7), uuid.UUID(int=8)

# By name: the types of the key's columns, and three keys, of an unchanged row, a changed row and a deleted row.
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
    """Hold captured tables and their primary. The methods move outbox rows in place of a relay."""

    def __init__(self, url: str, metadata: sa.MetaData, tables: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        self.engine = open_engine(url, "primary", pooled=False)
        self.sessions = sessionmaker(self.engine)
        capture = Capture(self.metadata, source="shop", tables=tables)
        capture.install(self.sessions)
        self.metadata.create_all(self.engine)
        self.own: OutboxTables = outbox_tables(self.metadata)
        self.settings = Settings(source="shop", primary={"url": url}, tables=tables or {})

    def do(self, *statements: sa.Executable) -> None:
        with self.sessions.begin() as session:
            for statement in statements:
                session.execute(statement)

    @property
    def table(self) -> sa.Table:
        """Return the only table of an application with one table."""
        return self.metadata.tables["item"]

    def park(self) -> str:
        """Park the transaction in the outbox. Return its id."""
        outbox, parked = self.own.outbox.c, self.own.parked
        with self.engine.begin() as connection:
            (tx,) = connection.execute(sa.select(outbox.tx).distinct()).scalars()
            copied = [outbox[name] for name in ("id", "tx", "ts_ms", "changes", "context")]
            rows = sa.select(*copied, sa.literal("too large").label("reason"), sa.literal(1).label("parked_ms"))
            connection.execute(sa.insert(parked).from_select([c.name for c in rows.selected_columns], rows))
        self.publish()
        return str(tx)

    def publish(self) -> list[dict[str, Any]]:
        """Empty the outbox and return its changes. All rows must belong to a single transaction."""
        with self.engine.begin() as connection:
            rows = connection.execute(sa.select(self.own.outbox).order_by(self.own.outbox.c.id)).all()
            connection.execute(sa.delete(self.own.outbox))
        assert len({row.tx for row in rows}) <= 1
        assert not rows or rows[-1].complete
        assert not any(row.complete for row in rows[:-1])
        return [orjson.loads(line) for row in rows for line in row.changes.splitlines()]


def app_with_item(url: str, *columns: sa.Column[Any], **options: Any) -> App:
    metadata = sa.MetaData()
    sa.Table("item", metadata, *columns)
    return App(url, metadata, **options)


@pytest.fixture
def new_app(primary_url: str) -> Iterator[Callable[..., App]]:
    """Return a function to create an application with the table `item`."""
    made: list[App] = []

    def make(*columns: sa.Column[Any], **options: Any) -> App:
        made.append(app_with_item(primary_url, *columns, **options))
        return made[-1]

    yield make
    for app in made:
        app.engine.dispose()


def retried(app: App, tx: str) -> list[dict[str, Any]]:
    parked = ParkedTransactions(app.settings)
    try:
        parked.retry(tx)
        assert parked.all() == []
    finally:
        parked.close()
    return app.publish()


def has_key(table: sa.Table, key: tuple[Any, ...]) -> sa.ColumnElement[bool]:
    return sa.and_(*(column == value for column, value in zip(table.primary_key, key, strict=True)))


def test_a_retry_publishes_the_current_rows_of_every_type_of_key(primary_url: str) -> None:
    """The parked transaction has changed a table for each type of key."""
    metadata = sa.MetaData()
    for kind, (types, _) in KEYS.items():
        columns = [sa.Column(n, t, primary_key=True, autoincrement=False) for n, t in zip("kl", types, strict=False)]
        sa.Table(f"by_{kind}", metadata, *columns, sa.Column("note", sa.String(20)))
    tables = {kind: metadata.tables[f"by_{kind}"] for kind in KEYS}
    app = App(primary_url, metadata)
    for kind, (_, keys) in KEYS.items():
        rows = [dict(zip("kl", key, strict=False)) | {"note": "old"} for key in keys]
        app.do(sa.insert(tables[kind]).values(rows))
        assert [line["a"]["note"] for line in app.publish()] == ["old"] * 3
    app.do(*(sa.update(table).values(note="parked") for table in tables.values()))
    tx = app.park()
    newest: list[dict[str, Any]] = []
    for kind, (_, (_, changes, goes)) in KEYS.items():
        table = tables[kind]
        app.do(sa.update(table).where(has_key(table, changes)).values(note="newer"))
        newest += app.publish()
        app.do(sa.delete(table).where(has_key(table, goes)))
        newest += app.publish()
    lines = retried(app, tx)
    assert [line for line in newest if line not in lines] == []
    unchanged = [
        line["t"].rpartition("by_")[2] for line in lines if line["op"] == "u" and line["a"]["note"] == "parked"
    ]
    assert sorted(unchanged) == sorted(KEYS)
    assert len(lines) == 3 * len(KEYS)
    app.engine.dispose()


@pytest.mark.shared_dialect
def test_a_row_that_the_row_filter_excludes_by_now_is_published_as_deleted(new_app: Callable[..., App]) -> None:
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


@pytest.mark.parametrize("primary_url", ["postgresql"], indirect=True)
def test_no_setting_of_the_role_changes_a_retried_row(new_app: Callable[..., App]) -> None:
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Double))
    app.do(sa.insert(app.table).values(id=1, x=0.1 + 0.2))
    tx = app.park()
    with app.engine.begin() as connection:
        role, database = connection.exec_driver_sql("SELECT current_user, current_database()").one()
        connection.exec_driver_sql(f'ALTER ROLE "{role}" IN DATABASE "{database}" SET extra_float_digits = -3')
    assert [line["a"]["x"] for line in retried(app, tx)] == [0.1 + 0.2]


@pytest.mark.shared_dialect
def test_a_large_transaction_takes_several_outbox_rows(new_app: Callable[..., App]) -> None:
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
def test_a_retry_waits_for_a_locked_row(new_app: Callable[..., App], change: str) -> None:
    """The retry must see the change of a transaction that has drawn a smaller outbox id and is still open."""
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values(id=1, note="parked"))
    tx = app.park()
    if change == "comes back":
        app.do(sa.delete(app.table))
        app.publish()
    done = threading.Event()

    def retry() -> None:
        parked = ParkedTransactions(app.settings)
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
        assert not done.wait(0.3)
        session.commit()
    thread.join(60)
    assert done.is_set()
    with app.engine.connect() as connection:
        rows = connection.execute(sa.select(app.own.outbox.c.changes).order_by(app.own.outbox.c.id)).scalars().all()
    assert [orjson.loads(changes)["a"]["note"] for changes in rows] == ["newer", "newer"]


@pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)
def test_a_damaged_transaction_stays_parked(new_app: Callable[..., App]) -> None:
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values(id=1, note="a"))
    tx = app.park()
    row = app.own.parked
    parked = ParkedTransactions(app.settings)

    def refused(changes: str, reason: str) -> None:
        with app.engine.begin() as connection:
            connection.execute(sa.update(row).values(changes=changes))
        with pytest.raises(DataError, match=reason):
            parked.retry(tx)
        assert [one.tx for one in parked.all()] == [tx]
        assert app.publish() == []

    (good,) = (one.changes for one in parked.rows(tx))
    refused("garbage\n", r"row 1 of rowcast_parked: not an outbox line.*Repair the row.*rowcast snapshot")
    refused(good.replace("main.item", "main.other"), "rowcast_shape does not know the table main.other")
    refused(good.replace('"k":{"id":1}', '"k":{"nr":1}'), "the primary key of main.item was nr, and is id now")
    app.table.drop(app.engine)
    refused(good, "cannot be read: no such table: item")
    with pytest.raises(ConfigurationError, match=rf"no transaction '7' is parked \(parked: {tx}\)"):
        parked.retry("7")
    with pytest.raises(ConfigurationError, match="no transaction '7' is parked"):
        parked.drop([tx, "7"])
    assert [one.tx for one in parked.all()] == [tx]
    parked.drop([tx])
    assert parked.all() == []
    parked.close()


@pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)
def test_two_retries_of_a_transaction_publish_it_once(
    new_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(20)))
    app.do(sa.insert(app.table).values(id=1, note="a"))
    tx = app.park()
    one, other = ParkedTransactions(app.settings), ParkedTransactions(app.settings)
    found = one.rows(tx)
    monkeypatch.setattr(one, "rows", lambda _: found)
    other.retry(tx)
    with pytest.raises(RetriableError, match="by another process"):
        one.retry(tx)
    assert len(app.publish()) == 1
    for each in (one, other):
        each.close()


# The tests above retry on every engine.
@pytest.mark.parametrize("primary_url", ["postgresql", "sqlite"], indirect=True)
def test_a_replica_lacks_a_parked_transaction_until_it_is_retried(
    primary_url: str,
    kafka: Broker,
    source_name: str,
    new_database: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """Retry with the commands, as a user would."""
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), primary_url)
    parking = settings.model_copy(update={"relay": RelaySettings(on_unpublishable="park")})
    app = app_with_item(primary_url, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.Text))
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

    assert "missing option --source" in dlq("list", code=2)
    (one,) = json.loads(dlq("list", "--source", "--json", code=1))
    listed = dlq("list", "--source", code=1)
    for wanted in (one["tx"], "1 outbox rows", "message.max.bytes"):
        assert wanted in listed
    assert json.loads(rowcast("status", "--json", cwd=tmp_path).stdout)["outbox"]["parked"] == 1
    shown = dlq("show", "--source", one["tx"])
    assert '"k":{"id"' in shown
    assert "characters)" in shown
    dlq("retry", "--source", one["tx"])
    assert "no transaction is parked" in dlq("list", "--source")
    # Kafka does not accept the transaction yet. The relay parks it again, with the deleted row.
    Relay(parking, app.engine).run_once()
    (again,) = json.loads(dlq("list", "--source", "--json", code=1))
    dlq("retry", "--source", again["tx"])
    larger = parking.model_copy(update={"kafka": {**settings.kafka, "message.max.bytes": 1_040_000}})
    Relay(larger, app.engine).run_once()
    work_once(settings)
    assert verify(settings, NAME).equal
    app.engine.dispose()
