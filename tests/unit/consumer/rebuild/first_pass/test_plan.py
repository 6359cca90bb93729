"""Processes get about as many records each, and a topic is divided only if its keys compare as bytes do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.reading.share import is_divisible
from rowcast.consumer.rebuild.first_pass.plan import divide, is_worth_it, with_divided
from support.kafka_source import column, shape

PARTITIONS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 4)), st.integers(0, 1_000), min_size=1
)


@given(PARTITIONS, st.sets(st.sampled_from(["a", "b", "c", "d"])), st.integers(1, 6))
def test_each_partition_is_in_one_share_and_only_divisible_topics_are_in_several(
    sizes: dict[tuple[str, int], int], divisible: set[str], processes: int
) -> None:
    shares = divide({place: (7, 7 + size) for place, size in sizes.items()}, divisible, processes)
    assert sorted(place for share in shares for place in share) == sorted(sizes)
    assert all(shares)
    assert len(shares) <= processes
    for share in with_divided(shares):
        assert share.divided.keys() <= divisible
        for topic in share.topics:
            count = sum(name == topic for name, _ in sizes)
            is_whole = sum(name == topic for name, _ in share.partitions) == count
            assert share.divided.get(topic) == (None if is_whole else count)


def test_the_shares_have_about_as_many_records() -> None:
    sizes = {("large", n): 100 for n in range(4)} | {("small", 0): 60, ("other", 0): 40}
    shares = divide({place: (0, size) for place, size in sizes.items()}, {"large"}, 2)
    assert [sum(sizes[place] for place in share) for share in shares] == [260, 240]


def test_several_processes_start_only_if_the_largest_share_leaves_enough_to_the_others() -> None:
    ends = {("a", 0): (50, 1_000_050), ("b", 0): (0, 199_999), ("c", 0): (0, 1)}
    large, medium, small = (frozenset({place}) for place in ends)
    assert not is_worth_it([], ends)
    assert not is_worth_it([large], ends)
    assert not is_worth_it([large, medium], ends)
    assert is_worth_it([large, medium | small], ends)


@pytest.mark.parametrize(
    ("type_", "engine", "is_so"),
    [
        ("int64", "postgresql", True),
        ("date", "mysql", True),
        # Engines take texts, and UUIDs that are texts, for equal that differ in case, and numbers that differ in zeros.
        ("text", "postgresql", False),
        ("uuid", "postgresql", True),
        ("uuid", "mysql", False),
        ("decimal", "postgresql", False),
        # A column of SQLite may hold any value.
        ("int64", "sqlite", False),
    ],
)
def test_a_topic_is_divided_only_if_different_keys_are_different_rows(type_: str, engine: str, *, is_so: bool) -> None:
    table = shape("t", column("part"), column("code", type_), key=("id", "code"), engine=engine)
    assert is_divisible(table) is is_so
