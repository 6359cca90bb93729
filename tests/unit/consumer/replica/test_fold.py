"""The folded changes leave the same rows as all changes in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.change import TRUNCATE_KEY, Change
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.fold import fold, group_by_table
from support.kafka_source import column, shape

TABLES = ("a", "b", "c")
LAYOUTS = {
    name: [RowLayout(shape(name, column("n")), ("id", "n")), RowLayout(shape(name, column("n")), ("id", "n"))]
    for name in TABLES
}


def change(table: str, version: int, key: int, value: int | None, lsn: int) -> Change:
    after = None if value is None else b'{"id":%d,"n":%d}' % (key, value)
    return Change(LAYOUTS[table][version], b'{"id":%d}' % key, after, lsn, "1", 0, ("t", 0), lsn)


def truncate(table: str, version: int, lsn: int) -> Change:
    return Change(LAYOUTS[table][version], TRUNCATE_KEY, None, lsn, "1", 0, ("t", 1), lsn)


rows = st.tuples(
    st.sampled_from(TABLES), st.integers(0, 1), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 99))
)
truncates = st.tuples(st.sampled_from(TABLES), st.integers(0, 1))
changes = st.lists(st.one_of(rows, rows, rows, truncates)).map(
    lambda parts: [change(*part, lsn) if len(part) == 4 else truncate(*part, lsn) for lsn, part in enumerate(parts, 1)]
)


def replay(changes: list[Change], before: dict[tuple[str, bytes], bytes]) -> dict[tuple[str, bytes], bytes]:
    state = dict(before)
    for one in changes:
        if one.is_truncate:
            state = {place: image for place, image in state.items() if place[0] != one.layout.table}
        elif one.after is None:
            state.pop((one.layout.table, one.key), None)
        else:
            state[one.layout.table, one.key] = one.after
    return state


@given(changes, changes, st.booleans())
def test_folding_equals_replaying(earlier: list[Change], later: list[Change], seen_apart: bool) -> None:
    before = replay(earlier, {})
    folded = dict(before)
    # The changes of two partitions may come one after the other. The truncates are in a partition of their own.
    mixed = sorted(later, key=lambda one: one.partition) if seen_apart else later
    for group in group_by_table(fold(mixed), [f"public.{t}" for t in TABLES]):
        if group.is_emptied:
            folded = {place: image for place, image in folded.items() if place[0] != group.table}
        for keys in group.deletes.values():
            for key in keys:
                folded.pop((group.table, key), None)
        for images in group.upserts.values():
            for image in images:
                folded[group.table, image.partition(b',"n"')[0] + b"}"] = image
    assert folded == replay(later, before)


@given(changes)
def test_each_key_comes_once(some: list[Change]) -> None:
    for group in group_by_table(fold(some), [f"public.{t}" for t in TABLES]):
        rows = [key for keys in group.deletes.values() for key in keys]
        rows += [i.partition(b',"n"')[0] + b"}" for images in group.upserts.values() for i in images]
        assert len(rows) == len(set(rows))
