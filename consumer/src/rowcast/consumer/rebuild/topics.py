"""Whether the topics can give every row of a replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import new_asker, partition_ends, partitions_of, read_shapes
from rowcast.shared.config.settings import Settings
from rowcast.shared.tables.shape import TableShape


def read_topics(settings: Settings, layouts: RowLayouts) -> dict[Partition, tuple[int, int]]:
    """Read the shapes into ``layouts``. Return the first offset and the end of each partition of the tables' topics."""
    with new_asker(settings) as asker:
        read_shapes(asker, settings, layouts)
        topics = [settings.topic_of(shape.schema, shape.name) for shape in layouts.latest_shapes()]
        found = partitions_of(asker, topics)
        return partition_ends(asker, [(topic, number) for topic, numbers in found.items() for number in numbers])


def lacks(
    settings: Settings,
    layouts: RowLayouts,
    ends: Mapping[Partition, tuple[int, int]],
    recorded: Mapping[str, TableShape],
) -> Iterator[str]:
    """Return why the topics alone do not give every row, each by table. ``recorded``: the shapes of the live tables.

    A topic whose first records were deleted lacks the rows not changed since. After another primary key, the records
    under the old keys stay in the topic, also for rows deleted under the new key.
    """
    for shape in layouts.table_shapes():
        topic = settings.topic_of(shape.schema, shape.name)
        for (name, number), (first, _) in ends.items():
            if name == topic and first > 0:
                yield (
                    f"topic {topic}, partition {number} begins at offset {first}: Kafka has deleted earlier records of "
                    f"table {shape.full_name}, so rows that have not changed since are missing"
                )
        keys = {layout.key for layout in layouts.by_event_shape.values() if layout.table == shape.full_name}
        if (before := recorded.get(shape.full_name)) is not None:
            keys.add(before.primary_key)
        if others := sorted(keys - {shape.primary_key}):
            yield (
                f"the primary key of table {shape.full_name} was ({', '.join(others[0])}) and is "
                f"({', '.join(shape.primary_key)}), so topic {topic} has records under keys that nothing deletes"
            )
