"""Instrument the engines of a program, inside the test process."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import CaptureError, CaptureWarning, ConfigurationError
from rowcast.producer.instrumentation.options import Options
from rowcast.producer.instrumentation.program import InstrumentedProgram
from rowcast.shared.database.engines import open_engine

ASYNC_DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}
WITH_TRIGGERS = ("postgresql", "mariadb", "sqlite")

Instrument = Callable[..., InstrumentedProgram]


@pytest.fixture
def instrument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instrument]:
    """Return a function to instrument the process with a configuration and options."""
    listening: list[Any] = []
    monkeypatch.syspath_prepend(tmp_path)
    # --no-migrations replaces the method.
    monkeypatch.setattr(MigrationContext, "run_migrations", MigrationContext.run_migrations)
    modules = set(sys.modules)

    def instrument(url: str | None, more: str = "", **options: Any) -> InstrumentedProgram:
        config = tmp_path / "rowcast.toml"
        primary = "" if url is None else f'[primary]\nurl = "{url}"\n'
        config.write_text(f'source = "program"\n{primary}{more}')
        program = InstrumentedProgram(Options(config=str(config), **{"create_outbox": True, **options}))
        end()
        event.listen(Engine, "engine_connect", program.engine_connect)
        listening.append(program.engine_connect)
        return program

    def end() -> None:
        while listening:
            event.remove(Engine, "engine_connect", listening.pop())

    yield instrument
    end()
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def outbox(url: str) -> list[str]:
    """Return the lines of the outbox, read with an engine of rowcast, which no instrumentation sees."""
    engine = open_engine(url, "primary", pooled=False)
    with engine.connect() as connection:
        rows = connection.scalars(sa.text("SELECT changes FROM rowcast_outbox ORDER BY id"))
        # MariaDB and MySQL write JSON with spaces.
        return [line.replace(": ", ":") for changes in rows for line in changes.splitlines()]


def items() -> sa.Table:
    return sa.Table(
        "items",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.Uuid),
        sa.Column("done", sa.Boolean, default=False),
    )


@pytest.mark.parametrize("name", ENGINES)
def test_without_metadata_the_tables_are_those_of_the_database(
    new_database: NewDatabase, instrument: Instrument, name: str
) -> None:
    url = new_database(name)
    instrument(url, strict="raise")
    engine = sa.create_engine(url)
    table = items()
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(table.insert().values(id=1))
        # The definition changes in the transaction, or, on MariaDB and MySQL, ends it.
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN more INTEGER")
        connection.execute(sa.table("items", sa.column("more"), sa.column("id")).update().values(more=7))
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER PRIMARY KEY)")
        # The type of the column is unknown, because the referred table is not in the migration's metadata.
        other = sa.Table("other", sa.MetaData(), sa.Column("id", sa.ForeignKey("missing.id"), primary_key=True))
        connection.execute(other.insert().values(id=5))
    engine.dispose()
    lines = outbox(url)
    assert [('"more":7' in line, '.other"' in line) for line in lines] == [(False, False), (True, False), (False, True)]
    assert all('"done":false' in line for line in lines[:2]), "the type comes from the model"


def test_tables_of_a_rolled_back_transaction_are_forgotten(new_database: NewDatabase, instrument: Instrument) -> None:
    url = new_database("postgresql")
    instrument(url, strict="raise")
    engine = sa.create_engine(url)
    table = items()
    table.create(engine)
    with engine.connect() as connection:
        child = "CREATE TABLE children (id INTEGER PRIMARY KEY, item INTEGER REFERENCES items ON DELETE CASCADE)"
        connection.exec_driver_sql(child)
        connection.execute(sa.table("children", sa.column("id")).insert().values(id=5))
        connection.rollback()
        connection.execute(table.insert().values(id=1))
        connection.execute(table.delete())
        connection.execute(table.insert().values(id=2))
        connection.commit()
    engine.dispose()
    assert ['"id":2' in line for line in outbox(url)].count(True) == 1


OTHER_SCHEMA = {
    "sqlite": "ATTACH ':memory:' AS other_{}",
    "postgresql": "CREATE SCHEMA other_{}",
    "mariadb": "CREATE DATABASE other_{}",
    "mysql": "CREATE DATABASE other_{}",
}
MOVE = {"postgresql": "SET search_path = {}, public", "mariadb": "USE {}", "mysql": "USE {}"}


@pytest.mark.parametrize("name", ENGINES)
def test_changes_in_a_schema_that_no_model_names_are_refused(
    new_database: NewDatabase, instrument: Instrument, name: str
) -> None:
    url = new_database(name)
    instrument(url, strict="raise")
    engine = sa.create_engine(url, poolclass=StaticPool)
    item = items()
    item.create(engine)
    thing = sa.Table("thing", item.metadata, sa.Column("id", sa.Integer, primary_key=True))
    suffix = uuid.uuid4().hex[:8]
    other = f"other_{suffix}"
    with engine.connect() as connection:
        connection.exec_driver_sql(OTHER_SCHEMA[name].format(suffix))
        connection.exec_driver_sql(f"CREATE TABLE {other}.thing (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(f"CREATE TABLE {other}.items (id INTEGER PRIMARY KEY)")
        connection.commit()
        changes: list[tuple[sa.Executable, dict[str, Any]]] = [
            (sa.table("thing", sa.column("id"), schema=other).insert().values(id=1), {}),
            (sa.table("items", sa.column("id"), schema=other).insert().values(id=1), {}),
            (thing.insert().values(id=1), {"schema_translate_map": {None: other}}),
            (sa.text(f"INSERT INTO {other}.thing VALUES (1)"), {}),
            (sa.text(f"UPDATE {other}.items SET id = 2"), {}),
        ]
        for statement, options in changes:
            with pytest.raises(CaptureError, match=f"{other}.*--metadata"):
                connection.execute(statement, execution_options=options)
            connection.execute(statement, execution_options={**options, "rowcast": "ignore"})
            connection.rollback()
        if name in MOVE:
            connection.exec_driver_sql(MOVE[name].format(other))
            for moved in (thing.insert().values(id=1), sa.text("INSERT INTO thing VALUES (1)")):
                with pytest.raises(CaptureError, match=f"{other}.*--metadata"):
                    connection.execute(moved)
            connection.rollback()
    engine.dispose()


def test_text_on_a_table_that_another_process_has_created_is_refused(tmp_path: Path, instrument: Instrument) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    instrument(url, strict="raise")
    engine = sa.create_engine(url, poolclass=NullPool)
    table = items()
    table.create(engine)
    with engine.begin() as connection:
        # The catalogue is read again now, because the program has created a table.
        connection.execute(table.insert().values(id=1))
    with open_engine(url, "primary", pooled=False).begin() as other:
        other.exec_driver_sql("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    with engine.connect() as connection, pytest.raises(CaptureError, match=r"SQL text changes main\.later"):
        connection.exec_driver_sql("INSERT INTO later VALUES (1)")


def test_statements_that_a_listener_moves_to_another_table_are_refused(tmp_path: Path, instrument: Instrument) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    instrument(url, strict="raise")
    engine = sa.create_engine(url, poolclass=NullPool)

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def rename(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_more: Any) -> tuple[str, Any]:
        return sql.replace("prefix_", "asia_"), parameters

    prefixed = sa.Table("prefix_items", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    prefixed.create(engine)
    scratch = sa.Table("scratch", sa.MetaData(), sa.Column("id", sa.Integer), prefixes=["TEMPORARY"])
    with engine.connect() as connection:
        scratch.create(connection)
        connection.execute(scratch.insert().values(id=1))
        with pytest.raises(CaptureError, match="text that a listener has rewritten changes asia_items"):
            connection.execute(prefixed.insert().values(id=1))


def test_a_table_without_a_primary_key_is_refused_until_it_is_left_out(tmp_path: Path, instrument: Instrument) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with sa.create_engine(url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE keyless (n INTEGER)")
    instrument(url)
    with pytest.raises(ConfigurationError, match=r"'keyless'.*capture = false"):
        sa.create_engine(url, poolclass=NullPool).connect()
    instrument(url, "[tables.keyless]\ncapture = false\n")
    with sa.create_engine(url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("INSERT INTO keyless VALUES (1)")
    assert outbox(url) == []


def test_a_masked_table_that_does_not_exist_is_named_at_the_first_change(
    tmp_path: Path, instrument: Instrument
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    table = items()
    table.create(sa.create_engine(url, poolclass=NullPool))
    instrument(url, '[tables.itmes]\ncolumns = { token = { mask = "***" } }\n')
    engine = sa.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection, pytest.raises(ConfigurationError, match="'itmes'"):
        connection.execute(table.insert().values(id=1))


@pytest.mark.parametrize("name", ENGINES)
def test_an_async_program_is_captured(new_database: NewDatabase, instrument: Instrument, name: str) -> None:
    url = sa.make_url(new_database(name))
    shown = url.render_as_string(hide_password=False)
    instrument(shown, strict="raise")
    table = items()

    async def run() -> None:
        engine = create_async_engine(url.set(drivername=ASYNC_DRIVERS[url.get_backend_name()]))
        async with engine.begin() as connection:
            await connection.run_sync(table.create)
        async with engine.begin() as connection:
            await connection.execute(table.insert().values(id=1))
        await engine.dispose()

    asyncio.run(run())
    assert len(outbox(shown)) == 1


@pytest.mark.parametrize("pool", [{"poolclass": StaticPool}, {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}])
def test_the_program_has_no_connection_more_than_before(
    tmp_path: Path, instrument: Instrument, pool: dict[str, Any]
) -> None:
    in_memory = pool.get("poolclass") is StaticPool
    url = "sqlite://" if in_memory else f"sqlite:///{tmp_path}/x.db"
    instrument(None, url_match=("sqlite*",), strict="raise")
    engine = sa.create_engine(url, **pool)
    opened: list[Any] = []
    event.listen(engine, "connect", lambda *connection: opened.append(connection))
    table = items()
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert().values(id=1))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rowcast_outbox").scalar() == 1
    assert len(opened) == 1
    engine.dispose()


@pytest.mark.parametrize("name", WITH_TRIGGERS)
def test_triggers_capture_a_program_in_autocommit(new_database: NewDatabase, instrument: Instrument, name: str) -> None:
    url = new_database(name)
    instrument(url, capture_by="triggers")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    items().create(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO items (id) VALUES (1)")
    assert len(outbox(url)) == 1
    again = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with again.connect() as connection:
        connection.exec_driver_sql("UPDATE items SET id = 2")
    assert len(outbox(url)) == 3


@pytest.mark.parametrize("name", WITH_TRIGGERS)
def test_triggers_capture_an_async_program(new_database: NewDatabase, instrument: Instrument, name: str) -> None:
    url = sa.make_url(new_database(name))
    shown = url.render_as_string(hide_password=False)
    items().create(sa.create_engine(shown, poolclass=NullPool))
    instrument(shown, capture_by="triggers")

    async def run() -> None:
        engine = create_async_engine(url.set(drivername=ASYNC_DRIVERS[url.get_backend_name()]))
        async with engine.begin() as connection:
            await connection.exec_driver_sql("INSERT INTO items (id) VALUES (1)")
        await engine.dispose()

    asyncio.run(run())
    assert len(outbox(shown)) == 1


def test_several_metadata_may_be_named(tmp_path: Path, instrument: Instrument) -> None:
    (tmp_path / "one_models.py").write_text(_MODEL.format(name="ones"))
    (tmp_path / "two_models.py").write_text(_MODEL.format(name="twos"))
    url = f"sqlite:///{tmp_path}/x.db"
    instrument(url, metadata=("one_models:metadata", "two_models:Holder"), strict="raise")
    engine = sa.create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for table in ("ones", "twos", "unnamed"):
            connection.exec_driver_sql(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)")
            connection.execute(sa.table(table, sa.column("id")).insert().values(id=1))
    assert len(outbox(url)) == 2


_MODEL = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("{name}", metadata, sa.Column("id", sa.Integer, primary_key=True))
class Holder: metadata = metadata
"""


