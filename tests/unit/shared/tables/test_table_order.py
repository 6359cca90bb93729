"""Tables are sorted so that referred tables come first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.table_order import parents_first
from support.kafka_source import column, shape

edges = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), max_size=12)


def node(name: str, *parents: str) -> TableShape:
    return shape(name, *(column(f"{p}_id") for p in parents), refers=[(f"{p}_id", p) for p in parents])


def test_parents_come_before_their_children() -> None:
    shapes = [
        node("line", "orders", "product"),
        node("orders", "customer"),
        node("product"),
        node("customer", "customer"),
    ]
    order = parents_first(shapes)
    assert sorted(order) == sorted(s.full_name for s in shapes)
    at = {name.removeprefix("public."): n for n, name in enumerate(order)}
    assert at["customer"] < at["orders"] < at["line"]
    assert at["product"] < at["line"]


def test_tables_without_foreign_keys_stay_in_the_given_order() -> None:
    shapes = [node("b"), node("child", "z"), node("a"), node("z")]
    assert parents_first(shapes) == ["public.b", "public.a", "public.z", "public.child"]


def test_a_table_that_is_not_given_is_no_parent() -> None:
    assert parents_first([node("b", "gone"), node("a")]) == ["public.b", "public.a"]


def test_a_cycle_is_no_reason_to_give_up() -> None:
    shapes = [node("a", "b", "root"), node("b", "c"), node("c", "a"), node("root"), node("leaf", "a", "gone")]
    order = parents_first(shapes)
    assert sorted(order) == ["public.a", "public.b", "public.c", "public.leaf", "public.root"]
    assert order.index("public.root") < order.index("public.a") < order.index("public.leaf")


@given(edges)
def test_every_graph_has_an_order(edges: list[tuple[str, str]]) -> None:
    shapes = [node(name, *sorted({p for child, p in edges if child == name})) for name in "abcde"]
    assert sorted(parents_first(shapes)) == [f"public.{name}" for name in "abcde"]


@given(edges, st.permutations("abcde"))
def test_without_a_cycle_every_parent_comes_first(edges: list[tuple[str, str]], names: list[str]) -> None:
    # Each child has a greater name than its parents, so that the graph has no cycle.
    edges = [(max(pair), min(pair)) for pair in edges if pair[0] != pair[1]]
    order = parents_first(node(name, *sorted({p for child, p in edges if child == name})) for name in names)
    for child, parent in edges:
        assert order.index(f"public.{parent}") < order.index(f"public.{child}")
