"""Keep outbox rows below the length that an engine allows, and refuse a row that is longer by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from rowcast.producer.capture.drain import row_sizes
from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.shared.errors import CaptureError

LIMIT = 1_048_576
"""The length of a text in these tests, in bytes. On PostgreSQL, from which on rows are split."""

MODES = ("", "STRICT_ALL_TABLES")
LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


class Library:
    """Hold documents of any length, in a database that allows only short texts."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.metadata = sa.MetaData()
        columns: list[sa.Column[Any]] = [
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("text", LONG),
            sa.Column("data", BYTES),
        ]
        self.doc = sa.Table("doc", self.metadata, *columns, info={"rowcast": settings} if settings else {})
        sa.Table("page", self.metadata, sa.Column("id", sa.Integer, primary_key=True),
                 sa.Column("doc_id", sa.ForeignKey("doc.id", ondelete="CASCADE")))  # fmt: skip
        self.plain = sa.create_engine(url)
        self.metadata.create_all(self.plain)
        self.capture = Capture(self.metadata, source="library")
        self.capture.create_outbox(self.plain)
        self.outbox = self.metadata.tables["rowcast_outbox"]

    def insert(self, connection: sa.Connection, *texts: str, first: int = 1) -> None:
        for number, text in enumerate(texts, first):
            connection.execute(sa.insert(self.doc), {"id": number, "text": text})

    def take(self) -> list[tuple[str, int, int]]:
        """Empty the outbox. Return the operation, the key and the length of the text of each change.

        No outbox row is much longer than the limit.
        """
        changes = []
        with self.plain.begin() as connection:
            for text in connection.scalars(sa.select(self.outbox.c.changes).order_by(self.outbox.c.id)):
                assert len(text) <= 2 * LIMIT
                for head, key, after, _ in ChangeSplitter().split(text):
                    image = orjson.loads(after) if after else {}
                    changes.append(
                        (head.op, orjson.loads(key)["id"], len(image.get("text") or image.get("data") or ""))
                    )
            connection.execute(sa.delete(self.outbox))
        return changes

    def rows_of_outbox(self) -> list[tuple[str, bool | None]]:
        with self.plain.connect() as connection:
            query = sa.select(self.outbox.c.tx, self.outbox.c.complete).order_by(self.outbox.c.id)
            return [(tx, complete) for tx, complete in connection.execute(query)]

    def stored(self) -> list[tuple[int, int]]:
        with self.plain.connect() as connection:
            query = sa.select(self.doc.c.id, sa.func.length(self.doc.c.text)).order_by(self.doc.c.id)
            return [(id_, length) for id_, length in connection.execute(query)]


def repeated(name: str, column: str, text: str, times: int) -> Any:
    """Return a long value. MariaDB and MySQL make it themselves, because a driver would send it with escapes."""
    if name in ("mariadb", "mysql"):
        return sa.func.repeat(text, times)
    return text.encode() * times if column == "data" else text * times


Open = Callable[..., tuple[Library, sa.Engine]]


