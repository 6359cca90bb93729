"""The interleavings of ``unit.snapshot_world`` on servers, which let others write while a transaction is open.

There a chunk is read in a transaction at REPEATABLE READ, and what is committed meanwhile may have drawn its outbox ids
before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase

from fix_databases import NewDatabase
from rowcast.producer.relay.leader import Leader
from unit.relay_database import Primary, primary_at
from unit.snapshot_search import WITHOUT_A_RULE, PlayedWorld, search, search_without_a_rule
from unit.snapshot_world import LeaderType, Plan, empty, play


@pytest.fixture
def primary(engine: str, new_database: NewDatabase) -> Iterator[Primary]:
    with primary_at(new_database(engine)) as primary:
        yield primary


def on(primary: Primary, leader: LeaderType) -> PlayedWorld:
    def played(plan: Plan, claim_rows: int, chunk_rows: int) -> None:
        empty(primary)
        play(primary, plan, claim_rows, chunk_rows, leader)

    return played


@pytest.mark.campaign
@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_no_reader_is_told_of_a_row_as_it_was_earlier(primary: Primary, campaign: bool) -> None:
    search(5_000 if campaign else 30, on(primary, Leader), (Phase.generate, Phase.shrink))


@pytest.mark.parametrize("engine", ["postgresql"])
@pytest.mark.parametrize("leader", WITHOUT_A_RULE)
def test_without_one_of_the_rules_it_is(primary: Primary, leader: LeaderType) -> None:
    search_without_a_rule(1_000, leader, on(primary, leader))
