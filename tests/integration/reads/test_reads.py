"""An application reads its own writes from a replica, and never an older state than it asked for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import pytest
import sqlalchemy as sa
from fastapi import Cookie, FastAPI, Response
from httpx import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from fixtures.databases import NewDatabase
from rowcast.consumer import ReadReplica, RoutingSession
from rowcast.consumer.replica.worker_tables import ROWCAST_DEAD_LETTER
from rowcast.producer import Capture
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.relay import running
from rowcast.shared.database import commit_tokens
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from servers import Broker
from support.worker_runs import running_worker, settings_for

NOTES = 10
SOON_S = 20.0


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]


class World:
    """An application with a primary and a replica. Relay and worker run only in the blocks that say so."""

    def __init__(self, kafka: Broker, source: str, primary_url: str, replica_url: str) -> None:
        self.settings = settings_for(source, kafka.bootstrap_servers, replica_url, primary_url)
        self.urls = (primary_url, replica_url)
        self.primary = open_engine(primary_url, "primary")
        self.copy = open_engine(replica_url, "replica")
        self.capture = Capture(Base.metadata, source=source)
        self.replica = ReadReplica(self.copy, primary=self.primary, source=source)
        self.sessions = sessionmaker(self.primary, class_=RoutingSession, replicas=[self.replica])
        self.capture.install(self.sessions)
        Base.metadata.create_all(self.primary)
        with self.sessions.begin() as session:
            session.add_all(Note(id=n, version=0) for n in range(NOTES))

    @contextmanager
    def relay(self) -> Iterator[None]:
        with running(self.settings, self.capture):
            yield

    @contextmanager
    def worker(self) -> Iterator[None]:
        with running_worker(self.settings):
            yield

    def commit(self, version: int, note: int = 0) -> str:
        """Change a note. Return the token."""
        with self.sessions() as session:
            session.execute(sa.update(Note).where(Note.id == note).values(version=version))
            session.commit()
            return self.capture.token(session)

    def version(self, engine: sa.Engine, note: int = 0) -> int | None:
        with Session(engine) as session:
            return session.scalar(sa.select(Note.version).where(Note.id == note))

    def close(self) -> None:
        self.primary.dispose()
        self.copy.dispose()


PAIRS = [("postgresql", "postgresql"), ("mariadb", "sqlite"), ("sqlite", "mysql")]


@pytest.fixture
def world(
    request: pytest.FixtureRequest, kafka: Broker, new_database: NewDatabase, source_name: str
) -> Iterator[World]:
    primary, replica = getattr(request, "param", PAIRS[0])
    world = World(kafka, source_name, new_database(primary), new_database(replica))
    yield world
    world.close()


def routed(world: World, *, token: str | None = None, max_age: float | None = None, wait: float = 0.0) -> int | None:
    """Return the version of the first note, as a new session reads it."""
    with world.sessions(token=token, max_age=max_age, wait=wait) as session:
        return session.scalar(sa.select(Note.version).where(Note.id == 0))


@pytest.mark.parametrize("world", PAIRS, indirect=True)
def test_reads_follow_the_commits_of_their_token(world: World) -> None:
    # Nobody has published anything, and the replica has no table.
    first = world.commit(1)
    assert not world.replica.has(first)
    assert routed(world) == routed(world, token=first) == 1
    with world.relay():
        with world.worker():
            assert world.replica.wait_for(first, SOON_S)
            assert world.version(world.copy) == 1
        # Without a worker, the replica stays where it is.
        second = world.commit(2)
        assert world.replica.has(first)
        assert not world.replica.wait_for(second, 0.3)
        assert routed(world, token=first) == routed(world) == 1
        assert routed(world, token=second, wait=0.1) == 2
        assert routed(world, max_age=60.0) == 2  # No proof is left of what the replica had.
        with world.worker():
            assert world.replica.wait_for(second, SOON_S)
            assert routed(world, token=second) == world.version(world.copy) == 2
    # The transaction of a token may be among the dead letters.
    letter = {c.name: 0 if isinstance(c.type, sa.Integer) else "x" for c in ROWCAST_DEAD_LETTER.columns}
    letter |= {"source": world.settings.source, "is_cause": True}
    with world.copy.begin() as connection:
        connection.execute(sa.insert(ROWCAST_DEAD_LETTER).values(letter))
    # Another process, because an answer of the replica counts for a second.
    assert not ReadReplica(world.copy, primary=world.primary, source=world.settings.source).has(second)
    assert routed(world) == 2
    with world.copy.begin() as connection:
        connection.execute(sa.delete(ROWCAST_DEAD_LETTER))
    # Without a relay, a commit has no lsn.
    third = world.commit(3)
    assert not world.replica.has(third)
    assert world.replica.has(second)
    assert routed(world, token=third) == 3


def test_no_replica_has_a_token_without_its_rows(world: World) -> None:
    """Let many writers commit at once, because their outbox ids become visible in another order than they grow."""
    wrong: list[tuple[int, int | None]] = []
    stop = threading.Event()

    def write(note: int) -> None:
        version = 0
        while not stop.is_set():
            version += 1
            token = world.commit(version, note)
            if world.replica.wait_for(token, SOON_S):
                seen = world.version(world.copy, note)
                if seen != version:
                    wrong.append((version, seen))
            else:
                wrong.append((version, None))

    with world.relay(), world.worker():
        assert world.replica.wait_for(world.commit(1), SOON_S)
        writers = [threading.Thread(target=write, args=(note,)) for note in range(1, 5)]
        for writer in writers:
            writer.start()
        time.sleep(2)
        stop.set()
        for writer in writers:
            writer.join()
    assert not wrong


def test_a_bound_on_the_age_sends_reads_to_the_primary_when_the_worker_is_gone(world: World) -> None:
    with world.relay():
        with world.worker():
            assert world.replica.wait_for(world.commit(1), SOON_S)
            assert world.replica.is_within(5.0)
            assert routed(world, max_age=5.0) == 1
        world.commit(2)
        assert routed(world, max_age=60.0) == 1  # The proof is a moment old.
        time.sleep(0.3)
        assert not world.replica.is_within(0.2)
        assert routed(world, max_age=0.2) == 2
        with world.worker():
            deadline = time.monotonic() + SOON_S
            while not world.replica.is_within(0.2):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert world.version(world.copy) == 2


def test_a_parked_transaction_prevents_the_proof_of_an_age_for_a_while_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_tokens, "_PARKED_BEFORE_MS", 100)
    with world.relay(), world.worker():
        assert world.replica.wait_for(world.commit(1), SOON_S)
        parked = outbox_tables(sa.MetaData()).parked
        row = {"id": 10**6, "tx": "1", "ts_ms": 1, "changes": "x", "reason": "too large"}
        with world.primary.begin() as connection:
            connection.execute(sa.insert(parked).values(**row, parked_ms=time.time_ns() // 1_000_000))
        assert not world.replica.is_within(0.2)
        deadline = time.monotonic() + SOON_S
        while not world.replica.is_within(0.2):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_session_reads_its_own_commits_on_whichever_database(world: World) -> None:
    with ExitStack() as processes:
        processes.enter_context(world.relay())
        processes.enter_context(world.worker())
        assert world.replica.wait_for(world.commit(0), SOON_S)
        binds = set()
        with world.sessions() as session:
            for version in range(1, 30):
                session.get_one(Note, 0).version = version
                session.commit()
                if version % 3 == 0:
                    assert session.token is not None
                    world.replica.wait_for(session.token, SOON_S)
                assert session.scalar(sa.select(Note.version).where(Note.id == 0)) == version
                binds.add(session.get_bind(clause=sa.select(Note)))
                session.rollback()
        assert binds == {world.primary, world.copy}


def test_reads_of_an_application_with_asyncio(world: World) -> None:
    def engine_of(url: str) -> AsyncEngine:
        return create_async_engine(sa.make_url(url).set(drivername="postgresql+asyncpg"))

    async def read_own_write() -> tuple[int | None, int | None]:
        primary, copy = map(engine_of, world.urls)
        replica = ReadReplica(copy, primary=primary, source=world.settings.source)
        sessions = async_sessionmaker(primary, sync_session_class=RoutingSession, replicas=[replica], wait=SOON_S)
        world.capture.install(sessions)
        async with sessions() as session:
            await session.execute(sa.update(Note).where(Note.id == 0).values(version=7))
            await session.commit()
            token = await session.run_sync(world.capture.token)
            assert await replica.async_wait_for(token, SOON_S)
            # The session waits for the replica to have its own commit, and the event loop goes on meanwhile.
            await session.execute(sa.update(Note).where(Note.id == 0).values(version=8))
            await session.commit()
            read = await session.scalar(sa.select(Note.version).where(Note.id == 0))
            bind = session.sync_session.get_bind(clause=sa.select(Note))
        on_copy = 8 if bind is copy.sync_engine else None
        await primary.dispose()
        await copy.dispose()
        return read, on_copy

    with world.relay(), world.worker():
        assert world.replica.wait_for(world.commit(1), SOON_S)
        assert asyncio.run(read_own_write()) == (8, 8)


def test_a_web_application_shows_each_user_the_own_changes(world: World) -> None:
    app = FastAPI()

    @app.put("/version/{version}")
    def put(version: int, response: Response) -> None:
        with world.sessions() as session:
            session.get_one(Note, 0, with_for_update=True).version = version
            session.commit()
            response.set_cookie("seen", session.token or "", httponly=True)

    @app.get("/version")
    def get(seen: Annotated[str | None, Cookie()] = None) -> list[object]:
        with world.sessions(token=seen, wait=0.02) as session:
            read = session.scalar(sa.select(Note.version).where(Note.id == 0))
            return [read, session.get_bind(clause=sa.select(Note)) is world.copy]

    async def browse() -> set[bool]:
        places = set()
        async with AsyncClient(transport=ASGITransport(app), base_url="http://shop") as browser:
            for version in range(2, 40):
                (await browser.put(f"/version/{version}")).raise_for_status()
                seen, is_on_replica = (await browser.get("/version")).json()
                assert seen == version
                places.add(is_on_replica)
            assert world.replica.wait_for(browser.cookies["seen"], SOON_S)
            assert (await browser.get("/version")).json() == [39, True]
        return places

    with world.relay(), world.worker():
        assert world.replica.wait_for(world.commit(1), SOON_S)
        assert True in asyncio.run(browse())


def test_a_replica_that_cannot_be_used_is_logged_once_and_left_out(
    world: World, new_database: NewDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    gone = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/gone")
    other = ReadReplica(gone, primary=world.primary, source=world.settings.source)
    empty = ReadReplica(open_engine(new_database("sqlite"), "empty"), primary=world.primary, source="x")
    with caplog.at_level(logging.WARNING, "rowcast.reads"):
        for replica in (other, empty):
            for _ in range(3):
                with world.sessions(replicas=[replica]) as session:
                    assert session.scalar(sa.select(Note.version).where(Note.id == 0)) == 0
    # No worker has begun with the empty replica, which is no fault.
    (record,) = caplog.records
    assert "reads go to the primary" in record.message
    with world.sessions() as session:
        session.add(Note(id=99, version=1))
        session.flush()
        with pytest.raises(ConfigurationError, match=r"session\.commit\(\) before"):
            world.capture.token(session)
