"""Capture unusual transactions: prepared, spread over databases, retried, interrupted, forked, huge."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from integration.capture.conftest import NewShop
from rowcast.producer import Capture
from rowcast.shared.errors import CaptureError
from support.shop import Shop

NewDatabase = Callable[[str], str]


on_two_engines = pytest.mark.parametrize("shop", ["postgresql", "mariadb"], indirect=True)


def outbox_rows(engine: Engine) -> list[tuple[str, bool | None, str]]:
    query = sa.text("SELECT tx, complete, changes FROM rowcast_outbox ORDER BY id")
    with engine.connect() as connection:
        return [(tx, complete, changes) for tx, complete, changes in connection.execute(query)]


# -- written in several parts


def test_many_rows_leave_in_the_order_in_which_they_were_touched(borrow_shop: NewShop) -> None:
    """A row may refer to another row of its table. Test with and without statistics, and with a generic plan."""
    shop = borrow_shop("postgresql")
    reading = shop.models.Reading.__table__
    rows = [{"sensor": f"s{n % 7}", "at": n * 7919 % 3001, "value": 1.0} for n in range(3000)]
    key_lists = []
    for number in range(12):
        with shop.engine.begin() as connection:
            connection.execute(reading.delete(), execution_options={"rowcast": "ignore"})
            connection.execute(reading.insert(), rows)
        with shop.engine.connect() as connection:
            if number == 6:
                connection.execute(sa.text("ANALYZE"))
                connection.commit()
        key_lists.append(
            [orjson.loads(line)["k"] for *_, lines in outbox_rows(shop.engine) for line in lines.split("\n")[:-1]]
        )
        with shop.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM rowcast_outbox"))
    assert key_lists == [[{"sensor": row["sensor"], "at": row["at"]} for row in rows]] * 12


def test_a_transaction_flushed_in_between_keeps_one_name_and_ends_once(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        for name in "abc":
            connection.execute(shop.models.Tag.__table__.insert().values(name=name))
            shop.capture.flush(connection)
        connection.execute(shop.models.Tag.__table__.insert().values(name="d"))
    rows = outbox_rows(shop.engine)
    assert len({tx for tx, _, _ in rows}) == 1
    assert [bool(complete) for _, complete, _ in rows] == [False, False, False, True]
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_flush_inside_a_savepoint_loses_nothing_when_it_is_rolled_back(shop: Shop) -> None:
    tag = shop.models.Tag.__table__
    with shop.engine.begin() as connection:
        connection.execute(tag.insert().values(name="before"))
        savepoint = connection.begin_nested()
        connection.execute(tag.insert().values(name="inside"))
        shop.capture.flush(connection)
        savepoint.rollback()
    assert [c["a"]["name"] for c in shop.take()] == ["before"]
    assert shop.mirror == shop.rows()


# -- two-phase


def test_a_prepared_transaction_that_is_rolled_back_leaves_nothing(borrow_shop: NewShop) -> None:
    shop = borrow_shop("mariadb")
    with shop.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(shop.models.Tag.__table__.insert().values(name="x"))
        transaction.prepare()
        transaction.rollback()
    assert shop.take() == []


def test_a_two_phase_session_drains_every_database_when_it_prepares(new_database: NewDatabase) -> None:
    class Base(DeclarativeBase):
        pass

    class Here(Base):
        __tablename__ = "here"
        id: Mapped[int] = mapped_column(primary_key=True)

    class There(Base):
        __tablename__ = "there"
        id: Mapped[int] = mapped_column(primary_key=True)

    engines = [sa.create_engine(new_database("mariadb")) for _ in range(2)]
    sessions = sessionmaker(binds={Here: engines[0], There: engines[1]}, twophase=True)
    capture = Capture(Base.metadata, source="shop")
    capture.install(sessions)
    for engine in engines:
        Base.metadata.create_all(engine)
    with sessions() as session:
        session.add_all([Here(id=1), There(id=2)])
        session.commit()
    changes = [[changes for _, _, changes in outbox_rows(engine)] for engine in engines]
    assert [len(rows) for rows in changes] == [1, 1]
    assert ".here" in changes[0][0]
    assert ".there" in changes[1][0]
    for engine in engines:
        engine.dispose()


# -- several databases


def test_each_shard_has_its_own_outbox(new_database: NewDatabase) -> None:
    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(sa.String(10))

    shards = {name: sa.create_engine(new_database("sqlite")) for name in ("even", "odd")}

    def shard_of(id_: int) -> str:
        return "odd" if id_ % 2 else "even"

    sessions = sessionmaker(
        class_=ShardedSession,
        shards=shards,
        shard_chooser=lambda _mapper, instance, _clause=None: shard_of(instance.id),
        identity_chooser=lambda _mapper, key, **_: [shard_of(key[0])],
        execute_chooser=lambda _context: list(shards),
    )
    capture = Capture(Base.metadata, source="shop")
    capture.install(sessions)
    for engine in shards.values():
        Base.metadata.create_all(engine)
    with sessions() as session:
        session.add_all([Item(id=n, name=f"item {n}") for n in range(4)])
        session.commit()
        session.execute(sa.update(Item).values(name="same"), execution_options={"synchronize_session": False})
        session.commit()
    for name, engine in shards.items():
        lines = "".join(changes for _, _, changes in outbox_rows(engine)).splitlines()
        mine = [n for n in range(4) if shard_of(n) == name]
        assert len(lines) == 2 * len(mine)
        assert all(sum(f'"k":{{"id":{n}}}' in line for line in lines) == 2 for n in mine)
        engine.dispose()


# -- transactions with an implicit begin


@on_two_engines
@pytest.mark.parametrize("statement", ["insert", "update", "update of several", "delete"])
def test_a_transaction_that_its_first_statement_begins_is_captured(shop: Shop, statement: str) -> None:
    """The engine's begin event comes only after the statement's event."""
    tag = shop.models.Tag.__table__
    with shop.engine.connect() as connection:
        for n in (1, 2, 3):
            connection.execute(tag.insert(), {"name": f"tag {n}"})
            connection.commit()
        assert [c["k"]["id"] for c in shop.take()] == [1, 2, 3]
        match statement:
            case "insert":
                connection.execute(tag.insert(), {"name": "drawn"})
            case "update":
                connection.execute(tag.update().where(tag.c.id == 2), {"name": "new"})
            case "update of several":
                connection.execute(tag.update().where(tag.c.name.like("tag%")).values(name=tag.c.name + "!"))
            case "delete":
                connection.execute(tag.delete().where(tag.c.id == 2))
        connection.commit()
        expected = {
            "insert": [("c", 4)],
            "update": [("u", 2)],
            "update of several": [("u", n) for n in (1, 2, 3)],
            "delete": [("d", 2)],
        }
        assert sorted((c["op"], c["k"]["id"]) for c in shop.take()) == expected[statement]


@on_two_engines
def test_a_statement_that_failed_and_is_tried_again_leaves_only_what_it_did(shop: Shop) -> None:
    tag = shop.models.Tag.__table__
    rename = tag.update().where(tag.c.id == sa.bindparam("tag"))
    with shop.engine.connect() as connection:
        connection.execute(tag.insert(), [{"id": n, "name": f"tag {n}"} for n in (1, 2)])
        connection.commit()
        shop.take()
        with pytest.raises(exc.IntegrityError), connection.begin_nested():
            connection.execute(rename, {"tag": 1, "name": "tag 2"})
        with pytest.raises(exc.StatementError, match="tag"):
            connection.execute(rename, {"name": "no key"})
        connection.execute(rename, {"tag": 2, "name": "renamed"})
        connection.commit()
    assert [(c["op"], c["k"]["id"]) for c in shop.take()] == [("u", 2)]


@on_two_engines
def test_the_first_reflection_leaves_the_connection_as_it_was(shop: Shop) -> None:
    """On MariaDB, SQLAlchemy's reflection would hide the application's errors from listeners."""
    tag = shop.models.Tag.__table__
    errors: list[str] = []
    note_error = lambda context: errors.append(type(context.sqlalchemy_exception).__name__)  # noqa: E731
    sa.event.listen(shop.engine, "handle_error", note_error)
    with shop.engine.connect() as connection:
        connection.execute(tag.insert(), {"id": 1, "name": "a"})
        connection.commit()
        errors.clear()
        with pytest.raises(exc.IntegrityError):
            connection.execute(tag.insert(), [{"id": n, "name": f"b{n}"} for n in (2, 1)])
        connection.rollback()
    sa.event.remove(shop.engine, "handle_error", note_error)
    assert errors == ["IntegrityError"]


def test_changes_of_a_failed_statement_are_captured_even_without_an_error_event(borrow_shop: NewShop) -> None:
    """SQLAlchemy's reflection leaves the connection in a state in which listeners receive no errors."""
    shop = borrow_shop("mariadb")
    with shop.engine.connect() as connection:
        tag = shop.models.Tag.__table__
        connection.execute(tag.insert(), [{"id": n, "name": f"tag {n}"} for n in (1, 2, 3, 4)])
        connection.commit()
        shop.take()
        sa.Table("tags", sa.MetaData(), autoload_with=connection)
        assert connection.get_execution_options()["skip_user_error_events"]
        rename = tag.update().where(tag.c.id == sa.bindparam("tag"))
        for first, second in ((1, 2), (3, 4)):
            # The second execution takes the fast path.
            with pytest.raises(exc.IntegrityError):
                connection.execute(
                    rename,
                    [{"tag": first, "name": "renamed" + str(first)}, {"tag": second, "name": "renamed" + str(first)}],
                )
        connection.commit()
        assert sorted((c["op"], c["k"]["id"]) for c in shop.take() if c["k"]["id"] in (1, 3)) == [("u", 1), ("u", 3)]
        assert shop.mirror == shop.rows()


