"""An observer reports each state that a consistent replica must not have, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from chaos import bank
from chaos.databases import SQLiteDatabase
from chaos.observer import Observer


@pytest.fixture(scope="module")
def bank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the bank after some transfers and settlements, as a consistent replica has it."""
    path = tmp_path_factory.mktemp("bank") / "bank.db"
    engine = _lasting_engine(path)
    for table in bank.TABLES:
        table.create(engine)
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        bank.fill(session, writers=2)
    for number in (1, 2):
        writer = bank.Writer(sessions, number, seed=number)
        for _ in range(bank.KEPT + 61):
            writer.step()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE rowcast_replica (source TEXT, state TEXT, reason TEXT)")
        connection.exec_driver_sql(f"INSERT INTO rowcast_replica VALUES ('{bank.SOURCE}', 'consistent', NULL)")
    engine.dispose()
    return path


@pytest.fixture
def replica(bank_file: Path, tmp_path: Path) -> SQLiteDatabase:
    return SQLiteDatabase(f"sqlite:///{shutil.copy(bank_file, tmp_path / 'bank.db')}")


def _lasting_engine(path: Path) -> sa.Engine:
    """Return an engine with one connection, which enforces foreign keys and never waits for the disk."""
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.StaticPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
    return engine


def _step(path: Path) -> None:
    engine = _lasting_engine(path)
    bank.Writer(sessionmaker(engine), 1, seed=3).step()
    engine.dispose()


def _violations(database: SQLiteDatabase, between: Callable[[], object] = lambda: None) -> list[str]:
    observer = Observer("replica", database)
    observer.look()
    between()
    observer.look()
    return [violation.what for violation in observer.violations]


def test_the_states_of_the_bank_are_no_violation(replica: SQLiteDatabase, tmp_path: Path) -> None:
    assert _violations(replica, lambda: _step(tmp_path / "bank.db")) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("UPDATE account SET balance = balance + 1 WHERE id = 3", "the balances are 12001 together"),
        ("UPDATE account SET balance = balance + (CASE id WHEN 3 THEN 1 ELSE -1 END) WHERE id IN (3, 4)", "account 3"),
        ("DELETE FROM account WHERE id = 5", "11 accounts for 12"),
        ("DELETE FROM transfer WHERE writer_id = 2 AND number = 80", "receipts without a transfer"),
        ("DELETE FROM receipt WHERE writer_id = 2 AND number = 80", "transfers without a receipt"),
        ("UPDATE writer SET settled = settled - 50 WHERE id = 1", "writer 1 has 210 transfers for 260"),
        ("DELETE FROM writer WHERE id = 1", "transfers without a writer"),
    ],
)
def test_a_wrong_row_is_a_violation(replica: SQLiteDatabase, planted: str, found: str) -> None:
    assert any(found in what for what in _violations(replica, lambda: replica.execute(planted)))


def test_an_older_state_is_a_violation(replica: SQLiteDatabase, tmp_path: Path) -> None:
    older = (tmp_path / "bank.db").read_bytes()
    _step(tmp_path / "bank.db")
    assert _violations(replica, lambda: (tmp_path / "bank.db").write_bytes(older)) == [
        "went back from transfer 261 of writer 1 to 260"
    ]


@pytest.mark.parametrize("state", ["loading", "suspect"])
def test_a_replica_that_does_not_call_itself_consistent_may_be_wrong(replica: SQLiteDatabase, state: str) -> None:
    replica.execute(f"UPDATE rowcast_replica SET state = '{state}'", "DELETE FROM account WHERE id = 5")
    assert _violations(replica) == []


def test_a_rebuilt_replica_begins_again(replica: SQLiteDatabase) -> None:
    observer = Observer("replica", replica)
    observer.look()
    replica.execute("DROP TABLE rowcast_replica", "DELETE FROM transfer", "DELETE FROM receipt")
    observer.look()
    assert observer.violations == []
    assert observer.reads == {"consistent": 1, "none": 1}
