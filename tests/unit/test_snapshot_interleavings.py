"""Whatever happens between the steps of a snapshot, no reader is told of a row as it was earlier than it knows.

And each is told of every change once and, in the end, of every row as it is: ``snapshot_world`` says how that is seen.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import Phase

from rowcast.producer.relay.leader import Leader
from unit.relay_database import primary_at
from unit.snapshot_search import WITHOUT_A_RULE, PlayedWorld, search, search_without_a_rule
from unit.snapshot_world import LeaderType, Plan, play


def in_a_file(leader: LeaderType) -> PlayedWorld:
    def played(plan: Plan, claim_rows: int, chunk_rows: int) -> None:
        with TemporaryDirectory() as directory, primary_at(Path(directory) / "primary.db") as primary:
            sa.event.listen(primary.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
            primary.engine.dispose()
            play(primary, plan, claim_rows, chunk_rows, leader)

    return played


@pytest.mark.campaign
def test_no_reader_is_told_of_a_row_as_it_was_earlier(campaign: bool) -> None:
    search(20_000 if campaign else 100, in_a_file(Leader), (Phase.generate, Phase.shrink))


@pytest.mark.parametrize("leader", WITHOUT_A_RULE)
def test_without_one_of_the_rules_it_is(leader: LeaderType) -> None:
    search_without_a_rule(1_000, leader, in_a_file(leader))
