"""Patterns choose tables, and reflected columns take the types that the models declare."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from rowcast.producer.triggers.base import TriggerComment, trigger_name
from rowcast.producer.triggers.reflected_tables import ReflectedTables, choose_tables, match_names
from rowcast.shared.errors import ConfigurationError

NAMES = [(None, "orders"), (None, "items"), ("audit", "orders")]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["items"], [(None, "items")]),
        (["orders"], [(None, "orders"), ("audit", "orders")]),
        (["public.orders"], [(None, "orders")]),
        (["audit.*", "i*"], [("audit", "orders"), (None, "items")]),
        (["*", "items"], NAMES),
    ],
)
def test_a_pattern_matches_the_name_with_and_without_the_schema(
    patterns: list[str], expected: list[tuple[str | None, str]]
) -> None:
    assert match_names(NAMES, patterns, "public") == expected


def test_a_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"no table matches 'nothing'.*public\.orders, public\.items"):
        match_names(NAMES, ["items", "nothing"], "public")


def test_a_reflected_column_has_the_declared_type_and_settings() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    declared = sa.MetaData()
    table = sa.Table(
        "item",
        declared,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("secret", sa.Text, info={"rowcast": False}),
        info={"rowcast": "triggers"},
    )
    with engine.begin() as connection:
        table.create(connection)
        connection.exec_driver_sql("ALTER TABLE item ADD COLUMN more INTEGER")
        connection.exec_driver_sql("CREATE TABLE rowcast_own (id INTEGER PRIMARY KEY)")
        definitions = ReflectedTables(declared)
        assert choose_tables(connection, definitions, ()) == [(None, "item")]
        (captured,) = definitions.read(connection, [(None, "item")])
        assert {name: type_.name for name, type_ in captured.types.items()} == {"id": "uuid", "more": "int32"}
        with pytest.raises(ConfigurationError, match="there is no table other"):
            definitions.read(connection, [(None, "other")])
        with pytest.raises(ConfigurationError, match="no table is named or declared for triggers"):
            choose_tables(connection, ReflectedTables(), ())


def test_a_type_that_the_model_does_not_know_comes_from_the_database() -> None:
    """The type of a foreign key is unknown if the metadata lacks the table to which the foreign key refers."""
    declared = sa.MetaData()
    sa.Table("item", declared, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.ForeignKey("other.id")))
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER)")
        (captured,) = ReflectedTables(declared).read(connection, [(None, "item")])
    assert captured.types["n"].name == "int32"


def test_a_trigger_comment_is_found_in_any_text() -> None:
    comment = TriggerComment("1f3a", "aa", "bb")
    assert TriggerComment.find(f"BEGIN /* {comment} */ END") == comment
    assert TriggerComment.find("BEGIN END") is None


def test_a_long_trigger_name_is_cut_and_stays_unique() -> None:
    assert trigger_name("orders", "insert", 64) == "rowcast_insert_orders"
    first, second = (trigger_name("t" * 60 + end, "insert", 64) for end in "ab")
    assert len(first) == len(second) == 64
    assert first != second
