"""Let the relay publish all rows again, for topics that do not have every row."""

from __future__ import annotations

import threading

from sqlalchemy.engine import Engine

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.progress import ReadRecords, RebuildStoppedError
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.positions import read_row, register_from
from rowcast.shared.cli.contributions import SNAPSHOTS, load_contributions
from rowcast.shared.config.settings import Settings
from rowcast.shared.process_name import new_process_name


def is_from_snapshot(engine: Engine, source: str) -> bool:
    """Return whether all rows were published again for the tables of this ``source`` of the worker's tables."""
    with engine.connect() as connection:
        row = read_row(connection, source)
    return row is not None and row.first_lsn > 0


def publish_all_rows(
    settings: Settings, replica: str, engine: Engine, source: str, records: ReadRecords, stop: threading.Event
) -> None:
    """Publish all rows of the replica's tables, and note from which lsn on the tables of ``source`` are to be read.

    Raise DataError if a snapshot has failed, and RebuildStoppedError.
    """
    layouts = RowLayouts(settings.replica(replica).tables)
    read_topics(settings, layouts)
    records.begin("publishing")
    names = [shape.full_name for shape in layouts.table_shapes()]
    ((_, publish),) = load_contributions(SNAPSHOTS)
    first_lsn = publish(settings, names, stop, records.note_published)
    if stop.is_set():
        raise RebuildStoppedError(replica)
    with engine.begin() as connection:
        register_from(connection, source, new_process_name(), first_lsn)
