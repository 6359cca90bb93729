"""`rowcast rebuild` as a process: verified, kept and dropped tables, another database, and a snapshot before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.producer.relay import running
from rowcast.shared.config import load
from servers import Broker
from support.command_line import rowcast
from support.kafka_admin import delete_records, set_config


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


@pytest.fixture
def sessions(place: Path, source_name: str) -> Iterator[sessionmaker[Session]]:
    """Write three orders, and apply them."""
    engine = sa.create_engine(f"sqlite:///{place}/primary.db")
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source=source_name).install(sessions)
    Base.metadata.create_all(engine)
    with sessions.begin() as session:
        session.add_all([Order(id=n, note=str(n)) for n in range(3)])
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    yield sessions
    engine.dispose()


def done(place: Path, *arguments: str) -> str:
    result = rowcast(*arguments, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(file) as connection:
        return connection.execute(query).fetchall()


def change(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(statement)


def delete_first_records(kafka: Broker, topic: str, before: int) -> None:
    """Delete the first records of a topic, which Kafka refuses for topics that are only compacted."""
    set_config(kafka.bootstrap_servers, topic, "cleanup.policy", "compact,delete")
    delete_records(kafka.bootstrap_servers, topic, before)


@pytest.mark.usefixtures("sessions")
def test_a_rebuild_is_compared_with_the_primary_and_keeps_the_old_tables_until_they_are_dropped(place: Path) -> None:
    replica = place / "replica.db"
    change(replica, "UPDATE orders SET note = 'wrong'")
    assert "records, 3 rows equal" in done(place, "rebuild", "r", "--keep-old")
    assert rows(replica, "SELECT note FROM orders ORDER BY id") == [("0",), ("1",), ("2",)]
    assert rows(replica, "SELECT DISTINCT note FROM rowcast_old_orders") == [("wrong",)]
    refused = rowcast("rebuild", "r", cwd=place)
    assert refused.returncode == 2
    assert "still has the old tables of its last rebuild: main.orders" in refused.stderr
    assert done(place, "rebuild", "r", "--drop-old") == "dropped: rowcast_old_orders\n"
    assert done(place, "rebuild", "r", "--drop-old") == "no old tables\n"
    assert "3 rows equal" in done(place, "rebuild", "r")


@pytest.mark.usefixtures("sessions")
def test_tables_that_differ_from_the_primary_are_not_swapped(place: Path) -> None:
    # A program without the capture has written, so the topics lack the row.
    change(place / "primary.db", "INSERT INTO orders (id, note) VALUES (9, 'unseen')")
    result = rowcast("rebuild", "r", cwd=place)
    assert result.returncode == 1
    assert "main.orders: 1 missing, 0 extra, 0 different" in result.stderr
    assert rows(place / "replica.db", "SELECT count(*) FROM orders") == [(3,)]
    assert "3 rows equal" not in done(place, "rebuild", "r", "--no-verify")


@pytest.mark.usefixtures("sessions")
def test_a_rebuild_into_another_database_leaves_the_replica_alone(place: Path) -> None:
    change(place / "replica.db", "UPDATE orders SET note = 'wrong'")
    assert "3 rows equal" in done(place, "rebuild", "r", "--into", f"sqlite:///{place}/other.db")
    assert rows(place / "other.db", "SELECT note FROM orders ORDER BY id") == [("0",), ("1",), ("2",)]
    assert rows(place / "replica.db", "SELECT DISTINCT note FROM orders") == [("wrong",)]
    same = rowcast("rebuild", "r", "--into", f"sqlite:///{place}/replica.db", cwd=place)
    assert (same.returncode, "names the database of replica 'r' itself" in same.stderr) == (2, True)


def test_topics_without_their_beginning_need_a_snapshot(
    place: Path, sessions: sessionmaker[Session], kafka: Broker, source_name: str
) -> None:
    with sessions.begin() as session:
        session.get_one(Order, 0).note = "changed"
        session.delete(session.get_one(Order, 1))
    done(place, "relay", "--once")
    delete_first_records(kafka, f"{source_name}.main.orders", 4)
    refused = rowcast("rebuild", "r", cwd=place)
    assert refused.returncode == 2
    assert "begins at offset 4: Kafka has deleted earlier records of table main.orders" in refused.stderr
    assert "rowcast rebuild r --snapshot" in refused.stderr
    with running(load(place / "rowcast.toml")):
        assert "2 rows equal" in done(place, "rebuild", "r", "--snapshot")
    assert rows(place / "replica.db", "SELECT id, note FROM orders ORDER BY id") == [(0, "changed"), (2, "2")]
    assert rows(place / "replica.db", "SELECT first_lsn > 1 FROM rowcast_replica") == [(1,)]


@pytest.mark.usefixtures("sessions")
def test_a_copy_at_a_point_in_time_needs_another_database(place: Path, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.delete(session.get_one(Order, 1))
    done(place, "relay", "--once")
    refused = rowcast("rebuild", "r", "--until", "1h", cwd=place)
    assert (refused.returncode, "--until needs --into with an empty database" in refused.stderr) == (2, True)
    other = f"sqlite:///{place}/other.db"
    assert " as of transaction " in done(place, "rebuild", "r", "--until", "lsn:5", "--into", other)
    assert rows(place / "other.db", "SELECT id FROM orders ORDER BY id") == [(0,), (1,), (2,)]


@pytest.mark.usefixtures("sessions")
def test_one_table_is_rebuilt_and_compared(place: Path) -> None:
    replica = place / "replica.db"
    change(replica, "UPDATE orders SET note = 'wrong'")
    assert "records, 3 rows equal" in done(place, "rebuild", "r", "--tables", "orders,main.o*")
    assert rows(replica, "SELECT note FROM orders ORDER BY id") == [("0",), ("1",), ("2",)]
    refused = rowcast("rebuild", "r", "--tables", "orders", "--into", f"sqlite:///{place}/other.db", cwd=place)
    assert (refused.returncode, "--into excludes" in refused.stderr) == (2, True)


def test_a_table_whose_topic_has_lost_its_beginning_is_rebuilt_from_a_snapshot(
    place: Path, sessions: sessionmaker[Session], kafka: Broker, source_name: str
) -> None:
    with sessions.begin() as session:
        session.get_one(Order, 0).note = "changed"
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    change(place / "replica.db", "UPDATE orders SET note = 'wrong'")
    delete_first_records(kafka, f"{source_name}.main.orders", 4)
    refused = rowcast("rebuild", "r", "--tables", "orders", cwd=place)
    assert (refused.returncode, "rowcast rebuild r --tables orders --snapshot" in refused.stderr) == (2, True)
    with running(load(place / "rowcast.toml")):
        assert "3 rows equal" in done(place, "rebuild", "r", "--tables", "orders", "--snapshot")
    assert rows(place / "replica.db", "SELECT note FROM orders ORDER BY id") == [("changed",), ("1",), ("2",)]
    # Only the rebuilt table leaves out what came before.
    assert rows(place / "replica.db", "SELECT first_lsn FROM rowcast_replica") == [(0,)]
    assert rows(place / "replica.db", "SELECT first_lsn > 1 FROM rowcast_table") == [(1,)]
