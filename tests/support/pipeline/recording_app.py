"""Run an application that records in each transaction the events to be published.

The record is committed together with the changes, or not at all.

The record takes its number last, while all changed rows are locked. For a single row the order of numbers is therefore
the order of commits.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Session, sessionmaker

from rowcast.producer import Capture
from support.pipeline.workload import RolledBackError, application_engine

KEYS = 40
"""The number of rows is small, because writers must often change the same row at the same time."""

_HUGE = 4_500
"""The number of changes in a huge transaction, more than fit into an outbox row on any engine."""

Row = dict[str, Any]


class Tables:
    """Define the application's tables.

    ``hot``: rows with many changes. ``many``: rows written once, many rows in a transaction.
    """

    def __init__(self) -> None:
        self.metadata = sa.MetaData()
        self.hot = sa.Table(
            "hot",
            self.metadata,
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("stamp", sa.String(60), nullable=False),
        )
        self.many = sa.Table(
            "many",
            self.metadata,
            sa.Column("writer", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("stamp", sa.String(60), nullable=False),
        )
        self.record = sa.Table(
            "record",
            self.metadata,
            sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
            sa.Column("stamp", sa.String(60), nullable=False),
            sa.Column("tx", sa.String(64)),
            sa.Column("changes", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
            info={"rowcast": False},
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """Describe a committed transaction.

    ``tx``: the transaction id of the database, or None if the events have a different id.
    """

    number: int
    stamp: str
    tx: str | None
    changes: frozenset[tuple[str, str, str, bytes]]
    """Table, key, operation and row. Key and row are JSON."""


class RecordingTransaction:
    """Change rows and note the changes that must be published. Every change writes a new stamp."""

    def __init__(self, session: Session, tables: Tables, stamp: str) -> None:
        self.session = session
        self.tables = tables
        self._stamp = stamp
        self._stamps = 0
        self._rows: dict[tuple[str, str], tuple[bool, Row | None]] = {}

    def next_stamp(self) -> str:
        self._stamps += 1
        return f"{self._stamp}-{self._stamps}"

    def existing(self, ids: list[int]) -> set[int]:
        """Lock the existing rows among the ids, and return their ids."""
        found = self.session.scalars(
            sa.select(self.tables.hot.c.id)
            .where(self.tables.hot.c.id.in_(ids))
            .order_by(self.tables.hot.c.id)
            .with_for_update()
        )
        return set(found)

    def insert(self, table: sa.Table, keys: list[Row]) -> None:
        rows = [{**key, "stamp": self.next_stamp()} for key in keys]
        self.session.execute(sa.insert(table), rows)
        for key, row in zip(keys, rows, strict=True):
            self._note(table, key, row, existed=False)

    def update(self, id_: int) -> None:
        row = {"id": id_, "stamp": self.next_stamp()}
        self.session.execute(sa.update(self.tables.hot).where(self.tables.hot.c.id == id_).values(stamp=row["stamp"]))
        self._note(self.tables.hot, {"id": id_}, row, existed=True)

    def delete(self, id_: int) -> None:
        self.session.execute(sa.delete(self.tables.hot).where(self.tables.hot.c.id == id_))
        self._note(self.tables.hot, {"id": id_}, None, existed=True)

    def move(self, id_: int, to: int) -> None:
        """Change the key of a row to a key that no row has."""
        row = {"id": to, "stamp": self.next_stamp()}
        self.session.execute(sa.update(self.tables.hot).where(self.tables.hot.c.id == id_).values(**row))
        self._note(self.tables.hot, {"id": id_}, None, existed=True)
        self._note(self.tables.hot, {"id": to}, row, existed=False)

    @contextmanager
    def savepoint_rolled_back(self) -> Iterator[None]:
        """Roll the changes of the block back, and forget their notes."""
        before = dict(self._rows)
        with self.session.begin_nested() as savepoint:
            yield
            self.session.flush()
            savepoint.rollback()
        self._rows = before

    def record(self) -> None:
        """Write the record. No change may follow in the transaction."""
        changes: list[tuple[str, str, str, dict[str, Any] | None]] = []
        for (table, key), (existed, row) in self._rows.items():
            if row is not None:
                changes.append((table, key, "u" if existed else "c", row))
            elif existed:
                changes.append((table, key, "d", None))
        tx = (
            sa.cast(sa.func.txid_current(), sa.String) if self.session.get_bind().dialect.name == "postgresql" else None
        )
        values = {"stamp": self._stamp, "tx": tx, "changes": orjson.dumps(changes).decode()}
        self.session.execute(sa.insert(self.tables.record).values(values))

    def _note(self, table: sa.Table, key: Row, row: Row | None, *, existed: bool) -> None:
        place = str(table.name), orjson.dumps(key).decode()
        # The first change of a row in the transaction says whether the row existed before the transaction.
        existed, _ = self._rows.get(place, (existed, None))
        self._rows[place] = existed, row


class Load:
    """Run several writers, and read the committed rows and records."""

    def __init__(self, url: str, source: str, seed: str) -> None:
        self.rolled_back = 0
        self.committed = 0
        self._seed = seed
        self._engine = application_engine(url)
        self._tables = Tables()
        self._capture = Capture(self._tables.metadata, source=source)
        self._sessions = sessionmaker(self._engine)
        self._capture.install(self._sessions)
        self._tables.metadata.create_all(self._engine)
        self._error: BaseException | None = None
        self._begin()

    def _begin(self) -> None:
        """Insert the first rows before the writers start.

        If two first transactions ran at the same time, each might take the rows of the second for rows from before the
        capture. A relay would then snapshot these rows.
        """
        stamp = "0-0"
        with self._capture.context(stamp=stamp), self._sessions.begin() as session:
            transaction = RecordingTransaction(session, self._tables, stamp)
            transaction.insert(self._tables.hot, [{"id": id_} for id_ in range(KEYS)])
            self._write_many(transaction, 0, 0, 0, 1)
            transaction.record()

    @contextmanager
    def at_work(self, writers: int = 3) -> Iterator[None]:
        """Run the writers until the block ends. Raises the error of a writer."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._write, args=(n, stop), daemon=True) for n in range(1, writers + 1)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.must_go_on()

    def must_go_on(self) -> None:
        """Raise the error of a writer, because no fault of a relay or a broker may reach a writer."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._capture.uninstall(self._sessions)
        self._engine.dispose()

    def recorded(self) -> list[Recorded]:
        """Return the committed transactions with changes, in order of their numbers."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(self._tables.record).order_by(self._tables.record.c.number)).all()
        return [
            Recorded(number, stamp, tx, frozenset((t, k, op, orjson.dumps(row)) for t, k, op, row in changes))
            for number, stamp, tx, changes in ((r.number, r.stamp, r.tx, orjson.loads(r.changes)) for r in rows)
            if changes
        ]

    def rows(self) -> dict[tuple[str, str], bytes]:
        """Return the rows of the tables, by table and key."""
        found: dict[tuple[str, str], bytes] = {}
        with self._engine.connect() as connection:
            for table in (self._tables.hot, self._tables.many):
                key = [str(c.name) for c in table.primary_key.columns]
                for row in connection.execute(sa.select(table)).mappings():
                    found[str(table.name), orjson.dumps({k: row[k] for k in key}).decode()] = orjson.dumps(
                        {str(c): v for c, v in row.items()}
                    )
        return found

    def _write(self, writer: int, stop: threading.Event) -> None:
        choose, number = random.Random(f"{self._seed} {writer}"), 0
        try:
            while not stop.is_set():
                number += 1
                self._step(choose, writer, number)
                # The pace is even, because the test reads everything that the writers publish.
                stop.wait(0.08)
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self._error = error

    def _step(self, choose: random.Random, writer: int, number: int) -> None:
        stamp = f"{writer}-{number}"
        try:
            with self._capture.context(stamp=stamp), self._sessions.begin() as session:
                transaction = RecordingTransaction(session, self._tables, stamp)
                self._change_rows(transaction, choose, writer, number)
                if choose.random() < 0.15:
                    with transaction.savepoint_rolled_back():
                        self._change_rows(transaction, choose, writer, number * 1_000_000)
                        self._write_many(transaction, writer, number, 0, 3)
                if choose.random() < 0.1:
                    self._write_several_outbox_rows(transaction, choose, writer, number)
                transaction.record()
                if choose.random() < 0.1:
                    raise RolledBackError
            self.committed += 1
        except (RolledBackError, exc.OperationalError, exc.IntegrityError):
            # The transaction was to be rolled back, or two writers were in conflict.
            self.rolled_back += 1

    def _change_rows(self, transaction: RecordingTransaction, choose: random.Random, writer: int, number: int) -> None:
        # The rows are changed in order of id, because the writers would otherwise wait for each other all the time.
        ids = sorted(choose.sample(range(KEYS), choose.randint(1, 5)))
        there = transaction.existing(ids)
        for id_ in ids:
            what = choose.random()
            if id_ not in there:
                transaction.insert(self._tables.hot, [{"id": id_}])
                if what < 0.1:
                    transaction.delete(id_)
            elif what < 0.15:
                transaction.delete(id_)
            elif what < 0.25:
                transaction.delete(id_)
                transaction.insert(self._tables.hot, [{"id": id_}])
            elif what < 0.35:
                new = (writer * 10**12 + number) * 10 + ids.index(id_) + KEYS
                transaction.move(id_, new)
            else:
                transaction.update(id_)

    def _write_several_outbox_rows(
        self, transaction: RecordingTransaction, choose: random.Random, writer: int, number: int
    ) -> None:
        what = choose.random()
        if what < 0.02:
            self._write_many(transaction, writer, number, 0, _HUGE)
            return
        for n in range(choose.randint(60, 150) if what < 0.08 else choose.randint(2, 6)):
            self._write_many(transaction, writer, number, n * 3, 3)
            self._capture.flush(transaction.session.connection())

    def _write_many(self, transaction: RecordingTransaction, writer: int, number: int, first: int, count: int) -> None:
        transaction.insert(
            self._tables.many, [{"writer": writer, "number": number * 10_000 + n} for n in range(first, first + count)]
        )