@pytest.fixture
def open_library(new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Return a function from an engine's name and an SQL mode to a library and an engine with the capture."""
    opened: list[tuple[Library, sa.Engine]] = []
    before: list[int] = []

    def open_(name: str, mode: str | None = None, **settings: Any) -> tuple[Library, sa.Engine]:
        url = new_database(name)
        library = Library(url, **settings)
        if name in ("mariadb", "mysql"):
            with library.plain.connect() as connection:
                before.append(connection.scalar(sa.text("SELECT @@max_allowed_packet")) or 0)
                connection.execute(sa.text(f"SET GLOBAL max_allowed_packet = {LIMIT}"))
        monkeypatch.setattr(row_sizes, "MAX_BYTES", LIMIT)
        monkeypatch.setattr(row_sizes, "_MEASURE_FROM", 20)
        engine = sa.create_engine(
            url, connect_args={} if mode is None else {"init_command": f"SET sql_mode = '{mode}'"}
        )
        if name == "sqlite":
            limit = sqlite3.SQLITE_LIMIT_LENGTH
            event.listen(engine, "connect", lambda connection, _: connection.setlimit(limit, LIMIT))
        library.capture.install(engine)
        opened.append((library, engine))
        return opened[-1]

    yield open_
    for library, engine in opened:
        engine.dispose()
        if before:
            with library.plain.connect() as connection:
                connection.execute(sa.text(f"SET GLOBAL max_allowed_packet = {before[0]}"))
        library.plain.dispose()


ENGINES = [("postgresql", None), ("sqlite", None), *(("mariadb", mode) for mode in MODES), ("mysql", MODES[0])]
each_engine = pytest.mark.parametrize(("name", "mode"), ENGINES)
each_limited_engine = pytest.mark.parametrize(("name", "mode"), [e for e in ENGINES if e[0] != "postgresql"])


@pytest.mark.shared_dialect
@each_engine
def test_many_long_rows_become_several_outbox_rows_of_one_transaction(
    open_library: Open, name: str, mode: str | None
) -> None:
    library, engine = open_library(name, mode)
    with engine.begin() as connection:
        library.insert(connection, *["x" * 60_000] * 60)
    rows = library.rows_of_outbox()
    assert len(rows) >= 4
    assert len({tx for tx, _ in rows}) == 1
    assert [complete for _, complete in rows] == [None] * (len(rows) - 1) + [True]
    assert library.take() == [("c", n, 60_000) for n in range(1, 61)]
    with engine.begin() as connection:
        connection.execute(sa.update(library.doc).values(text=library.doc.c.text + "y"))
    assert library.take() == [("u", n, 60_001) for n in range(1, 61)]


def test_many_short_rows_need_no_measure(open_library: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    library, engine = open_library("postgresql")
    with engine.begin() as connection:
        library.insert(connection, *["short"] * 60)
        monkeypatch.setattr(row_sizes.RowSizes, "are_too_large", None)
    assert len(library.rows_of_outbox()) == 1
    assert library.take() == [("c", n, 5) for n in range(1, 61)]


def test_a_row_of_medium_length_among_many_is_measured(open_library: Open) -> None:
    library, engine = open_library("postgresql")
    with engine.begin() as connection:
        library.insert(connection, *["short"] * 59, "x" * 2_000)
    assert len(library.rows_of_outbox()) == 1
    assert library.take() == [*(("c", n, 5) for n in range(1, 60)), ("c", 60, 2_000)]


@each_limited_engine
def test_a_few_long_rows_are_split_too(open_library: Open, name: str, mode: str | None) -> None:
    library, engine = open_library(name, mode)
    with engine.begin() as connection:
        library.insert(connection, *["x" * 400_000] * 4)
    assert library.take() == [("c", n, 400_000) for n in range(1, 5)]


@pytest.mark.shared_dialect
@each_engine
def test_a_half_of_long_rows_is_split_again(open_library: Open, name: str, mode: str | None) -> None:
    """PostgreSQL measures the halves of 24 rows, although so few rows are not measured otherwise."""
    library, engine = open_library(name, mode)
    with engine.begin() as connection:
        library.insert(connection, *["x" * 400_000] * 24)
    assert library.take() == [("c", n, 400_000) for n in range(1, 25)]


@pytest.mark.shared_dialect
@each_limited_engine
@pytest.mark.parametrize(
    "value",
    [{"text": ('"', 900_000)}, {"data": ("x", 900_000)}, {"text": ("x", LIMIT - 60_000), "data": ("x", 50_000)}],
    ids=["escaped", "base64", "together"],
)
def test_a_row_that_is_too_long_by_itself_is_refused_before_the_commit(
    open_library: Open, name: str, mode: str | None, value: dict[str, tuple[str, int]]
) -> None:
    library, engine = open_library(name, mode)
    statement = sa.insert(library.doc).values(id=99, **{c: repeated(name, c, *times) for c, times in value.items()})
    schema = {"sqlite": "main"}.get(name, engine.url.database)
    for others in (0, 1, 40):
        with engine.connect() as connection:
            library.insert(connection, *["short"] * others)
            connection.execute(statement)
            with pytest.raises(CaptureError, match=rf"the row \(id=99\) of {schema}.doc is longer .*leave the column"):
                connection.commit()
    assert library.stored() == []
    assert library.take() == []


@pytest.mark.shared_dialect
@each_limited_engine
def test_a_long_row_that_may_be_gone_is_not_published_as_deleted(
    open_library: Open, name: str, mode: str | None
) -> None:
    library, engine = open_library(name, mode)
    with library.plain.begin() as connection:
        quotes = repeated(name, "text", '"', 600_000)
        connection.execute(sa.insert(library.doc).values(id=1, text=quotes))
        library.insert(connection, "x", first=2)
    with engine.connect() as connection:
        connection.execute(sa.delete(library.doc), execution_options={"rowcast": {library.doc: [1, 2]}})
        connection.rollback()
        # The named rows may be gone, for all that the capture knows.
        touch = sa.text("UPDATE doc SET data = NULL WHERE id IN (1, 2)")
        connection.execute(touch, execution_options={"rowcast": {library.doc: [1, 2]}})
        with pytest.raises(CaptureError, match=r"the row \(id=1\) of .*doc is longer"):
            connection.commit()
    assert library.take() == []


@pytest.mark.shared_dialect
@each_limited_engine
def test_filtered_rows_and_rows_that_are_gone_write_nothing(open_library: Open, name: str, mode: str | None) -> None:
    library, engine = open_library(name, mode, where="id > 100")
    with engine.begin() as connection:
        library.insert(connection, *["x"] * 3)
    with engine.begin() as connection:
        library.insert(connection, *["x" * 400_000] * 4, first=200)
        connection.execute(sa.delete(library.doc).where(library.doc.c.id == 201))
    assert library.take() == [("c", n, 400_000) for n in (200, 202, 203)]


@pytest.mark.shared_dialect
@each_engine
def test_long_before_images_are_split(open_library: Open, name: str, mode: str | None, monkeypatch: Any) -> None:
    monkeypatch.setattr(row_sizes, "_MAX_BYTES_SENT", LIMIT // 2)
    library, engine = open_library(name, mode, before=True)
    with library.plain.begin() as connection:
        library.insert(connection, *["x" * 200_000] * 12)
    with engine.begin() as connection:
        connection.execute(sa.update(library.doc).values(text=library.doc.c.text + "y"))
    assert library.take() == [("u", n, 200_001) for n in range(1, 13)]


def test_an_update_of_many_long_rows_is_split(open_library: Open) -> None:
    """An UPDATE of many rows writes its own outbox rows, unless some of its rows are long."""
    library, engine = open_library("postgresql")
    with engine.begin() as connection:
        library.insert(connection, "first")
    with library.plain.begin() as connection:
        connection.execute(sa.insert(library.doc), [{"id": n, "text": "x" * 400} for n in range(2, 1_001)])
    library.take()
    update = sa.update(library.doc).where(library.doc.c.id > 1).values(text=library.doc.c.text + "y")
    with engine.begin() as connection:
        connection.execute(update)
    assert [complete for _, complete in library.rows_of_outbox()] == [None]
    assert sorted(library.take()) == [("u", n, 401) for n in range(2, 1_001)]
    with engine.begin() as connection:
        connection.execute(update.values(text=library.doc.c.text + "y" * 3_600))
    assert len(library.rows_of_outbox()) >= 4
    assert sorted(library.take()) == [("u", n, 4_001) for n in range(2, 1_001)]
