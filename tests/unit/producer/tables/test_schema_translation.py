"""A schema_translate_map maps captured tables to other schemas."""

from __future__ import annotations

import gc

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.producer.tables import schema_translation
from rowcast.producer.tables.captured import CapturedTables
from rowcast.producer.tables.schema_translation import SchemaTranslation

DIALECT = postgresql.dialect()


def test_each_map_gives_one_copy_in_its_schema() -> None:
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.Integer, primary_key=True))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.ForeignKey("parent.id")),
    )
    tables = CapturedTables(metadata)
    translation = SchemaTranslation(tables, DIALECT)
    own = tables.captured_table(child, DIALECT, "public")
    moved = translation.translate(own, {None: "tenant"}, "public")
    assert moved.full_name == "tenant.child"
    assert [key.referred_schema for key in moved.shape.foreign_keys] == ["tenant"]
    assert translation.translate(own, {None: "tenant"}, "public") is moved
    assert translation.translate(own, {None: "tenant", "x": "y"}, "public") is moved
    assert translation.translate(own, {"x": "y"}, "public") is own
    assert parent.schema is None


def test_only_the_tables_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_translation, "MAX_TRANSLATED_TABLES", 2)
    metadata = sa.MetaData()
    table = sa.Table("t", metadata, sa.Column("id", sa.Integer, primary_key=True))
    tables = CapturedTables(metadata)
    translation = SchemaTranslation(tables, DIALECT)
    own = tables.captured_table(table, DIALECT, "public")
    in_use = translation.translate(own, {None: "used"}, "public")
    for n in range(10):
        translation.translate(own, {None: f"tenant_{n}"}, "public")
    gc.collect()
    copies = [one for one in gc.get_objects() if isinstance(one, sa.Table) and one.name == "t" and one.schema]
    assert {copy.schema for copy in copies} == {"used", "tenant_8", "tenant_9"}
    # A transaction still holds the table, and must not get a second object for it.
    assert translation.translate(own, {None: "used"}, "public") is in_use
