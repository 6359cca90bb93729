"""Batches cover every row once, go on after a kill, and wait while replicas or the outbox are behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, sessionmaker

from fixtures.databases import NewDatabase
from rowcast.producer import BatchProgress, Capture, async_batches, batches
from rowcast.producer.batching import batches as module
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.errors import ConfigurationError, RetriableError


class Base(DeclarativeBase):
    pass


class Word(Base):
    __tablename__ = "word"
    lang: Mapped[str] = mapped_column(sa.String(8), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    done: Mapped[int] = mapped_column(default=0)
    uses: Mapped[list[Use]] = relationship()


class Use(Base):
    __tablename__ = "use_of_word"
    id: Mapped[int] = mapped_column(primary_key=True)
    lang: Mapped[str] = mapped_column(sa.String(8))
    n: Mapped[int]
    __table_args__ = (sa.ForeignKeyConstraint(["lang", "n"], ["word.lang", "word.n"]),)


KEYS = [(lang, n) for lang in ("de", "en", "fr") for n in range(20)]
POSITIONS = outbox_tables(sa.MetaData()).batch


@pytest.fixture
def sessions(primary_url: str) -> Iterator[sessionmaker[Session]]:
    """Return sessions on each engine."""
    yield from sessions_of(primary_url)


@pytest.fixture
def lite_url(new_database: NewDatabase) -> str:
    return new_database("sqlite")


@pytest.fixture
def lite(lite_url: str) -> Iterator[sessionmaker[Session]]:
    """Return sessions on SQLite, for what is alike on each engine."""
    yield from sessions_of(lite_url)


def sessions_of(url: str) -> Generator[sessionmaker[Session]]:
    engine = sa.create_engine(url)
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source="shop").install(sessions)
    Base.metadata.create_all(engine)
    with sessions.begin() as session:
        session.add_all([Word(lang=lang, n=n) for lang, n in KEYS])
    yield sessions
    engine.dispose()


def done(sessions: sessionmaker[Session]) -> list[int]:
    with sessions() as session:
        return list(session.scalars(sa.select(Word.done).order_by(Word.lang, Word.n)))


@pytest.mark.shared_dialect
def test_each_row_is_processed_once_and_each_batch_is_a_transaction(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        sizes = []
        for words in batches(session, sa.select(Word).where(Word.n != 3), 7):
            sizes.append(len(words))
            for word in words:
                word.done += 1
        assert sizes == [7] * 8 + [1]
        transactions = session.scalar(sa.text("SELECT count(DISTINCT tx) FROM rowcast_outbox"))
    assert done(sessions) == [int(n != 3) for _, n in KEYS]
    assert transactions == 1 + len(sizes)


def test_keys_that_engines_sort_in_their_own_order(new_database: NewDatabase) -> None:
    """MariaDB sorts an ENUM by number and compares it as text, so pages by text would skip rows."""
    kinds = ["zebra", "ant", "mole"]
    table = sa.Table(
        "animal", sa.MetaData(),
        sa.Column("kind", sa.Enum(*kinds), primary_key=True), sa.Column("n", sa.Integer, primary_key=True),
    )  # fmt: skip
    engine = sa.create_engine(new_database("mariadb"))
    table.metadata.create_all(engine)
    with Session(engine) as session:
        session.execute(sa.insert(table), [{"kind": kind, "n": n} for kind in kinds for n in range(4)])
        session.commit()
        rows = [tuple(row) for page in batches(session, sa.select(table), 3) for row in page]
    engine.dispose()
    assert rows == [(kind, n) for kind in kinds for n in range(4)]


@pytest.mark.parametrize("name", ["postgresql", "mysql", "sqlite"])
def test_a_page_reads_a_range_of_the_index(new_database: NewDatabase, name: str) -> None:
    """A page that began with the first row of its tenant would make a large tenant take quadratic time."""
    engine = sa.create_engine(new_database(name))
    Base.metadata.create_all(engine)
    statements: list[str] = []

    def explain(connection: sa.Connection, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if " LIMIT" in statement and "EXPLAIN" not in statement:
            prefix = {"sqlite": "EXPLAIN QUERY PLAN "}.get(name, "EXPLAIN ")
            statements.append(str(connection.exec_driver_sql(prefix + statement, parameters).all()))  # type: ignore[arg-type]

    with Session(engine) as session:
        session.add_all([Word(lang="de", n=n) for n in range(2_000)])
        session.commit()
        session.execute(sa.text("ANALYZE TABLE word" if name == "mysql" else "ANALYZE word"))
        if name == "postgresql":
            session.execute(sa.text("SET enable_seqscan = off"))
        sa.event.listen(engine, "before_cursor_execute", explain)
        run = batches(session, sa.select(Word.lang, Word.n), 10)
        next(run)
        next(run)
        next(run)
    engine.dispose()
    plan = statements[-1]
    assert {
        "postgresql": "Index Cond: (ROW(lang, n) > ROW(",
        "mysql": "range scan",
        "sqlite": "((lang,n)>(?,?))",
    }[name] in plan, plan


def test_batches_of_tables_columns_and_joined_collections(lite: sessionmaker[Session]) -> None:
    with lite.begin() as session:
        session.add_all([Use(id=n, lang="de", n=n % 3) for n in range(9)])
    with lite() as session:
        table = Word.__table__
        rows = [row for page in batches(session, sa.select(table.c.n, table.c.lang), 11) for row in page]
        assert [(row.lang, row.n) for row in rows] == KEYS
        numbers = [n for page in batches(session, sa.select(Word.n).where(Word.lang == "en"), 6) for n in page]
        assert numbers == list(range(20))
        words = [w for page in batches(session, sa.select(Word).options(joinedload(Word.uses)), 2) for w in page]
        assert [len(word.uses) for word in words[:4]] == [3, 3, 3, 0]
        assert len(words) == len(KEYS)


def test_deletes_in_batches_skip_no_row(lite: sessionmaker[Session]) -> None:
    with lite() as session:
        for words in batches(session, sa.select(Word).where(Word.lang == "en"), 7):
            for word in words:
                session.delete(word)
    assert len(done(lite)) == 40


@pytest.mark.shared_dialect
def test_a_named_run_goes_on_after_any_failure_and_processes_each_row_once(sessions: sessionmaker[Session]) -> None:
    rng = random.Random(1)
    failures = 0
    while True:
        try:
            with sessions() as session:
                for words in batches(session, sa.select(Word), 9, name="count"):
                    for word in words:
                        word.done += 1
                    session.flush()
                    if rng.random() < 0.4:
                        raise InterruptedError
            break
        except InterruptedError:
            failures += 1
    assert failures
    assert set(done(sessions)) == {1}
    with sessions() as session:
        # The name is free again.
        assert session.execute(sa.select(POSITIONS)).all() == []


def test_a_second_process_under_the_same_name_is_refused(new_database: NewDatabase) -> None:
    with closing(sessions_of(new_database("postgresql"))) as made:
        sessions = next(made)
        with sessions() as one, sessions() as other:
            first, second = (batches(session, sa.select(Word), 9, name="count") for session in (one, other))
            next(first)
            next(second)
            next(first)
            with pytest.raises(RetriableError, match="another process runs the batches named 'count'"):
                next(second)
            assert sum(len(words) for words in first) == len(KEYS) - 18


def test_progress_counts_the_rows_of_earlier_runs(lite: sessionmaker[Session]) -> None:
    seen: list[BatchProgress] = []
    with lite() as session:
        run = batches(session, sa.select(Word), 25, name="count")
        next(run)
        next(run)
    with lite() as session:
        for _ in batches(session, sa.select(Word), 25, name="count", on_progress=seen.append):
            pass
    assert [(p.batches, p.rows) for p in seen] == [(1, 50), (2, 60)]


def test_a_batch_waits_while_the_outbox_is_long_or_a_function_says_so(
    lite: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def publish(seconds: float) -> None:
        waits.append(seconds)
        with lite.begin() as session:
            session.execute(sa.text("DELETE FROM rowcast_outbox"))

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=publish, monotonic=time.monotonic))
    seen: list[bool] = []
    with lite() as session:
        select = sa.select(Word)
        for words in batches(session, select, 30, pause_when_behind=0, on_progress=lambda p: seen.append(p.paused)):
            words[0].done = 1
    assert len(waits) == 3
    assert seen == [True, False, False] * 2 + [True, False]
    answers = [True, True, False, False]
    with lite() as session:
        assert len(list(batches(session, select, 60, pause_when_behind=lambda: answers.pop(0)))) == 1
    assert answers == []


def test_what_the_session_held_before_the_first_batch_is_not_lost(lite: sessionmaker[Session]) -> None:
    with lite() as session:
        session.add(Word(lang="pl", n=0))
        assert sum(len(words) for words in batches(session, sa.select(Word), 30, pause_when_behind=1_000)) == 61
    assert len(done(lite)) == 61


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        (sa.select(Word).order_by(Word.n), "Remove order_by"),
        (sa.select(Word).limit(3).offset(1), "Remove limit, offset"),
        (sa.select(sa.func.count(Word.n)).group_by(Word.lang), "Remove group_by"),
        (sa.select(sa.table("log", sa.column("line"))), "log has none"),
    ],
)
def test_a_select_that_cannot_be_cut_is_refused(select: sa.Select[tuple[object]], reason: str) -> None:
    with Session() as session, pytest.raises(ConfigurationError, match=reason):
        next(batches(session, select, 10))


def test_an_async_session_has_the_same_batches(lite: sessionmaker[Session], lite_url: str) -> None:
    async def count() -> list[int]:
        engine = create_async_engine(sa.make_url(lite_url).set(drivername="sqlite+aiosqlite"))
        async with AsyncSession(engine) as session:
            found = [len(words) async for words in async_batches(session, sa.select(Word), 25, name="count")]
        await engine.dispose()
        return found

    assert asyncio.run(count()) == [25, 25, 10]
