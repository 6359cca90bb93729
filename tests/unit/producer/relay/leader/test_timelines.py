"""A marker that the source cannot have reached is refused, and a plausible one is a loss."""

from __future__ import annotations

import pytest

from rowcast.producer.relay.claims.lease import Lease
from rowcast.producer.relay.kafka.marker import Markers
from rowcast.producer.relay.leader.timelines import primary_loss, require_plausible
from rowcast.shared.errors import DataError

LEASE = Lease(epoch=3, next_lsn=101, published_lsn=100, partial=None)
TOPIC = "__rowcast.shop"


@pytest.mark.parametrize("lsn", [2**41, 2**62, 2**63 - 1])
@pytest.mark.parametrize("committed", [True, False])
def test_a_marker_that_no_relay_can_have_written(lsn: int, committed: bool) -> None:
    markers = Markers(lsn if committed else 100, lsn)
    with pytest.raises(DataError, match=rf"topic {TOPIC} has a marker with lsn {lsn}.*up to 100\..*delete the topic"):
        require_plausible(LEASE, markers, TOPIC)


@pytest.mark.parametrize("sent", [None, 100, 101, 10_000_000_000])
def test_a_marker_of_a_restored_primary_is_a_loss(sent: int | None) -> None:
    markers = Markers(100, sent)
    require_plausible(LEASE, markers, TOPIC)
    assert (primary_loss(LEASE, markers) is not None) == ((sent or 0) > 100)
