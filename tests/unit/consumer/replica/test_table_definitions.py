"""Definitions have the source's keys, and foreign keys only where the referred rows are certain to exist."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.table_definitions import TableDefinitions, constraint_name, indexed_columns, replica_name
from rowcast.shared.tables.shape import TableShape
from support.kafka_source import column, shape

CITY = shape("city", column("name", "text"), unique=[("name",), ("id",)])
HOUSE = shape("house", column("city_id"), refers=[("city_id", "city")])


def definitions(*shapes: TableShape, engine: str = "sqlite") -> TableDefinitions:
    dialects = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}
    return TableDefinitions(shapes, replica_dialect(engine), dialects[engine])


@pytest.mark.parametrize(
    ("engine", "default", "name"),
    [
        ("postgresql", True, (None, "t")),
        ("postgresql", False, ("s", "t")),
        ("sqlite", True, (None, "t")),
        ("sqlite", False, (None, "s_t")),
    ],
)
def test_a_schema_is_kept_or_becomes_part_of_the_name(engine: str, default: bool, name: tuple[str | None, str]) -> None:
    table = replace(shape("t"), schema="s", default_schema=default)
    assert replica_name(table, replica_dialect(engine)) == name


def test_names_of_constraints_are_short_and_always_the_same() -> None:
    name = constraint_name("uq", "public.city", ("name",))
    assert name == constraint_name("uq", "public.city", ("name",))
    assert name.startswith("rowcast_uq_")
    assert len(name) <= 63
    assert name != constraint_name("uq", "public.city", ("other",))


def test_the_primary_key_has_the_order_of_the_source() -> None:
    table = definitions(shape("t", column("a"), column("b"), key=("b", "a"))).tables["public.t"]
    assert [c.name for c in table.primary_key] == ["b", "a"]
    assert not table.c.a.nullable


def test_every_unique_key_but_the_primary_key_gets_an_index() -> None:
    found = definitions(CITY).unique_indexes(CITY)
    assert [([c.name for c in index.columns], index.unique) for index in found] == [(["name"], True)]


def test_a_foreign_key_has_no_action_and_an_index() -> None:
    both = definitions(CITY, HOUSE, engine="postgresql")
    ddl = str(CreateTable(both.tables["public.house"]).compile(dialect=postgresql.dialect()))
    assert "REFERENCES city (id) DEFERRABLE INITIALLY IMMEDIATE" in ddl
    assert "ON DELETE" not in ddl
    assert [[c.name for c in index.columns] for index in both.foreign_key_indexes(HOUSE)] == [["city_id"]]


def test_a_foreign_key_that_begins_a_unique_key_needs_no_index() -> None:
    house = shape("house", column("city_id"), unique=[("city_id",)], refers=[("city_id", "city")])
    assert definitions(CITY, house).foreign_key_indexes(house) == []


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([], id="not replicated"),
        pytest.param([replace(CITY, where="id > 5")], id="with a row filter"),
        pytest.param([shape("city", column("id"), column("code"), key=("code",))], id="without the key"),
    ],
)
def test_no_foreign_key_to_rows_that_may_be_missing(others: list[TableShape]) -> None:
    found = definitions(HOUSE, *others)
    assert found.foreign_keys(HOUSE) == []
    assert not found.tables["public.house"].foreign_key_constraints


def test_indexed_columns_are_those_of_all_keys() -> None:
    assert indexed_columns(CITY) == {"id", "name"}
    assert indexed_columns(HOUSE) == {"id", "city_id"}
    assert isinstance(definitions(HOUSE).tables["public.house"], sa.Table)
