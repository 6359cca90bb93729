"""Capture dialects hold all that is special to a database engine, and are found by their entry points."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, oracle, postgresql, sqlite
from sqlalchemy.engine import Dialect

from rowcast import producer
from rowcast.producer.capture import sql_text
from rowcast.producer.database.dialects import (
    GROUP,
    CaptureDialect,
    capture_dialect,
    capture_dialect_named,
    find_capture_dialect,
)
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.errors import ConfigurationError

ENGINES = {"postgresql": postgresql, "sqlite": sqlite, "mysql": mysql}
BRANCH = re.compile(r"dialect\.name\s*(==|!=|in\b|not\b)|match .*dialect\.name|engine_family|MYSQL_FAMILY|is_mariadb")


def sources() -> list[Path]:
    (root,) = producer.__path__
    return sorted(Path(root).rglob("*.py"))


def test_only_dialects_ask_for_the_name_of_the_engine() -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sources()
        if "dialects" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BRANCH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("name", ["postgresql", "sqlite", "mysql", "mariadb"])
def test_every_engine_has_one_dialect(name: str) -> None:
    found = capture_dialect_named(name)
    assert isinstance(found, CaptureDialect)
    assert found is capture_dialect_named(name)


def test_another_distribution_can_register_an_engine() -> None:
    assert {entry.name for entry in entry_points(group=GROUP)} >= {"postgresql", "sqlite", "mysql", "mariadb"}
    for entry in entry_points(group=GROUP):
        assert issubclass(entry.load(), CaptureDialect)


def test_an_engine_without_a_dialect_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"'oracle'.*rowcast\.capture_dialects.*mariadb, mysql, postgresql"):
        capture_dialect(oracle.dialect())


def test_an_application_may_use_another_engine_for_other_tables() -> None:
    dialect = oracle.dialect()
    assert find_capture_dialect(dialect) is None
    orders = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    assert sql_text.changed_tables("UPDATE orders SET id = 1", [orders], dialect) == [orders]
    created: list[str] = []
    elsewhere = sa.create_mock_engine("oracle+oracledb://", lambda statement, *_: created.append(str(statement)))
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(elsewhere, checkfirst=False)
    assert len(created) == len(metadata.tables)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clock_and_the_insert_compile_on_their_engine(engine: str) -> None:
    dialect: Dialect = ENGINES[engine].dialect()
    own = capture_dialect(dialect)
    assert str(own.now_ms().compile(dialect=dialect))
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    sql = str(own.insert_unless_there(table, [{"id": 1, "n": 2}]).compile(dialect=dialect))
    assert "DO NOTHING" in sql or "ON DUPLICATE KEY UPDATE id = t.id" in sql


@pytest.mark.parametrize(("engine", "name"), [("postgresql", "shop.db"), ("sqlite", "shop")])
def test_an_sqlite_database_is_named_by_its_file_without_the_suffix(engine: str, name: str) -> None:
    url = sa.engine.URL.create(engine, database="/srv/shop.db" if engine == "sqlite" else "shop.db")
    assert capture_dialect_named(engine).database_name(url) == name


def test_triggers_on_mysql_are_refused_and_on_mariadb_found() -> None:
    dialect = mysql.dialect()
    with pytest.raises(ConfigurationError, match="triggers need MariaDB"):
        capture_dialect(dialect).trigger_dialect(dialect)
    dialect.is_mariadb = True
    assert capture_dialect(dialect).trigger_dialect(dialect).endswith(":MariaDBTriggers")
