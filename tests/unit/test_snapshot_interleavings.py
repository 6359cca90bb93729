"""Whatever happens between the steps of a snapshot, no reader is told of a row as it was earlier than it knows.

And each is told of every change once and, in the end, of every row as it is: ``snapshot_world`` says how that is seen.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from unit.snapshot_world import (
    Act,
    Become,
    ChunkFirst,
    Delete,
    Leader,
    LeaderType,
    Move,
    OldLsns,
    OldRows,
    Plan,
    Put,
    ReadsEarlier,
    ReadsLater,
    Request,
    Write,
    play,
)

tables = st.sampled_from((0, 0, 1))
keys = st.integers(1, 6)
changes = st.one_of(
    st.builds(Put, tables, keys), st.builds(Put, tables, keys), st.builds(Delete, tables, keys),
    st.builds(Move, tables, keys, keys),
)  # fmt: skip
writes = st.builds(Write, st.lists(changes, min_size=1, max_size=3), st.booleans())
others: st.SearchStrategy[Act] = st.one_of(
    st.builds(Become, st.booleans(), st.booleans()),
    st.builds(Request, tables, st.integers(1, 3)),
    st.sampled_from(("crash", "crash", "sleep", "wake", "pause", "resume", "kafka commits")),
)
plans: st.SearchStrategy[Plan] = st.lists(
    st.tuples(st.sampled_from((0, 1, 2, 5, 12, 30)), st.one_of(writes, writes, others)), min_size=8, max_size=50
)
few = st.integers(1, 3)


def search(examples: int, leader: LeaderType, phases: tuple[Phase, ...]) -> None:
    """Always the same examples. Raises AssertionError if one is found that should not be."""

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=phases,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(plan=plans, claim_rows=few, chunk_rows=few)
    def played(plan: Plan, claim_rows: int, chunk_rows: int) -> None:
        with TemporaryDirectory() as directory:
            play(Path(directory), plan, claim_rows, chunk_rows, leader)

    played()


@pytest.mark.campaign
def test_no_reader_is_told_of_a_row_as_it_was_earlier(campaign: bool) -> None:
    search(20_000 if campaign else 100, Leader, (Phase.generate, Phase.shrink))


@pytest.mark.parametrize("leader", [ReadsLater, ReadsEarlier, ChunkFirst, OldRows, OldLsns])
def test_without_one_of_the_rules_it_is(leader: Any) -> None:
    if hasattr(leader, "_remembering"):
        leader.sent = {}
    with pytest.raises(AssertionError, match=r"not as its changes have left it|ahead of its changes"):
        search(1_000, leader, (Phase.generate,))
