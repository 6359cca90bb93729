"""Plans for ``snapshot_world``, made at random, and a search for one that shows what must not be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from unit.snapshot_world import (
    BEFORE_A_CHUNK,
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
    SendsChunksAgain,
    Word,
    Write,
)

PlayedWorld = Callable[[Plan, int, int], None]
"""Of a plan, the rows of a claim and those of a chunk."""

WITHOUT_A_RULE: tuple[type[Leader], ...] = (ReadsLater, ReadsEarlier, ChunkFirst, OldRows, OldLsns)

tables = st.sampled_from((0, 0, 1))
keys = st.integers(1, 6)
changes = st.one_of(
    st.builds(Put, tables, keys), st.builds(Put, tables, keys), st.builds(Delete, tables, keys),
    st.builds(Move, tables, keys, keys),
)  # fmt: skip
held = st.sampled_from((False, False, True))
writes = st.builds(Write, st.lists(changes, min_size=1, max_size=3), st.booleans(), held)
words: tuple[Word, ...] = (
    "commit", "crash", "sleep", "wake", "resume", "pause", "kafka commits", "roll back", "stop",
)  # fmt: skip
kinds: tuple[st.SearchStrategy[Act], ...] = (
    *(writes,) * 6,
    *(st.sampled_from(words),) * 4,
    st.builds(Request, tables, st.integers(1, 3)),
    st.builds(Become, st.booleans(), st.booleans()),
)
# Not one_of, to which two that are the same are one.
acts = st.sampled_from(range(len(kinds))).flatmap(kinds.__getitem__)
gaps = st.sampled_from((0, 1, 2, BEFORE_A_CHUNK, 5, BEFORE_A_CHUNK, 12, 30))
plans: st.SearchStrategy[Plan] = st.lists(st.tuples(gaps, acts), min_size=15, max_size=50)
few = st.integers(1, 3)


def search(examples: int, world: PlayedWorld, phases: tuple[Phase, ...]) -> None:
    """Always the same examples. Raises AssertionError if one is found that should not be."""

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=phases,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(plan=plans, claim_rows=few, chunk_rows=few)
    def played(plan: Plan, claim_rows: int, chunk_rows: int) -> None:
        world(plan, claim_rows, chunk_rows)

    played()


def search_without_a_rule(examples: int, leader: LeaderType, world: PlayedWorld) -> None:
    """Fails unless a reader is found that is told of a row as it was earlier."""
    if issubclass(leader, SendsChunksAgain):
        leader.sent = {}
    with pytest.raises(AssertionError, match=r"not as its changes have left it|ahead of its changes"):
        search(examples, world, (Phase.generate,))
