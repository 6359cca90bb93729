"""Play the interleavings of ``snapshot_world`` on servers, because servers allow writes during an open transaction.

Servers read a chunk in a transaction at REPEATABLE READ. A transaction that commits meanwhile may have drawn its outbox
ids before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase

from fixtures.databases import NewDatabase
from rowcast.producer.relay.leader.work_loop import Leader
from support.models.snapshot_search import WITHOUT_A_RULE, search, search_without_a_rule
from support.models.snapshot_world import ChunkFirst, LeaderType, worlds_in
from support.relay.primary import Primary, primary_at


@pytest.fixture
def primary(engine: str, new_database: NewDatabase) -> Iterator[Primary]:
    with primary_at(new_database(engine)) as primary:
        yield primary


@pytest.mark.campaign
@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_no_reader_gets_an_older_state_of_a_row(primary: Primary, campaign: bool) -> None:
    search(5_000 if campaign else 10, worlds_in(primary, Leader), (Phase.generate, Phase.shrink))


# One rule shows that worlds on a server find an older state. All rules are searched on SQLite.
_FOUND_SOONEST = ChunkFirst


@pytest.mark.parametrize("engine", ["postgresql"])
@pytest.mark.parametrize(
    "leader",
    [
        pytest.param(leader, marks=[] if leader is _FOUND_SOONEST else [pytest.mark.only_in_campaigns])
        for leader in WITHOUT_A_RULE
    ],
)
def test_without_one_of_the_rules_a_reader_gets_an_older_state(primary: Primary, leader: LeaderType) -> None:
    search_without_a_rule(1_000, leader, worlds_in(primary, leader))
