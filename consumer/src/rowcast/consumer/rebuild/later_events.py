"""Whether the topics still hold the state of an earlier moment: a look at the events after the moment.

Compaction removes an event once a later event of the same key is in the compacted part of the partition. Up to the
moment, therefore, an event may be missing only if a row has changed after the moment. Two facts show that no event is
missing. Either everything after the moment is younger than the time for which the topics keep every event. Or no event
after the moment is missing (each END counts them), and each row whose first event after the moment says that the row
existed is in the copy.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy.engine import Engine

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, new_viewer, partition_ends
from rowcast.consumer.rebuild.moment import Moment
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.positions import read_positions
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.consumer.topics.records import read_record
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.views.replica_view import replica_shapes
from rowcast.shared import row_values
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import new_admin
from rowcast.shared.kafka.messages import parse_transaction
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.tables.shape import TableShape

# The clocks of the relays and of Kafka's servers may differ.
_CLOCKS_MS = 60_000
# A server may show an END before a counted event.
_PASSES = 10
_PAUSE_S = 1.0
_KEYS_PER_LOOK = 500
_REASONS = {
    "r": "A snapshot has published the row later, so the row may be older than the capture",
    "u": "Compaction has removed its state at the moment, or an upsert has created the row since",
    "d": "Compaction has removed its state at the moment, or one transaction has created and deleted the row since",
}


def require_held(settings: Settings, replica: str, engine: Engine, moment: Moment) -> None:
    """Raise DataError unless the copy in ``engine``, which ends at the moment, is sure to be complete.

    ``settings``: with the copy as the replica's database.
    """
    if moment.next_ms is None:
        return
    layouts = RowLayouts(settings.replica(replica).tables)
    ends = read_topics(settings, layouts)
    is_young = _keeps_every_event(settings, {topic for topic, _ in ends}, moment.next_ms)
    if is_young and not moment.precedes_snapshot:
        return
    with engine.connect() as connection:
        positions = read_positions(connection, settings.source)
    starts = {place: first for place, (first, _) in ends.items()}
    starts |= {place: position.next_offset for place, position in positions.items()}
    later = _complete_later_events(settings, layouts, starts)
    # A row is published for the first time by a snapshot if it is from before the capture.
    ops = {"r"} if is_young else {"r", "u", "d"}
    copy = ComparedDatabase(settings.replica(replica), "copy")
    try:
        for shape in replica_shapes(settings.replica(replica), layouts):
            found = later.first_of_keys.get(shape.full_name, {})
            first = {key: event for key, event in found.items() if event is not None and event.op in ops}
            _require_rows(ComparedTable(copy, shape, is_replica=True, settings=settings.table(shape)), shape, first)
    finally:
        copy.close()


def _keeps_every_event(settings: Settings, topics: Collection[str], since_ms: int) -> bool:
    """Return whether the topics' settings forbid the compaction of every event that was published since then."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource

    admin = new_admin(settings.require_kafka(), "worker")
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    kept_ms = time.time() * 1_000 - since_ms + _CLOCKS_MS
    try:
        for future in admin.describe_configs(resources, request_timeout=KAFKA_TIMEOUT_S).values():
            config = future.result()
            if "compact" in config["cleanup.policy"].value and int(config["min.compaction.lag.ms"].value) < kept_ms:
                return False
    except KafkaException:
        return False  # Without the right to describe topics, the events themselves have to show it.
    return True


class _FirstEvent(NamedTuple):
    """The first event of a row after the moment: op, key and lsn."""

    op: str
    key: dict[str, Any]
    lsn: int


class _LaterEvents:
    """The events after the moment.

    ``first_of_keys``: the first event of each key, by ``schema.table``. None stands for a create, because the row did
    not exist at the moment.
    """

    def __init__(self) -> None:
        self.first_of_keys: dict[str, dict[bytes, _FirstEvent | None]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._ends: list[tuple[str, Mapping[str, int]]] = []

    def add(self, message: Any) -> None:
        """Add a message of a table topic."""
        record = read_record(message)
        if record.fault is not None:
            raise DataError(f"{record.place} is no event: {record.fault}")
        event = record.event
        if event is None:
            return
        if event.transaction is not None:
            self._counts[event.transaction.partition(":")[0], event.full_name] += 1
        keys = self.first_of_keys.setdefault(event.full_name, {})
        if message.key() not in keys:
            keys[message.key()] = None if event.op == "c" else _FirstEvent(event.op, event.key, event.lsn)

    def add_end(self, message: Any) -> None:
        """Add a message of the transaction topic."""
        event = parse_transaction(message.value())
        if event.status == "END":
            self._ends.append((event.id.partition(":")[0], event.data_collections or {}))

    def lacking(self, tables: Collection[str]) -> Iterator[str]:
        """Yield the transactions with missing events of the tables."""
        for transaction, counts in self._ends:
            for table, count in counts.items():
                if table in tables and self._counts[transaction, table] < count:
                    yield f"transaction {transaction} had {count} events of table {table}, and the topic has fewer"


def _complete_later_events(settings: Settings, layouts: RowLayouts, starts: Mapping[Partition, int]) -> _LaterEvents:
    """Read everything after the moment. Raise DataError if compaction has removed a part of it."""
    tables = {shape.full_name for shape in layouts.latest_shapes()}
    for _ in range(_PASSES):
        later = _read_later_events(settings, starts)
        lack = next(later.lacking(tables), None)
        if lack is None:
            return later
        time.sleep(_PAUSE_S)
    raise DataError(f"{lack}, so compaction has removed events since")


def _read_later_events(settings: Settings, starts: Mapping[Partition, int]) -> _LaterEvents:
    later, topic = _LaterEvents(), transaction_topic(settings.source)
    with new_viewer(settings) as viewer:
        # The ENDs first, because the counted events are in their partitions then.
        of_transactions = {place: start for place, start in starts.items() if place[0] == topic}
        ends = {place: end for place, (_, end) in partition_ends(viewer, list(of_transactions)).items()}
        for message in messages_between(viewer, settings, of_transactions, ends):
            later.add_end(message)
        of_tables = {place: start for place, start in starts.items() if place[0] != topic}
        ends = {place: end for place, (_, end) in partition_ends(viewer, list(of_tables)).items()}
        for message in messages_between(viewer, settings, of_tables, ends):
            later.add(message)
    return later


def _require_rows(table: ComparedTable, shape: TableShape, first: Mapping[bytes, _FirstEvent]) -> None:
    """Raise DataError if a row that existed at the moment is not in the copy. ``first``: the rows' next events."""
    events = list(first.items())
    for start in range(0, len(events), _KEYS_PER_LOOK):
        looked = events[start : start + _KEYS_PER_LOOK]
        with table.database.connect() as connection:
            found = table.find(connection, [event.key for _, event in looked])
        if len(found) == len(looked):
            continue
        with table.database.connect() as connection:
            key, event = next(one for one in looked if not table.find(connection, [one[1].key]))
        raise DataError(
            f"table {shape.full_name}: the topics up to the moment lack a row{row_values.key_suffix(key)} whose next "
            f"event has lsn {event.lsn}. {_REASONS[event.op]}"
        )
