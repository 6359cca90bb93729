"""Find the place in the transaction topic from which a load needs to read."""

from __future__ import annotations

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.topic_metadata import new_viewer, partition_ends, partitions_of
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import parse_transaction
from rowcast.shared.kafka.signature import SignatureCheck
from rowcast.shared.kafka.topic_names import transaction_topic

# The last records before the end are control records, BEGINs, and transactions that are not committed yet.
_LOOK_BACK = 1_000


def last_committed_end(settings: Settings) -> dict[Partition, Position]:
    """Return a position before the last END that Kafka has committed. Empty if the last records have no END.

    When a committed reader gets an END, all events of a smaller lsn are in their partitions. A later load by
    key up to the partitions' ends needs no earlier END.
    """
    place = transaction_topic(settings.source), 0
    signatures = SignatureCheck(settings.signature_keys)
    found: dict[Partition, Position] = {}
    with new_viewer(settings) as viewer:
        if not partitions_of(viewer, [place[0]]):
            return found
        first, end = partition_ends(viewer, [place])[place]
        for message in messages_between(viewer, settings, {place: max(first, end - _LOOK_BACK)}, {place: end}):
            if message.value() is None:
                continue
            signatures.check(place[0], message.key(), message.value(), message.headers())
            if parse_transaction(message.value()).status == "END":
                # The lsn is 0, because the END itself is read again.
                found[place] = Position(message.offset(), 0)
    return found
