"""Find shape and topic for each outbox line, and the shapes to publish before its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from rowcast.producer.outbox.line_parser import LineHead
from rowcast.producer.relay.claims.connections import Connections
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.kafka.topic_names import TABLE_TOPIC, marker_topic, schema_topic, table_topic, transaction_topic
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import StoredShape, newest_version, stored_shapes

_MAX_TOPIC_LENGTH = 249


@dataclass(frozen=True, slots=True)
class TableVersion:
    """Hold one version of a table's shape. ``document``: the JSON from the capture."""

    schema: str
    name: str
    version: str
    document: str
    topic: str
    shape: TableShape

    def key(self) -> bytes:
        """Return the message key on the schema topic."""
        return orjson.dumps({"schema": self.schema, "table": self.name})

    def value(self, source: str, lsn: int, more: Mapping[str, object] | None = None) -> bytes:
        """Return the message value on the schema topic. The shape is valid for events from ``lsn`` on.

        ``more``: further members, about the state of the source.
        """
        own = {"version": self.version, "source": source, "lsn": lsn}
        return orjson.dumps({**orjson.loads(self.document), **own, **(more or {})})


class TableVersions:
    """Hold the shapes of ``rowcast_shape``, and remember the published shapes.

    The table is read again when a line names an unknown version, or a version that is not the newest as far as known.
    """

    def __init__(self, connections: Connections, source: str, template: str = TABLE_TOPIC) -> None:
        self._connections = connections
        self._source = source
        self._template = template
        self._known: dict[tuple[str, str], TableVersion] = {}
        self._latest: dict[str, TableVersion] = {}
        self._published: set[tuple[str, str]] = set()
        self._last_published: dict[str, TableVersion] = {}
        self.load()

    def load(self) -> None:
        """Read all shapes.

        Raises ConfigurationError if two tables would share a topic, DataError if a shape is damaged.
        """
        for stored in stored_shapes(self._connections.reader):
            identity = stored.table, stored.version
            # The tables are sorted by the time when their shapes became the newest. If two tables name each other as a
            # former name, the table published later is present.
            self._latest.pop(stored.table, None)
            self._known[identity] = self._latest[stored.table] = self._known.get(identity) or self._parse(stored)
        self._check_topics()

    def _parse(self, stored: StoredShape) -> TableVersion:
        shape = stored.parse()
        topic = table_topic(self._source, shape.schema, shape.name, self._template)
        return TableVersion(shape.schema, shape.name, stored.version, stored.document, topic, shape)

    def _check_topics(self) -> None:
        own = (transaction_topic(self._source), schema_topic(self._source), marker_topic(self._source))
        owners: dict[str, str] = {}
        for full_name, table in self._latest.items():
            other = owners.setdefault(table.topic, full_name)
            if other != full_name:
                raise ConfigurationError(
                    f"the tables {other} and {full_name} would share the topic {table.topic}: {self._why_shared()}, or "
                    'exclude a table from the capture with Table(info={"rowcast": False}).'
                )
            if table.topic in own:
                raise ConfigurationError(
                    f"the events of the table {full_name} would go to the topic {table.topic}, which is rowcast's own. "
                    f"Choose another template than {self._template!r} in [topics]."
                )
            if len(table.topic) > _MAX_TOPIC_LENGTH:
                raise ConfigurationError(
                    f"the table {full_name} needs a topic name of {len(table.topic)} characters, and Kafka allows "
                    f"{_MAX_TOPIC_LENGTH}: {table.topic}. Choose a shorter source, or a shorter template in [topics]."
                )

    def _why_shared(self) -> str:
        if "{schema}" not in self._template:
            return f"the template {self._template!r} in [topics] has no {{schema}}. Add it"
        return "Kafka does not allow the characters in which their names differ. Choose another template in [topics]"

    def get(self, head: LineHead) -> TableVersion:
        """Return the version of the line. Raises DataError if ``rowcast_shape`` lacks the version."""
        table = self._known.get((head.table, head.version))
        if table is None:
            self.load()
            table = self._known.get((head.table, head.version))
        if table is None:
            raise DataError(f"rowcast_shape has no version {head.version!r} of the table {head.table!r}")
        return table

    def to_publish(self, heads: Iterable[LineHead]) -> list[TableVersion]:
        """Return the shapes to publish before events with these heads, and mark the shapes as published.

        The newest shape of each table comes last, so that compaction keeps the newest. A shape comes again if another
        version was the newest for a while.
        """
        due: list[TableVersion] = []
        for head in {(head.table, head.version): head for head in heads}.values():
            table, newest = self.get(head), self._newest(head)
            if (head.table, head.version) not in self._published and table is not newest:
                self._mark_published(head.table, table, due)
            if self._last_published.get(head.table) is not newest:
                self._mark_published(head.table, newest, due)
        return due

    def _newest(self, head: LineHead) -> TableVersion:
        """Return the newest version of the line's table.

        A line of an older version comes from a process that started before the newest version, or from a process that
        has made its version the newest again.
        """
        known = self._latest[head.table].version
        if known != head.version and known != newest_version(self._connections.reader, head.table):
            self.load()
        return self._latest[head.table]

    def _mark_published(self, full_name: str, table: TableVersion, due: list[TableVersion]) -> None:
        due.append(table)
        self._published.add((full_name, table.version))
        self._last_published[full_name] = table

    def newest(self, names: Iterable[str]) -> list[TableVersion]:
        """Return the newest version of the tables with these full names, as far as known."""
        wanted = set(names)
        return [table for name, table in self._latest.items() if name in wanted]

    def all_to_publish(self) -> list[TableVersion]:
        """Return the newest shape of every table, and mark the shapes as published."""
        due: list[TableVersion] = []
        for full_name, table in self._latest.items():
            self._mark_published(full_name, table, due)
        return due
