"""Wait until a reader of committed data finds all committed messages."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

# The brokers abort the open transactions of a killed producer after a minute.
_PATIENCE_S = 90.0


def wait_until_settled(
    bootstrap_servers: str, partitions: Iterable[tuple[str, int]], patience_s: float = _PATIENCE_S
) -> None:
    """Wait until no transaction is open or on its way. Raises AssertionError after ``patience_s``.

    The coordinator acknowledges a commit when the commit is in its log. Each partition learns of the commit later. An
    immediate reader would find the last transaction in some partitions only.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    deadline = time.monotonic() + patience_s
    waiting = {TopicPartition(*partition) for partition in partitions}
    while waiting:
        try:
            stable = _ends(admin, waiting, IsolationLevel.READ_COMMITTED)
            highest = _ends(admin, waiting, IsolationLevel.READ_UNCOMMITTED)
        except KafkaException as error:
            # A broker that was away a moment ago answers so until the client knows its leader again.
            reason = f"the brokers answer {error}"
        else:
            waiting = {place for place in waiting if stable[place] < highest[place]}
            reason = f"a transaction is open in {waiting}"
        assert time.monotonic() < deadline, reason


def _ends(admin: AdminClient, places: set[TopicPartition], isolation: IsolationLevel) -> dict[TopicPartition, int]:
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = dict.fromkeys(places, latest)
    return {
        place: answer.result().offset for place, answer in admin.list_offsets(asked, isolation_level=isolation).items()
    }
