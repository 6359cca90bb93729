"""Write the shapes of many tables in few statements, and of tenants' tables in their schemas.

The tests count statements, because times depend on the machine.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import Capture
from rowcast.producer.capture import shape_writer
from rowcast.producer.capture.drain import outbox_writer, statements
from rowcast.producer.outbox import shape_versions
from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.tables import schema_translation
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import CaptureError
from rowcast.shared.tables.shape_store import newest_shapes
from support.sent_statements import sent_statements

TABLES = 30

QUESTIONS = {"sqlite": 0, "postgresql": 1, "mysql": 2}
"""The number of queries about a table's triggers and storage engine before its first change."""


@pytest.fixture(autouse=True)
def few_tables_in_a_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 30 tables stand for 300, because creating tables takes the most time."""
    monkeypatch.setattr(shape_versions, "TABLES_PER_STATEMENT", 10)


class Process:
    """Hold what a process of an application has: a metadata, and an engine with the capture."""

    def __init__(self, url: str, tables: int = TABLES) -> None:
        self.metadata = sa.MetaData()
        self.tables = [
            sa.Table(
                f"t{n}",
                self.metadata,
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("before_id", sa.ForeignKey(f"t{n - 1}.id") if n else sa.Integer),
            )
            for n in range(tables)
        ]
        self.engine = sa.create_engine(url)
        self.capture = Capture(self.metadata, source="s", strict="raise")
        self.capture.install(self.engine)

    def insert(self, id_: int, table: int = 0, **options: Any) -> None:
        """Insert a row, in a transaction of its own. ``options``: execution options of the connection."""
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            connection.execute(sa.insert(self.tables[table]).values(id=id_))

    def names(self) -> list[str]:
        """Return the table of each change in the outbox, and empty the outbox."""
        outbox = self.metadata.tables["rowcast_outbox"]
        with self.engine.begin() as connection:
            texts = connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)).all()
            connection.execute(outbox.delete())
        return [head.table for text in texts for head, *_ in ChangeSplitter().split(text)]

    def stored(self) -> dict[str, dict[str, Any]]:
        """Return the rows of ``rowcast_shape``, by table."""
        shape = self.metadata.tables["rowcast_shape"]
        with self.engine.connect() as connection:
            return {row["table_name"]: dict(row) for row in connection.execute(sa.select(shape)).mappings()}


@contextmanager
def processes() -> Iterator[Any]:
    opened: list[Process] = []

    def start(url: str, tables: int = TABLES) -> Process:
        opened.append(Process(url, tables))
        return opened[-1]

    yield start
    for process in opened:
        process.engine.dispose()


@pytest.fixture
def start() -> Iterator[Any]:
    with processes() as function:
        yield function


def test_the_first_write_of_a_process_takes_few_statements(primary_url: str, start: Any) -> None:
    first = start(primary_url)
    first.metadata.create_all(first.engine, checkfirst=False)
    with first.engine.connect() as connection, connection.begin():
        insert = sa.insert(first.tables[5]).values(id=1)
        connection.execute(insert, execution_options={"rowcast": "ignore"})
    with sent_statements(first.engine) as sent:
        first.insert(1)
    # Each step takes three statements. A step for each table would take 30.
    assert len(sent) < 25
    stored = first.stored()
    assert len(stored) == TABLES
    assert [name for name, row in stored.items() if row["rows_before"]] == [
        f"{default_schema(first.engine.dialect)}.t5"
    ]
    with first.engine.connect() as connection:
        assert {shape.name for shape in newest_shapes(connection).values()} == {table.name for table in first.tables}
    first.insert(2)
    with sent_statements(first.engine) as sent:
        first.insert(3)
    assert len(sent) == 1, "the shapes are known"


def test_a_later_process_looks_once_at_all_tables(primary_url: str, start: Any) -> None:
    first = start(primary_url)
    first.metadata.create_all(first.engine, checkfirst=False)
    first.insert(1)
    later = start(primary_url)
    with sent_statements(later.engine) as sent:
        later.insert(2)
    assert len(sent) < 20
    with sent_statements(later.engine) as sent:
        later.insert(3)
        later.insert(4, table=1)
        later.insert(5, table=1)
    # A single look at the shape of the second table, and the questions about it.
    assert len(sent) == 4 + QUESTIONS[later.engine.dialect.name]


def test_a_table_that_does_not_exist_yet_gets_its_shape_at_its_first_change(primary_url: str, start: Any) -> None:
    process = start(primary_url, 3)
    created = [table for table in process.metadata.sorted_tables if table.name != "t2"]
    process.metadata.create_all(process.engine, tables=created)
    process.insert(1)
    schema = default_schema(process.engine.dialect)
    assert process.stored().keys() == {f"{schema}.t0", f"{schema}.t1"}
    process.tables[2].create(process.engine)
    process.insert(1, table=2)
    assert f"{schema}.t2" in process.stored()


def test_creating_the_outbox_writes_the_shapes_of_existing_tables(primary_url: str, start: Any) -> None:
    process = start(primary_url)
    process.metadata.create_all(process.engine, tables=process.tables, checkfirst=False)
    with sent_statements(process.engine) as sent:
        process.capture.create_outbox(process.engine)
    inserts = [sql for sql in sent if sql.startswith("INSERT")]
    assert len(inserts) == 3
    assert len(process.stored()) == TABLES
    with sent_statements(process.engine) as sent:
        process.insert(1)
    assert not [sql for sql in sent if sql.startswith("INSERT INTO rowcast_shape")]


# -- tenants


@pytest.fixture(params=ENGINES)
def tenants(request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path: Any, start: Any) -> Iterator[Any]:
    """Return a process whose tables exist in the schemas ``one``, ``two`` and ``three``, and the schemas' names."""
    process = start(new_database(request.param), 2)
    names = _create_schemas(process, tmp_path)
    process.metadata.create_all(process.engine, checkfirst=False)
    for name in names:
        with process.engine.connect().execution_options(schema_translate_map={None: name}) as connection:
            process.metadata.create_all(connection, tables=process.tables, checkfirst=False)
            connection.commit()
    yield process, names
    with process.engine.connect() as connection:
        for name in names:
            if process.engine.dialect.name == "mysql":
                connection.exec_driver_sql(f"DROP DATABASE `{name}`")