# -- errors


def test_a_missing_outbox_is_named_with_the_next_step(tmp_path: Path, instrument: Instrument) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    instrument(url, create_outbox=False)
    engine = sa.create_engine(url)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"x\.db the table rowcast_shape does not exist.*rowcast init"):
            engine.connect()
    engine.dispose()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("no_such_module:Base", "--metadata no_such_module:Base: No module named"),
        ("rowcast.producer:Nothing", "has no attribute 'Nothing'"),
        ("rowcast.producer:load", "not a MetaData"),
    ],
)
def test_metadata_that_cannot_be_loaded_is_named(
    tmp_path: Path, instrument: Instrument, metadata: str, message: str
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    instrument(url, metadata=(metadata,))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=message):
            sa.create_engine(url, poolclass=NullPool).connect()


def test_changes_while_the_metadata_is_imported_are_refused(tmp_path: Path, instrument: Instrument) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    (tmp_path / "early_models.py").write_text(
        _MODEL.format(name="earlies")
        + f"engine = sa.create_engine({url!r}, poolclass=sa.StaticPool)\n"
        + "kept = engine.connect()\nmetadata.create_all(kept)\n"
        + "error = None\ntry: kept.exec_driver_sql('INSERT INTO earlies VALUES (1)')\n"
        + "except Exception as e: error = e\n"
        + "kept.commit()\n"
    )
    instrument(url, metadata=("early_models:metadata",), strict="raise")
    with sa.create_engine(url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("SELECT 1")
    early = sys.modules["early_models"]
    assert isinstance(early.error, CaptureError)
    early.kept.execute(early.metadata.tables["earlies"].insert().values(id=2))
    early.kept.commit()
    early.kept.close()
    assert len(outbox(url)) == 1


def test_other_databases_are_left_alone_and_named_at_the_end(
    tmp_path: Path, instrument: Instrument, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    program = instrument(f"sqlite:///{tmp_path}/x.db")
    caplog.set_level(logging.INFO, "rowcast.instrument")
    other = sa.create_engine(f"sqlite:///{tmp_path}/other.db", poolclass=NullPool)
    for _ in range(2):
        other.connect().close()
    assert ["other.db" in record.getMessage() for record in caplog.records] == [True]
    assert not sa.inspect(other).get_table_names()
    program.report_at_exit()
    assert "was not captured" in (report := capsys.readouterr().err)
    assert "/x.db" in report
    assert "/other.db" in report
    sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=NullPool).connect().close()
    program.report_at_exit()
    assert capsys.readouterr().err == ""


# -- migrations

_ENV = """
from alembic import context
import sqlalchemy as sa
engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""
_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "1", None
def upgrade():
    table = op.create_table("items", sa.Column("id", sa.Integer, primary_key=True))
    op.bulk_insert(table, [{"id": 1}])
    op.execute("INSERT INTO items VALUES (2)")
"""


@pytest.mark.parametrize("captured", [True, False])
def test_the_rows_of_migrations_are_captured_or_left_out(
    tmp_path: Path, instrument: Instrument, captured: bool
) -> None:
    scripts = tmp_path / "scripts"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text(_ENV)
    (scripts / "versions" / "1.py").write_text(_REVISION)
    url = f"sqlite:///{tmp_path}/x.db"
    config = alembic.config.Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", url)
    instrument(url, migrations=captured)
    if captured:
        with pytest.warns(CaptureWarning, match="SQL text changes main.items"):
            alembic.command.upgrade(config, "head")
    else:
        alembic.command.upgrade(config, "head")
    with sa.create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(sa.table("items", sa.column("id")).insert().values(id=3))
    lines = outbox(url)
    assert sum("items" in line for line in lines) == (2 if captured else 1)
    assert sum("alembic_version" in line for line in lines) == (1 if captured else 0)
