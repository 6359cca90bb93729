"""``rowcast migrate``: compare a replica with the newest shapes of the source, and let the replica follow."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.migration.preview import Preview, TablePreview
from rowcast.consumer.reading.topic_metadata import new_asker, read_shapes
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.evolution.steps import Step
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.promoted import require_not_promoted
from rowcast.consumer.replica.table_records import TableRecords
from rowcast.consumer.replica.taken import taken_replica
from rowcast.consumer.replica.worker_tables import METADATA
from rowcast.consumer.views.replica_view import replica_shapes
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Migration:
    """The planned or finished changes of a replica. ``tables``: by name. ``is_applied``: the changes were made."""

    replica: str
    tables: tuple[TablePreview, ...]
    is_applied: bool

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to do."""
        return not any(table.stop or (table.changes and not self.is_applied) for table in self.tables)


def migrate(
    settings: Settings, name: str, *, apply: bool = False, drop: Sequence[str] = (), stop: threading.Event
) -> Migration:
    """Compare the tables of a replica with the newest shapes in the schema topic. With ``apply``, change the tables.

    ``drop``: shell patterns over ``schema.table.column`` of columns that the source does not have any more. Raise
    ConfigurationError, DataError and UnreachableError, and RetriableError if the active worker does not end.
    """
    settings.require_relay()
    engine = _open(settings, name)
    layouts = RowLayouts(settings.replica(name).tables)
    with new_asker(settings) as asker:
        read_shapes(asker, settings, layouts)
    with engine.connect() as connection, connection.begin():
        before = tuple(_preview(connection, settings, name, layouts, drop).tables())
    if apply and any(table.changes for table in before):
        _apply(settings, name, layouts, drop, stop)
    return Migration(name, before, apply)


def _open(settings: Settings, name: str) -> Engine:
    url, label = settings.replica(name).sqlalchemy_url, f"replica {name!r}"
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # Connecting would create an empty file.
        raise ConfigurationError(f"{label}: there is no file {url.database}. Start `rowcast worker {name}`.")
    engine = open_engine(url, label, pooled=False)
    replica_dialect(engine.dialect.name).configure_reader(engine)
    reach(engine, label)
    inspector = sa.inspect(engine)
    if not all(inspector.has_table(table.name) for table in METADATA.sorted_tables):
        raise ConfigurationError(f"{label}: no worker has run yet. Start `rowcast worker {name}`.")
    require_not_promoted(engine, settings.source, name)
    return engine


def _preview(
    connection: Connection, settings: Settings, name: str, layouts: RowLayouts, drop: Sequence[str]
) -> Preview:
    row = read_row(connection, settings.source)
    return Preview(
        connection,
        replica_dialect(connection.dialect.name),
        TableRecords(settings.source).read(connection),
        replica_shapes(settings.replica(name), layouts),
        drop=drop,
        is_consistent=row is not None and row.state == "consistent",
        is_asked=True,
        renamed=layouts.renamed,
    )


def _apply(settings: Settings, name: str, layouts: RowLayouts, drop: Sequence[str], stop: threading.Event) -> None:
    """Change the tables while the workers stand by."""
    evolving = settings.replica(name).model_copy(update={"evolution": "evolve"})
    asked = settings.model_copy(update={"replicas": {**settings.replicas, name: evolving}})

    def steps(connection: Connection) -> Iterator[Step]:
        return _preview(connection, settings, name, layouts, drop).steps()

    with taken_replica(asked, name, layouts, stop, f"rowcast migrate {name} --apply") as replica:
        replica.carry_out(steps)
        replica.prepare()