def _create_schemas(process: Process, tmp_path: Any) -> list[str]:
    prefix = sa.make_url(process.engine.url).database or ""
    names = ["one", "two", "three"]
    match process.engine.dialect.name:
        case "sqlite":

            def attach(connection: Any, _record: Any) -> None:
                for name in names:
                    connection.execute(f"ATTACH '{tmp_path / name}.db' AS {name}")

            sa.event.listen(process.engine, "connect", attach)
        case "mysql":
            names = [f"{prefix}_{name}" for name in names]
            with process.engine.connect() as connection:
                for name in names:
                    connection.exec_driver_sql(f"CREATE DATABASE `{name}`")
        case "postgresql":
            with process.engine.begin() as connection:
                for name in names:
                    connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    return names


@pytest.mark.parametrize("at", ["connection", "engine", "session", "statement"])
def test_a_map_of_schemas_may_come_with_the_first_statement_of_a_process(tenants: Any, at: str) -> None:
    process, (schema, *_) = tenants
    options: Any = {"schema_translate_map": {None: schema}}
    insert = sa.insert(process.tables[0]).values(id=1)
    match at:
        case "connection":
            process.insert(1, **options)
        case "engine":
            with process.engine.execution_options(**options).begin() as connection:
                connection.execute(insert)
        case "session":
            with Session(process.engine) as session:
                session.connection(execution_options=options)
                session.execute(insert)
                session.commit()
        case "statement":
            with process.engine.begin() as connection:
                connection.execute(insert, execution_options=options)
    assert process.names() == [f"{schema}.t0"]
    document = orjson.loads(process.stored()[f"{schema}.t0"]["shape"])
    assert document["schema"] == schema


def test_a_tenants_table_takes_one_look_at_its_shape(tenants: Any) -> None:
    process, schemas = tenants
    for table in (0, 1):
        process.insert(1, table=table)
        process.insert(2, table=table)
    for schema in schemas:
        with sent_statements(process.engine) as sent:
            for table in (0, 1):
                for id_ in (1, 2, 3):
                    process.insert(id_, table=table, schema_translate_map={None: schema})
        # The shape of each table is looked for, written after a look at the rows, and found by the next transaction.
        # Each insert is a statement, and there are questions about each table.
        assert len(sent) <= 2 * (3 + 4 + QUESTIONS[process.engine.dialect.name])
    own = default_schema(process.engine.dialect)
    assert set(process.names()) == {f"{schema}.t{n}" for schema in (own, *schemas) for n in (0, 1)}


def test_the_memory_for_tenants_is_bounded(
    start: Any, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (schema_translation, shape_writer):
        monkeypatch.setattr(module, "MAX_TRANSLATED_TABLES", 2)
    for module in (statements, outbox_writer):
        monkeypatch.setattr(module, "MAX_CACHED_STATEMENTS", 2)
    process = start(new_database("sqlite"), 1)
    process.metadata.create_all(process.engine, checkfirst=False)
    tenants = [f"tenant_{n}" for n in range(40)]
    for name in tenants:
        with process.engine.connect() as connection:
            connection.exec_driver_sql(f"ATTACH ':memory:' AS {name}")
            translated = connection.execution_options(schema_translate_map={None: name})
            process.metadata.create_all(translated, tables=process.tables, checkfirst=False)
            translated.commit()
            for id_ in (1, 2):
                with translated.begin():
                    translated.execute(sa.insert(process.tables[0]).values(id=id_))
            _fail_to_commit(translated, process.tables[0], name)
            translated.exec_driver_sql(f"DETACH {name}")
    gc.collect()
    copies = [one for one in gc.get_objects() if isinstance(one, sa.Table) and one.schema in tenants]
    assert len(copies) < 15
    assert len(process.names()) == 80


def _fail_to_commit(connection: Connection, table: sa.Table, schema: str) -> None:
    """Lose a noted row, so that the capture makes a query for the missing row of this table."""
    connection.execute(sa.insert(table).values(id=3))
    driver: Any = connection.connection.dbapi_connection
    driver.execute(f"DELETE FROM {schema}.{table.name} WHERE id = 3")
    with pytest.raises(CaptureError, match="id=3"):
        connection.commit()
    connection.rollback()
