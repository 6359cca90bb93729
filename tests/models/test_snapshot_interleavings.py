"""Check that no reader goes back to an older state of a row, in any interleaving with the steps of a snapshot.

Each reader sees every change once, and in the end every row in the last state. ``snapshot_world`` checks both.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import Phase

from rowcast.producer.relay.leader.work_loop import Leader
from support.models.snapshot_search import WITHOUT_A_RULE, search, search_without_a_rule
from support.models.snapshot_world import LeaderType, worlds_in
from support.relay.primary import Primary, primary_at


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Primary]:
    with primary_at(tmp_path_factory.mktemp("worlds") / "primary.db") as primary:
        sa.event.listen(primary.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
        primary.engine.dispose()
        yield primary


@pytest.mark.campaign
def test_no_reader_gets_an_older_state_of_a_row(primary: Primary, campaign: bool) -> None:
    search(20_000 if campaign else 12, worlds_in(primary, Leader), (Phase.generate, Phase.shrink))


@pytest.mark.parametrize("leader", WITHOUT_A_RULE)
def test_without_one_of_the_rules_a_reader_gets_an_older_state(primary: Primary, leader: LeaderType) -> None:
    search_without_a_rule(1_000, leader, worlds_in(primary, leader))
