"""Row layouts follow the schema topic, and patterns choose the tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rowcast.consumer.events.row_layout import RowLayout, RowLayouts, matches_any
from rowcast.shared.errors import DataError
from support.kafka_source import column, shape

OLD, NEW = shape("thing", column("n")), shape("thing", column("n"), column("more"))


def test_a_layout_has_the_columns_in_the_order_of_the_shape() -> None:
    layout = RowLayout(NEW, ("id", "n"))
    assert (layout.table, layout.key, layout.names) == ("public.thing", ("id",), frozenset(("id", "n")))


def test_a_layout_is_found_by_the_shape_of_an_event() -> None:
    layouts = RowLayouts()
    assert layouts.add("1", OLD, 0)
    assert layouts.by_event_shape["public", "thing", "1"] is layouts.find("public.thing", "1")
    assert layouts.find("public.thing", "2") is None


def test_only_a_change_of_the_latest_shape_is_news() -> None:
    layouts = RowLayouts()
    assert [layouts.add(*one) for one in (("1", OLD, 0), ("2", NEW, 1), ("2", NEW, 1), ("2", NEW, 2))] == [
        True, True, False, False,
    ]  # fmt: skip


def test_a_lost_layout_is_inferred_once(caplog: pytest.LogCaptureFixture) -> None:
    layouts = RowLayouts()
    layouts.add("2", NEW, 0)
    found = [layouts.infer("public.thing", "1", ["id", "dropped"]) for _ in range(2)]
    assert found[0] is found[1]
    assert found[0].columns == ("id",)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("table", "version", "columns", "reason"),
    [
        ("public.other", "1", ["id"], "the schema topic has no shape of table public.other"),
        ("public.thing", None, ["id", "dropped"], "has no column dropped"),
        ("public.thing", "1", ["n"], "needs its primary key"),
    ],
)
def test_a_layout_that_cannot_be_inferred(table: str, version: str | None, columns: list[str], reason: str) -> None:
    layouts = RowLayouts()
    layouts.add("2", NEW, 0)
    with pytest.raises(DataError, match=reason):
        layouts.infer(table, version, columns)


def test_patterns_match_whole_names() -> None:
    assert matches_any("public.orders", ["stock.*", "public.ord*"])
    assert not matches_any("public.orders", ["public.ord"])
    assert not matches_any("public.orders", [])


def test_a_lost_layout_keeps_the_former_names_of_columns() -> None:
    """The row of an older shape is read by the names of its time, and translated when it is written."""
    layouts = RowLayouts()
    title = replace(column("title", "text"), was=("name",))
    layouts.add("2", shape("thing", title, column("n"), unique=[("title",)]), 0)
    found = layouts.infer("public.thing", "1", ["id", "name"])
    assert found.columns == ("id", "name")
    assert found.shape.column("name").type.name == "text"
