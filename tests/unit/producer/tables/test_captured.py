"""Models and configuration choose the captured tables and the published columns and rows of each table."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from rowcast.producer.tables.captured import CapturedTable, CapturedTables, read_settings
from rowcast.shared.config.table_settings import read_table_settings
from rowcast.shared.errors import ConfigurationError

DIALECT = sqlite.dialect()


def metadata() -> sa.MetaData:
    tables = sa.MetaData()
    sa.Table(
        "person",
        tables,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String(80), unique=True),
        sa.Column("note", sa.Text, info={"rowcast": False}),
    )
    sa.Table("audit", tables, sa.Column("id", sa.Integer, primary_key=True), info={"rowcast": False})
    sa.Table("job", tables, sa.Column("id", sa.Integer, primary_key=True), info={"rowcast": "triggers"})
    sa.Table("rowcast_outbox", tables, sa.Column("id", sa.Integer, primary_key=True))
    return tables


def test_tables_of_rowcast_and_tables_left_out_are_not_captured() -> None:
    tables = CapturedTables(metadata())
    assert {table.name for table in tables} == {"person", "job"}
    assert {table.name for table in tables if tables.uses_listeners(table)} == {"person"}
    assert {table.name for table in tables.application_tables()} == {"person", "audit", "job"}


def test_the_configuration_takes_precedence_over_the_models() -> None:
    tables = CapturedTables(metadata(), {"audit": True, "main.job": {"mode": "listeners"}})
    assert {table.name for table in tables} == {"person", "audit", "job"}
    assert all(tables.uses_listeners(table) for table in tables)


def test_a_name_in_the_configuration_without_a_table_is_reported() -> None:
    tables = CapturedTables(metadata(), {"persons": True})
    assert tables.unknown_names() == ["persons"]
    with pytest.raises(ConfigurationError, match=r"'persons', which the metadata does not have"):
        tables.check()


def test_a_table_without_a_primary_key_cannot_be_captured() -> None:
    tables = sa.MetaData()
    sa.Table("log", tables, sa.Column("line", sa.Text))
    with pytest.raises(ConfigurationError, match=r"cannot capture 'log': no primary key"):
        CapturedTables(tables).check()


def test_a_configured_schema_must_be_the_schema_of_the_table() -> None:
    tables = CapturedTables(metadata(), {"other.person": True})
    with pytest.raises(ConfigurationError, match=r"in the schema 'main'"):
        tables.captured_table(tables.metadata.tables["person"], DIALECT, "main")


def test_masked_columns_and_their_constraints_are_not_in_the_published_shape() -> None:
    table = metadata().tables["person"]
    whole = CapturedTable(table, DIALECT, "main")
    assert [column.name for column in whole.columns] == ["id", "email"]
    assert whole.shape.unique == (("email",),)
    settings = read_settings(table, read_table_settings({"columns": {"email": {"mask": "?"}}}, "person"))
    masked = CapturedTable(table, DIALECT, "main", settings)
    assert masked.shape.unique == ()
    assert masked.types["email"].name == "text"
    value: sa.ColumnElement[str] = sa.literal_column("x")
    assert masked.published_value(table.c.email, value) is not value
    assert masked.published_value(table.c.id, value) is value


def test_a_captured_table_is_equal_only_to_itself() -> None:
    table = metadata().tables["person"]
    assert CapturedTable(table, DIALECT, "main") != CapturedTable(table, DIALECT, "main")


def test_a_former_name_is_completed_with_the_schema_and_must_be_free() -> None:
    tables = sa.MetaData()
    sa.Table("person", tables, sa.Column("id", sa.Integer, primary_key=True), info={"rowcast": {"was": "customer"}})
    captured = CapturedTables(tables).captured_table(tables.tables["person"], DIALECT, "main")
    assert captured.shape.was == ("main.customer",)
    configured = CapturedTables(tables, {"person": {"was": ["old.client", "customer"]}})
    assert configured.captured_table(tables.tables["person"], DIALECT, "main").shape.was == (
        "old.client",
        "main.customer",
    )
    sa.Table("customer", tables, sa.Column("id", sa.Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match=r"names main\.customer, which is another table of the metadata now"):
        CapturedTables(tables).captured_table(tables.tables["person"], DIALECT, "main")