# -- transactions ended by the database


def test_a_retry_after_a_serialization_failure_is_captured_once(borrow_shop: NewShop) -> None:
    shop = borrow_shop("postgresql")
    reading = shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(reading.insert(), [{"sensor": s, "at": 1, "value": 1.0} for s in "ab"])
    total = sa.select(sa.func.sum(reading.c.value))

    def add_total_to(sensor: str, connection: sa.Connection) -> None:
        value = connection.scalar(total)
        connection.execute(reading.update().where(reading.c.sensor == sensor).values(value=value))

    serializable = shop.engine.execution_options(isolation_level="SERIALIZABLE")
    first, second = serializable.connect(), serializable.connect()
    add_total_to("a", first)
    add_total_to("b", second)
    first.commit()
    with pytest.raises(exc.OperationalError, match="could not serialize"):
        second.commit()
    second.rollback()
    add_total_to("b", second)
    second.commit()
    first.close()
    second.close()
    shop.take()
    assert shop.mirror == shop.rows()
    assert shop.mirror["readings", b'{"sensor":"b","at":1}']["value"] == 3


@on_two_engines
def test_a_retry_after_a_deadlock_is_captured_once(shop: Shop) -> None:
    reading = shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(reading.insert(), [{"sensor": s, "at": 1, "value": 0.0} for s in "ab"])
    both_hold_one = threading.Barrier(2)
    deadlocks = []

    def add_to(sensors: str) -> None:
        for attempt in range(10):
            try:
                with shop.sessions.begin() as session:
                    for sensor in sensors:
                        at = reading.c.sensor == sensor
                        session.execute(reading.update().where(at, reading.c.at == 1).values(value=reading.c.value + 1))
                        if attempt == 0 and sensor == sensors[0]:
                            both_hold_one.wait(20)
                return
            except exc.OperationalError as error:
                deadlocks.append(error)

    threads = [threading.Thread(target=add_to, args=(sensors,)) for sensors in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert deadlocks, "the two transactions were meant to meet"
    shop.take()
    assert shop.mirror == shop.rows()
    assert {row["value"] for row in shop.mirror.values()} == {2}


@on_two_engines
def test_a_connection_lost_at_commit_leaves_neither_rows_nor_events(shop: Shop) -> None:
    postgresql = shop.engine.dialect.name == "postgresql"
    with shop.engine.connect() as doomed, shop.engine.connect() as other:
        doomed.execute(shop.models.Tag.__table__.insert().values(name="lost"))
        own_id = doomed.scalar(sa.text("SELECT pg_backend_pid()" if postgresql else "SELECT CONNECTION_ID()"))
        if postgresql:
            other.execute(sa.text("SELECT pg_terminate_backend(:id)"), {"id": own_id})
        else:
            other.execute(sa.text(f"KILL {own_id:d}"))
        with pytest.raises(exc.DBAPIError):
            doomed.commit()
    with shop.sessions.begin() as session:
        session.add(shop.models.Tag(name="kept"))
    assert [c["a"]["name"] for c in shop.take()] == ["kept"]
    assert shop.mirror == shop.rows()


# -- processes


def test_a_process_forked_after_the_install_captures_what_it_commits(shop: Shop) -> None:
    """Fork after the application is loaded, as gunicorn does with preloading."""
    with shop.sessions.begin() as session:
        session.add(shop.models.Tag(name="parent, before"))

    def child(number: int) -> None:
        shop.engine.dispose(close=False)
        with shop.sessions.begin() as session:
            session.add(shop.models.Tag(name=f"child {number}"))

    processes = [multiprocessing.get_context("fork").Process(target=child, args=(n,)) for n in range(2)]
    for process in processes:
        process.start()
        process.join(60)
        assert process.exitcode == 0
    with shop.sessions.begin() as session:
        session.add(shop.models.Tag(name="parent, after"))
    names = [c["a"]["name"] for c in shop.take()]
    assert sorted(names) == ["child 0", "child 1", "parent, after", "parent, before"]
    assert shop.mirror == shop.rows()


# -- huge

_MOST_BESIDES = 200
"""MiB that the capture may take in addition to the application's own memory."""

_HUGE = r"""
import re, sys
from pathlib import Path
import sqlalchemy as sa
from rowcast.producer import Capture
url, rows, captured = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "captured"
metadata = sa.MetaData()
table = sa.Table("huge", metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.Text))
engine = sa.create_engine(url)
capture = Capture(metadata, source="huge")
metadata.drop_all(engine)
metadata.create_all(engine)
if captured:
    capture.install(engine)
with engine.begin() as connection:
    for start in range(0, rows, 10_000):
        connection.execute(table.insert(), [{"id": n, "name": f"row {n}"} for n in range(start, start + 10_000)])
    connection.execute(table.update().where(table.c.id % 2 == 0).values(name="even"))
# Not ru_maxrss, which begins with what the parent had.
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.campaign
def test_a_huge_transaction_takes_little_memory(new_database: NewDatabase, tmp_path: Path, campaign: bool) -> None:
    """A million rows with ``--campaign``."""
    rows = 1_000_000 if campaign else 120_000
    url = new_database("postgresql")
    script = tmp_path / "huge.py"
    script.write_text(_HUGE)

    def peak(how: str) -> int:
        arguments = [sys.executable, str(script), url, str(rows), how]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    plain, captured = peak("plain"), peak("captured")
    print(f"{rows:,} rows: {plain} MiB without, {captured} MiB with the capture")
    assert captured - plain < _MOST_BESIDES * rows / 1_000_000 + 40
    engine = sa.create_engine(url)
    lines = "SELECT sum((length(changes) - length(replace(changes, :what, ''))) / length(:what)) FROM rowcast_outbox"
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(DISTINCT tx) FROM rowcast_outbox")) == 1
        assert connection.scalar(sa.text("SELECT count(*) FROM rowcast_outbox WHERE complete")) == 1
        assert connection.scalar(sa.text(lines), {"what": '"even"'}) == rows // 2
        # The outbox has the earlier changes with their values before the UPDATE.
        assert connection.scalar(sa.text(lines), {"what": '"op":"c"'}) == rows
        # Without the limit of noted keys, the UPDATE would only change the rows of the inserts.
        assert connection.scalar(sa.text(lines), {"what": '"op":"u"'}) > rows // 3
    engine.dispose()


@on_two_engines
def test_a_statement_that_another_listener_replaces_is_refused(shop: Shop) -> None:
    """The database would execute a statement whose rows the capture does not know."""

    def replace(_connection: Any, statement: Any, multiparams: Any, params: Any, _options: Any) -> Any:
        if isinstance(statement, sa.Update):
            statement = statement.where(sa.true())
        return statement, multiparams, params

    tag = shop.models.Tag.__table__
    with shop.engine.begin() as connection:
        connection.execute(tag.insert(), {"name": "a"})
    sa.event.listen(shop.engine, "before_execute", replace, retval=True)
    with pytest.raises(CaptureError, match=r"tags, another listener"), shop.engine.begin() as connection:
        connection.execute(tag.update().values(name="b"))
    with shop.engine.connect() as connection:
        connection.execute(tag.insert(), {"name": "c"})
        with pytest.raises(CaptureError):
            connection.execute(tag.update().where(tag.c.name == "a").values(name="d"))
        with pytest.raises(CaptureError):
            connection.commit()
        connection.rollback()
        assert connection.scalars(sa.select(tag.c.name)).all() == ["a"]
    sa.event.remove(shop.engine, "before_execute", replace)
