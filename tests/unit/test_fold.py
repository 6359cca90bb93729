"""Folding leaves what applying every change in its order would leave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.changes import Change
from rowcast.consumer.fold import fold, grouped, parents_first
from rowcast.consumer.layouts import Layout
from rowcast.shared.shapes import TableShape
from topics import column, shape

TABLES = ("a", "b", "c")
LAYOUTS = {
    name: [Layout(shape(name, column("n")), ("id", "n")), Layout(shape(name, column("n")), ("id", "n"))]
    for name in TABLES
}


def change(table: str, version: int, key: int, value: int | None, lsn: int) -> Change:
    after = None if value is None else b'{"id":%d,"n":%d}' % (key, value)
    return Change(LAYOUTS[table][version], b'{"id":%d}' % key, after, lsn, "1", 0, ("t", 0), lsn)


changes = st.lists(
    st.tuples(st.sampled_from(TABLES), st.integers(0, 1), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 99)))
).map(lambda parts: [change(*part, lsn) for lsn, part in enumerate(parts, 1)])


def replay(changes: list[Change], before: dict[tuple[str, bytes], bytes]) -> dict[tuple[str, bytes], bytes]:
    state = dict(before)
    for one in changes:
        if one.after is None:
            state.pop((one.layout.table, one.key), None)
        else:
            state[one.layout.table, one.key] = one.after
    return state


@given(changes, changes)
def test_folding_equals_replaying(earlier: list[Change], later: list[Change]) -> None:
    before = replay(earlier, {})
    folded = dict(before)
    for group in grouped(fold(later), [f"public.{t}" for t in TABLES]):
        for keys in group.deletes.values():
            for key in keys:
                folded.pop((group.table, key), None)
        for images in group.upserts.values():
            for image in images:
                folded[group.table, image.partition(b',"n"')[0] + b"}"] = image
    assert folded == replay(later, before)


@given(changes)
def test_each_key_comes_once(some: list[Change]) -> None:
    for group in grouped(fold(some), [f"public.{t}" for t in TABLES]):
        rows = [key for keys in group.deletes.values() for key in keys]
        rows += [i.partition(b',"n"')[0] + b"}" for images in group.upserts.values() for i in images]
        assert len(rows) == len(set(rows))


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


def test_a_cycle_is_no_reason_to_give_up() -> None:
    shapes = [node("a", "b", "root"), node("b", "c"), node("c", "a"), node("root"), node("leaf", "a", "gone")]
    order = parents_first(shapes)
    assert sorted(order) == ["public.a", "public.b", "public.c", "public.leaf", "public.root"]
    assert order.index("public.root") < order.index("public.a") < order.index("public.leaf")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), max_size=12))
def test_every_graph_has_an_order(edges: list[tuple[str, str]]) -> None:
    shapes = [node(name, *sorted({p for child, p in edges if child == name})) for name in "abcde"]
    assert sorted(parents_first(shapes)) == [f"public.{name}" for name in "abcde"]
