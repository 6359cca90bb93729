"""Draw random plans for ``snapshot_world``, and search for a plan that breaks a promise."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rowcast.producer.relay.leader.work_loop import Leader
from support.models.snapshot_world import (
    BEFORE_A_CHUNK,
    Act,
    Become,
    ChunkFirst,
    Delete,
    LeaderType,
    Move,
    OldLsns,
    OldRows,
    Plan,
    PlayedWorld,
    Put,
    ReadsEarlier,
    ReadsLater,
    Request,
    SendsChunksAgain,
    Word,
    Write,
)

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
# ``one_of`` would merge equal strategies, and the weights would be lost.
acts = st.sampled_from(range(len(kinds))).flatmap(kinds.__getitem__)
gaps = st.sampled_from((0, 1, 2, BEFORE_A_CHUNK, 5, BEFORE_A_CHUNK, 12, 30))
plans: st.SearchStrategy[Plan] = st.lists(st.tuples(gaps, acts), min_size=15, max_size=50)
few = st.integers(1, 3)


def search(examples: int, world: PlayedWorld, phases: tuple[Phase, ...]) -> None:
    """Play the same examples in each run. Raises AssertionError if a promise is broken.

    With the seed, the first plans already break the promises of all leaders without a rule.
    """

    @seed(1)
    @settings(max_examples=examples, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    @given(plan=plans, claim_rows=few, chunk_rows=few)
    def played(plan: Plan, claim_rows: int, chunk_rows: int) -> None:
        world(plan, claim_rows, chunk_rows)

    played()


def search_without_a_rule(examples: int, leader: LeaderType, world: PlayedWorld) -> None:
    """Fail unless a plan is found with which a reader sees an older state of a row."""
    if isinstance(leader, type) and issubclass(leader, SendsChunksAgain):
        leader.sent = {}
    with pytest.raises(AssertionError, match=r"not as its changes have left it|ahead of its changes"):
        search(examples, world, (Phase.generate,))
