"""A former name leads to the present name, over several renames and back."""

from __future__ import annotations

from dataclasses import replace

from rowcast.shared.tables.renamed_tables import renamed_tables
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_shape
from support.kafka_source import column, shape


def table(name: str, *was: str, key: str = "id") -> TableShape:
    return replace(shape(name, column("n")), primary_key=(key,), was=tuple(f"public.{former}" for former in was))


def test_several_renames_lead_to_the_last_name() -> None:
    shapes = [table("a"), table("b", "a"), table("c", "b")]
    assert renamed_tables(shapes) == {"public.a": "public.c", "public.b": "public.c"}
    # A shape that never reached this topic.
    assert renamed_tables(shapes[2:]) == {"public.b": "public.c"}


def test_the_later_of_two_tables_that_name_each_other_is_present() -> None:
    assert renamed_tables([table("a", "b"), table("b", "a")]) == {"public.a": "public.b"}
    assert renamed_tables([table("b", "a"), table("a", "b")]) == {"public.b": "public.a"}


def test_a_table_with_another_key_is_another_table() -> None:
    assert renamed_tables([table("a"), table("b", "a", key="n")]) == {}


def test_a_table_never_was_itself() -> None:
    assert renamed_tables([table("a", "a")]) == {}


def test_the_document_of_a_shape_has_the_former_names_only_if_there_are_any() -> None:
    renamed = table("b", "a")
    assert parse_shape(renamed.to_json()) == renamed
    assert b'"was"' not in table("a").to_json()
