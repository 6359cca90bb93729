"""When a committed reader finds all that was committed."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported without saying so

# What a killed producer leaves open the brokers give up after a minute.
_PATIENCE_S = 90.0


def wait_until_settled(
    bootstrap_servers: str, partitions: Iterable[tuple[str, int]], patience_s: float = _PATIENCE_S
) -> None:
    """Until no transaction is open or on its way; fails after ``patience_s``.

    A commit is acknowledged when the coordinator has written it down. Each partition learns of it later, one by one:
    who reads committed messages at once finds some partitions without the last transaction, and others with it.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    deadline = time.monotonic() + patience_s
    waiting = {TopicPartition(*partition) for partition in partitions}
    while waiting:
        stable = _ends(admin, waiting, IsolationLevel.READ_COMMITTED)
        highest = _ends(admin, waiting, IsolationLevel.READ_UNCOMMITTED)
        waiting = {place for place in waiting if stable[place] < highest[place]}
        assert time.monotonic() < deadline, f"a transaction is open in {waiting}"


def _ends(admin: AdminClient, places: set[TopicPartition], isolation: IsolationLevel) -> dict[TopicPartition, int]:
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = dict.fromkeys(places, latest)
    return {place: told.result().offset for place, told in admin.list_offsets(asked, isolation_level=isolation).items()}
