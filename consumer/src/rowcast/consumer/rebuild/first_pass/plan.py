"""Divide the partitions of the tables' topics among processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heappop, heappush

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.share import Share

Ends = Mapping[Partition, tuple[int, int]]
"""The first offset and the end of each partition."""

# The start takes as much CPU as the load of 160,000 records.
_WORTH_RECORDS = 200_000


def divide(ends: Ends, divisible: Collection[str], processes: int) -> list[frozenset[Partition]]:
    """Return the partitions of each process, with about as many records for each. No process is without partitions.

    ``ends``: the first offset and the end of each partition. ``divisible``: the topics whose partitions may be read by
    several processes.
    """
    shares: list[tuple[int, int, set[Partition]]] = []
    for number in range(processes):
        heappush(shares, (0, number, set()))
    for records, unit in sorted(_units(ends, divisible), reverse=True):
        held, number, partitions = heappop(shares)
        heappush(shares, (held + records, number, partitions | set(unit)))
    return [frozenset(partitions) for _, _, partitions in sorted(shares, key=lambda share: share[1]) if partitions]


def _units(ends: Ends, divisible: Collection[str]) -> Iterator[tuple[int, tuple[Partition, ...]]]:
    """Yield the smallest shares: a partition of a divisible topic, or all partitions of any other topic."""
    whole: dict[str, list[Partition]] = {}
    for partition, (first, end) in ends.items():
        if partition[0] in divisible:
            yield end - first, (partition,)
        else:
            whole.setdefault(partition[0], []).append(partition)
    for partitions in whole.values():
        yield sum(ends[partition][1] - ends[partition][0] for partition in partitions), tuple(partitions)


def is_worth_it(shares: Iterable[frozenset[Partition]], ends: Ends) -> bool:
    """Return whether several processes save more time than their start takes."""
    records = [sum(ends[partition][1] - ends[partition][0] for partition in share) for share in shares]
    return bool(records) and sum(records) - max(records) >= _WORTH_RECORDS


def with_divided(shares: Collection[frozenset[Partition]]) -> list[Share]:
    """Return the shares, with the topics of several shares."""
    counts: dict[str, int] = {}
    holders: dict[str, int] = {}
    for partitions in shares:
        for topic in {topic for topic, _ in partitions}:
            holders[topic] = holders.get(topic, 0) + 1
        for topic, _ in partitions:
            counts[topic] = counts.get(topic, 0) + 1
    divided = {topic: count for topic, count in counts.items() if holders[topic] > 1}
    return [Share(partitions, {t: n for t, n in divided.items() if (t in {p for p, _ in partitions})})
            for partitions in shares]  # fmt: skip
