"""Test the choice of the next claim, parking of unpublishable transactions, and checks of a recorded claim."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.claims.claim_table import Claims
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.producer.relay.kafka.size_limits import SizeLimits
from rowcast.producer.relay.leader.next_claim import NextClaim
from rowcast.producer.relay.leader.row_loader import RowLoader
from rowcast.producer.relay.messages.batch_rows import UnpublishableError
from rowcast.producer.relay.messages.envelopes import Envelopes
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.errors import DataError, FencedError
from support.relay.epochs import take_epoch
from support.relay.primary import ORDERS, Primary, line, primary_at


class World:
    """Hold a leader's claims. ``commits``: how often ``NextClaim`` has waited for a commit."""

    def __init__(self, primary: Primary, connections: Connections, settings: RelaySettings) -> None:
        self.primary = primary
        self.commits = 0
        self.epoch = take_epoch(connections, primary, settings)
        self.outbox = OutboxReader(connections, primary.tables)
        tables = TableVersions(connections, "shop")
        envelopes = Envelopes("shop", "app", tables)
        rows = RowLoader(self.outbox, tables, envelopes, SizeLimits({}), lambda heads: None)
        lease = self.epoch.lease_row.read(self.epoch.number)
        self.claims = Claims(connections, primary.tables, self.epoch.lease_row, self.outbox, lease)
        self.next = NextClaim(self.epoch, rows, self.claims, self._commit)

    def _commit(self) -> None:
        self.commits += 1

    def claim(self) -> list[int] | None:
        """Return the ids in the next claim, or None."""
        found = self.next.claim(self.outbox, self.claims.claimed)
        return None if found is None else list(found[0].outbox_ids)


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[tuple[Primary, Connections]]:
    with primary_at(tmp_path / "primary.db") as primary, Connections(primary.engine) as connections:
        primary.add_shapes(ORDERS)
        yield primary, connections


def new_world(made: tuple[Primary, Connections], on_unpublishable: str = "park", claim_rows: int = 2) -> World:
    settings = RelaySettings.model_validate({"on_unpublishable": on_unpublishable, "claim_rows": claim_rows})
    return World(*made, settings)


def test_rows_are_claimed_in_order_and_once(connections: tuple[Primary, Connections]) -> None:
    world = new_world(connections)
    ids = [world.primary.add(f"t{n}", line(ORDERS, "c", n)) for n in range(3)]
    assert world.claim() == ids[:2]
    assert world.next.more
    assert world.claim() == ids[2:]
    assert not world.next.more
    assert world.claim() is None


def test_what_comes_before_an_unpublishable_transaction_is_claimed_first(
    connections: tuple[Primary, Connections],
) -> None:
    world = new_world(connections)
    good = world.primary.add("good", line(ORDERS, "c", 1))
    world.primary.add("bad", "garbage\n")
    assert world.claim() == [good]
    assert world.next.more
    with pytest.raises(UnpublishableError):
        world.claim()


def test_a_large_transaction_is_read_to_its_end_before_its_first_part_is_claimed(
    connections: tuple[Primary, Connections],
) -> None:
    world = new_world(connections)
    for n in range(4):
        world.primary.add("large", line(ORDERS, "c", n), complete=None)
    world.primary.add("large", "garbage\n")
    with pytest.raises(UnpublishableError):
        world.claim()
    assert world.commits == 1
    assert world.claims.pending == []


def test_without_parking_the_first_part_is_claimed_at_once(connections: tuple[Primary, Connections]) -> None:
    world = new_world(connections, "stop")
    ids = [world.primary.add("large", line(ORDERS, "c", n), complete=None) for n in range(4)]
    world.primary.add("large", "garbage\n")
    assert world.claim() == ids[:2]
    assert world.commits == 0
    assert world.claims.partial is not None


def test_a_recorded_claim_is_loaded_again(connections: tuple[Primary, Connections]) -> None:
    world = new_world(connections)
    world.primary.add("a", line(ORDERS, "c", 1))
    world.claim()
    (claim,) = world.claims.pending
    assert [row.tx for row in world.next.load_claimed(claim)] == ["a"]


def test_a_recorded_claim_whose_rows_are_missing_is_an_error(connections: tuple[Primary, Connections]) -> None:
    world = new_world(connections)
    world.primary.add("a", line(ORDERS, "c", 1))
    world.claim()
    (claim,) = world.claims.pending
    with world.primary.engine.begin() as connection:
        connection.execute(sa.delete(world.primary.tables.outbox))
    with pytest.raises(DataError, match="of the claim of lsn 1 to 3 in rowcast_claim are missing"):
        world.next.load_claimed(claim)


def test_rows_that_a_successor_has_deleted_are_no_error_but_a_lost_lease(
    connections: tuple[Primary, Connections],
) -> None:
    world = new_world(connections)
    world.primary.add("a", line(ORDERS, "c", 1))
    world.claim()
    (claim,) = world.claims.pending
    with world.primary.engine.begin() as connection:
        connection.execute(sa.delete(world.primary.tables.outbox))
        connection.execute(sa.update(world.primary.tables.lease).values(epoch=99))
    with pytest.raises(FencedError):
        world.next.load_claimed(claim)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (line(ORDERS, "c", 1) * 2, "they take 4 lsns, and the claim has the lsns 1 to 3"),
        ("garbage\n", "cannot park it any more"),
    ],
    ids=["changed", "unpublishable"],
)
def test_a_recorded_claim_whose_rows_are_others_now_is_an_error(
    connections: tuple[Primary, Connections], changes: str, reason: str
) -> None:
    world = new_world(connections)
    world.primary.add("a", line(ORDERS, "c", 1))
    world.claim()
    (claim,) = world.claims.pending
    with world.primary.engine.begin() as connection:
        connection.execute(sa.update(world.primary.tables.outbox).values(changes=changes))
    with pytest.raises(DataError, match=reason):
        world.next.load_claimed(claim)
