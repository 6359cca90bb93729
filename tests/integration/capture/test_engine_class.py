"""Install the capture on the class Engine, for programs that make their own engines."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool, StaticPool

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import Capture, ConfigurationError
from rowcast.shared.database.engines import open_engine

ASYNC_DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}


class Program:
    """Stand for a program that somebody else wrote, with its own metadata."""

    def __init__(self) -> None:
        self.metadata = sa.MetaData()
        self.items = sa.Table(
            "items", self.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20))
        )
        self.capture = Capture(self.metadata, source="program", outbox_in_metadata=False, strict="raise")

    def prepare(self, url: str) -> None:
        """Create all tables, without a capture on the engine."""
        engine = sa.create_engine(url, poolclass=NullPool)
        self.metadata.create_all(engine)
        self.capture.create_outbox(engine)

    def insert(self, engine: Engine, name: str) -> None:
        with engine.begin() as connection:
            connection.execute(self.items.insert().values(name=name))


@pytest.fixture
def program() -> Iterator[Program]:
    program = Program()
    yield program
    program.capture.uninstall(Engine)


def captured(url: str) -> list[str]:
    """Return the outbox, read with an engine of rowcast, on which no capture is installed."""
    engine = open_engine(url, "primary", pooled=False)
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT changes FROM rowcast_outbox ORDER BY id")))


@pytest.mark.parametrize("name", ENGINES)
def test_engines_made_before_and_after_the_install_are_captured(
    program: Program, new_database: NewDatabase, name: str
) -> None:
    url = new_database(name)
    program.prepare(url)
    before = sa.create_engine(url)
    program.insert(before, "not captured")
    program.capture.install(Engine)
    program.capture.install(Engine)
    after = sa.create_engine(url, poolclass=NullPool)
    program.insert(before, "from the older")
    program.insert(after, "from the newer")
    with Session(after.execution_options(isolation_level="SERIALIZABLE")) as session:
        session.execute(program.items.insert().values(name="from a session"))
        session.commit()
    before.dispose()
    lines = captured(url)
    assert len(lines) == 3
    for text, line in zip(("from the older", "from the newer", "from a session"), lines, strict=True):
        assert text in line


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_behind_an_async_engine_is_captured(program: Program, new_database: NewDatabase, name: str) -> None:
    url = sa.make_url(new_database(name))

    async def run() -> None:
        engine = create_async_engine(url.set(drivername=ASYNC_DRIVERS[url.get_backend_name()]))
        async with engine.begin() as connection:
            await connection.run_sync(program.metadata.create_all)
            await connection.run_sync(program.capture.create_outbox)
        async with engine.begin() as connection:
            await connection.execute(program.items.insert().values(name="async"))
        await engine.dispose()

    program.capture.install(Engine)
    asyncio.run(run())
    assert len(captured(url.render_as_string(hide_password=False))) == 1


@pytest.mark.parametrize("urls", ["sqlite:*/wanted.db", lambda url: str(url.database).endswith("/wanted.db")])
def test_only_engines_with_a_matching_url_are_captured(program: Program, tmp_path: Path, urls: Any) -> None:
    program.capture.install(Engine, urls=urls)
    for name in ("wanted", "other"):
        url = f"sqlite:///{tmp_path / name}.db"
        program.prepare(url)
        program.insert(sa.create_engine(url, poolclass=NullPool), name)
        assert len(captured(url)) == (1 if name == "wanted" else 0)


def test_a_pattern_does_not_see_the_password(program: Program, tmp_path: Path) -> None:
    from rowcast.producer.capture.engine_class import url_matches

    url = sa.make_url("postgresql://me:secret@host/shop")
    assert url_matches(url, "postgresql://me:[*][*][*]@host/shop")
    assert not url_matches(url, "*secret*")


def test_after_an_uninstall_no_engine_is_captured(program: Program, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    program.prepare(url)
    engine = sa.create_engine(url)
    program.capture.install(Engine)
    program.insert(engine, "captured")
    program.capture.uninstall(Engine)
    program.insert(engine, "plain")
    program.insert(sa.create_engine(url), "plain")
    assert len(captured(url)) == 1


def test_no_second_connection_is_opened(program: Program) -> None:
    """A second connection to an SQLite database in memory would be another database, or the same transaction."""
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    opened: list[Any] = []
    sa.event.listen(engine, "checkout", lambda *connection: opened.append(connection))
    program.capture.install(Engine)
    with engine.begin() as connection:
        program.metadata.create_all(connection)
        program.capture.create_outbox(connection)
        connection.execute(program.items.insert().values(name="x"))
    assert len(opened) == 1
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rowcast_outbox").scalar() == 1


def test_the_capture_keeps_no_engine_that_the_program_has_dropped(program: Program, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    program.prepare(url)
    program.capture.install(Engine)
    engine = sa.create_engine(url, poolclass=NullPool)
    program.insert(engine, "x")
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_engines_of_rowcast_itself_are_left_alone(program: Program, tmp_path: Path) -> None:
    """A relay inside the program has an engine of its own. The capture would refuse this text."""
    url = f"sqlite:///{tmp_path}/x.db"
    program.prepare(url)
    program.capture.install(Engine)
    with open_engine(url, "primary", pooled=False).begin() as connection:
        connection.exec_driver_sql("INSERT INTO items VALUES (1, 'x')")
    assert captured(url) == []


def test_a_filter_of_urls_needs_the_class(program: Program) -> None:
    with pytest.raises(ConfigurationError, match="urls chooses engines of the class Engine"):
        program.capture.install(sa.create_engine("sqlite://"), urls="*")


# -- the outbox


@pytest.mark.parametrize("name", ENGINES)
def test_several_processes_may_create_the_outbox_at_once(new_database: NewDatabase, name: str) -> None:
    url = new_database(name)
    errors: list[BaseException] = []

    def create() -> None:
        try:
            start.wait()
            Program().capture.create_outbox(open_engine(url, "primary", pooled=False))
        except BaseException as error:  # noqa: BLE001  # the test reports it
            errors.append(error)

    start = threading.Barrier(3)
    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert captured(url) == []


def test_an_outbox_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE rowcast_claim (first_lsn INTEGER PRIMARY KEY)")
    with pytest.raises(ConfigurationError, match=r"rowcast_claim has no column last_lsn, .*migrate it"):
        Program().capture.create_outbox(engine)


def test_an_async_engine_is_told_how_to_create_the_outbox() -> None:
    with pytest.raises(ConfigurationError, match="run_sync"):
        Program().capture.create_outbox(create_async_engine("sqlite+aiosqlite://"))  # type: ignore[arg-type]


def test_the_metadata_of_the_program_stays_as_it_was(program: Program) -> None:
    assert set(program.metadata.tables) == {"items"}


# -- several MetaData


@pytest.mark.parametrize("name", ENGINES)
def test_several_metadata_are_one_source(new_database: NewDatabase, name: str) -> None:
    first, second = sa.MetaData(), sa.MetaData()
    parent = sa.Table("parents", first, sa.Column("id", sa.Integer, primary_key=True))
    shared = [
        sa.Table("versions", metadata, sa.Column("name", sa.String(20), primary_key=True))
        for metadata in (first, second)
    ]
    capture = Capture([first, second], source="program", strict="raise")
    # A model that the program imports later.
    child = sa.Table(
        "children",
        second,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.Uuid),
        sa.Column("hidden", sa.String(9), info={"rowcast": False}),
    )
    url = new_database(name)
    engine = sa.create_engine(url)
    for metadata in (first, second):
        metadata.create_all(engine)
    capture.create_outbox(engine)
    capture.install(engine)
    with engine.begin() as connection:
        connection.execute(parent.insert().values(id=1))
        connection.execute(child.insert().values(id=2, hidden="secret"))
        connection.execute(shared[1].insert().values(name="v1"))
    engine.dispose()
    lines = "".join(captured(url)).splitlines()
    assert len(lines) == 3
    assert "secret" not in "".join(lines)
    assert set(first.tables) == {"parents", "versions"}


def test_metadata_that_describe_a_table_differently_are_refused() -> None:
    metadata = [sa.MetaData(), sa.MetaData()]
    for one, column in zip(metadata, ("a", "b"), strict=True):
        sa.Table("items", one, sa.Column(column, sa.Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match=r"the table 'items' differently.*a \(key\).*b \(key\)"):
        Capture(metadata, source="program")
    with pytest.raises(ConfigurationError, match="no MetaData"):
        Capture([], source="program")


class Base(DeclarativeBase):
    """Have no tables, because only the class matters."""


@pytest.mark.parametrize("given", [Base, [Base], None])
def test_another_object_than_a_metadata_is_refused_with_the_next_step(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"needs MetaData.*Base\.metadata"):
        Capture(given, source="program")
