"""Replica dialects hold all that is special to a database engine, and are found by their entry points."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from rowcast import consumer
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import (
    GROUP,
    PlannedColumn,
    ReplicaColumn,
    ReplicaDialect,
    ReplicaTable,
    ValueLimit,
    replica_dialect,
)
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import ColumnShape, PortableType
from support.kafka_source import column, shape

ENGINES = ["postgresql", "sqlite", "mysql", "mariadb"]
BRANCH = re.compile(r"dialect\.name\s*(==|!=|in\b|not\b)|match .*dialect\.name|engine_family|MYSQL_FAMILY|is_mariadb")


def test_only_dialects_ask_for_the_name_of_the_engine() -> None:
    (root,) = consumer.__path__
    found = []
    for path in sorted(Path(root).rglob("*.py")):
        if "dialects" in path.parts:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if BRANCH.search(line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_a_dialect(name: str) -> None:
    dialect = replica_dialect(name)
    assert isinstance(dialect, ReplicaDialect)
    assert dialect.is_own_engine(name)


def test_each_replica_has_a_dialect_object_of_its_own() -> None:
    """The dialect object caches statements for the tables of a single replica."""
    assert replica_dialect("sqlite") is not replica_dialect("sqlite")


def test_every_entry_point_is_a_dialect() -> None:
    assert {entry.name for entry in entry_points(group=GROUP)} >= set(ENGINES)
    for entry in entry_points(group=GROUP):
        assert issubclass(entry.load(), ReplicaDialect)


def test_an_engine_without_a_dialect_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"'oracle'.*mariadb, mysql, postgresql, sqlite.*rowcast\.replica_"):
        replica_dialect("oracle")


def test_columns_that_the_replica_computes_or_lacks_are_not_written() -> None:
    layout = RowLayout(
        shape("thing", column("computed"), column("dropped"), column("n")), ("id", "computed", "dropped", "n")
    )
    columns = {
        "id": ReplicaColumn("id", "bigint", False, False),
        "computed": ReplicaColumn("computed", "bigint", True, True),
        "n": ReplicaColumn("n", "bigint", True, False),
    }
    table = ReplicaTable(None, "thing", '"thing"', columns, ("id",), other_unique=False)
    assert table.writable_columns(layout) == ["id", "n"]


def planned(name: str, type_: sa.types.TypeEngine[Any]) -> PlannedColumn:
    return PlannedColumn(ColumnShape("c", PortableType(name)), type_, sqlite.dialect(), is_key=False)


def test_a_value_limit_applies_by_type_source_and_condition() -> None:
    limit = ValueLimit("x", frozenset(("decimal",)), frozenset(("mysql",)), lambda c: c.portable_name == "decimal")
    assert limit.applies_to("mariadb", planned("decimal", sa.Numeric(5, 2)))
    assert not limit.applies_to("postgresql", planned("decimal", sa.Numeric(5, 2)))
    assert not limit.applies_to("mysql", planned("int32", sa.Integer()))
    assert not limit.applies_to("mysql", planned("decimal", sa.Text()))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((700,), [700]),
        ((1500, 1500), [384, 384]),
        ((100, 1500, 1500), [100, 334, 334]),
        ((250, 250, 250, 512), [192, 192, 192, 192]),
    ],
)
def test_long_keys_of_mysql_have_shorter_texts(lengths: tuple[int, ...], expected: list[int]) -> None:
    key = [sa.Column(f"c{n}", sa.String(length)) for n, length in enumerate(lengths)]
    replica_dialect("mysql").fit_key(key)
    assert [getattr(column.type, "length", None) for column in key] == expected
    replica_dialect("mysql").fit_key([*key, sa.Column("n", sa.Integer)])
    assert sum(getattr(column.type, "length", 0) for column in key) <= (3072 - 128) / 4


def test_long_rows_of_mysql_become_longtext_but_not_their_keys() -> None:
    columns = [sa.Column(name, sa.String(length)) for name, length in (("key", 4000), ("a", 4000), ("b", 9000))]
    replica_dialect("mysql").fit_row(columns, {"key"})
    assert [type(c.type) for c in columns] == [sa.String, sa.String, mysql.LONGTEXT]
    columns = [sa.Column("a", sa.String(4000)), sa.Column("b", sa.String(9000))]
    replica_dialect("sqlite").fit_row(columns, set())
    replica_dialect("postgresql").fit_row(columns, set())
    assert [type(c.type) for c in columns] == [sa.String, sa.String]


def test_mysql_compares_texts_of_other_engines_byte_by_byte() -> None:
    dialect = mysql.dialect()
    assert replica_dialect("mysql").table_options("postgresql", dialect)["mysql_collate"].endswith("_bin")
    assert "mysql_collate" not in replica_dialect("mysql").table_options("mariadb", dialect)
    assert replica_dialect("postgresql").table_options("mysql", postgresql.dialect()) == {}
