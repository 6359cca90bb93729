"""The tables that outbox lines name: their shapes, their topics, and which shapes are still to be published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from rowcast.producer.outbox import OutboxTables
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.lines import LineHead
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.events import TABLE_TOPIC, marker_topic, schema_topic, table_topic, transaction_topic
from rowcast.shared.shapes import TableShape

_LONGEST_TOPIC = 249


@dataclass(frozen=True, slots=True)
class TableVersion:
    """One version of a table's shape, ``document`` as the capture wrote it."""

    schema: str
    name: str
    version: str
    document: str
    topic: str
    shape: TableShape

    def key(self) -> bytes:
        """The message key on the schema topic."""
        return orjson.dumps({"schema": self.schema, "table": self.name})

    def value(self, source: str, lsn: int) -> bytes:
        """The message value on the schema topic: in force for events from ``lsn`` on."""
        return orjson.dumps({**orjson.loads(self.document), "version": self.version, "source": source, "lsn": lsn})


class Tables:
    """What ``rowcast_shape`` says, read again whenever a line names something that is not known, or is not known to be
    the newest again."""

    def __init__(
        self, connections: Connections, tables: OutboxTables, source: str, template: str = TABLE_TOPIC
    ) -> None:
        self._connections = connections
        self._shape = tables.shape
        self._source = source
        self._template = template
        self._known: dict[tuple[str, str], TableVersion] = {}
        self._latest: dict[str, TableVersion] = {}
        self._published: set[tuple[str, str]] = set()
        self._last_published: dict[str, TableVersion] = {}
        self.load()

    def load(self) -> None:
        """Raises ConfigurationError if two tables would share a topic, DataError if a shape is damaged."""
        row = self._shape.c
        found = self._connections.reader.execute(
            sa.select(row.table_name, row.version, row.shape).order_by(row.created_ms, row.version)
        )
        for full_name, version, document in found:
            table = self._known.get((full_name, version)) or self._read(full_name, version, document)
            self._known[full_name, version] = self._latest[full_name] = table
        self._check_topics()

    def _read(self, full_name: str, version: str, document: str) -> TableVersion:
        try:
            shape = TableShape.from_json(document)
        except DataError as error:
            raise DataError(f"the row of table {full_name}, version {version}, in rowcast_shape: {error}") from error
        topic = table_topic(self._source, shape.schema, shape.name, self._template)
        return TableVersion(shape.schema, shape.name, version, document, topic, shape)

    def _check_topics(self) -> None:
        own = (transaction_topic(self._source), schema_topic(self._source), marker_topic(self._source))
        owners: dict[str, str] = {}
        for full_name, table in self._latest.items():
            other = owners.setdefault(table.topic, full_name)
            if other != full_name:
                raise ConfigurationError(
                    f"the tables {other} and {full_name} would share the topic {table.topic}: {self._why_shared()}, or "
                    'leave one out of the capture with Table(info={"rowcast": False}).'
                )
            if table.topic in own:
                raise ConfigurationError(
                    f"the events of the table {full_name} would go to the topic {table.topic}, which is rowcast's own. "
                    f"Choose another template in [topics] than {self._template!r}."
                )
            if len(table.topic) > _LONGEST_TOPIC:
                raise ConfigurationError(
                    f"the table {full_name} needs a topic name of {len(table.topic)} characters, and Kafka allows "
                    f"{_LONGEST_TOPIC}: {table.topic}. Choose a shorter source, or template in [topics]."
                )

    def _why_shared(self) -> str:
        if "{schema}" not in self._template:
            return f"the template {self._template!r} in [topics] leaves the schema out. Put it in"
        return "Kafka does not allow what tells their names apart. Choose another template in [topics]"

    def of(self, head: LineHead) -> TableVersion:
        """Raises DataError if nobody has written the shape that the line names."""
        table = self._known.get((head.table, head.version))
        if table is None:
            self.load()
            table = self._known.get((head.table, head.version))
        if table is None:
            raise DataError(f"rowcast_shape has no version {head.version!r} of the table {head.table!r}")
        return table

    def to_publish(self, heads: Iterable[LineHead]) -> list[TableVersion]:
        """The shapes to publish before events with these heads, each once. Of each table the newest comes last, so that
        compaction keeps it: again, if it was not the newest for a while."""
        due: list[TableVersion] = []
        for head in {(head.table, head.version): head for head in heads}.values():
            table, newest = self.of(head), self._newest(head)
            if (head.table, head.version) not in self._published and table is not newest:
                self._publish(head.table, table, due)
            if self._last_published.get(head.table) is not newest:
                self._publish(head.table, newest, due)
        return due

    def _newest(self, head: LineHead) -> TableVersion:
        """Of the table that the line names. A line of an older version is written by a process that has begun before
        the newest one did, or by one that has made its version the newest again."""
        if self._latest[head.table].version != head.version:
            row = self._shape.c
            versions = sa.select(row.version).where(row.table_name == head.table)
            newest = versions.order_by(row.created_ms.desc(), row.version.desc()).limit(1)
            if self._connections.reader.execute(newest).scalar() != self._latest[head.table].version:
                self.load()
        return self._latest[head.table]

    def _publish(self, full_name: str, table: TableVersion, due: list[TableVersion]) -> None:
        due.append(table)
        self._published.add((full_name, table.version))
        self._last_published[full_name] = table

    def all_published(self) -> list[TableVersion]:
        """The newest shape of every table, taken as published from now on."""
        due: list[TableVersion] = []
        for full_name, table in self._latest.items():
            self._publish(full_name, table, due)
        return due
