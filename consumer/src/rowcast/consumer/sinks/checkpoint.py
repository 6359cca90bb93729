"""The worker's data in a sink: the positions, and everything else for the next start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import orjson

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.transactions import Run
from rowcast.consumer.sinks.sink import SinkState
from rowcast.shared.errors import ConfigurationError

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a sink is in the topics of a source. See ``ReplicaRow`` and ``ReaderContext``."""

    source: str
    state: SinkState = "loading"
    timeline: int = 0
    lsn: int = 0
    tx: str | None = None
    ts_ms: int = 0
    deletes_known_ms: int = 0
    positions: Mapping[Partition, Position] = field(default_factory=dict)
    topic_ids: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(stored: bytes | None, source: str) -> Checkpoint:
        """Read a stored checkpoint. Raise ConfigurationError for the checkpoint of another source or version."""
        if stored is None:
            return Checkpoint(source)
        try:
            document = orjson.loads(stored)
            version, of_source = document.pop("version"), document["source"]
            positions = {(topic, number): Position(*rest) for topic, number, *rest in document.pop("positions")}
            if version == _VERSION and of_source == source:
                return Checkpoint(**document, positions=positions)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError("the sink has stored something that is no checkpoint of rowcast") from error
        raise ConfigurationError(
            f"the sink has a checkpoint of source {of_source!r}, version {version}, and this is source {source!r}, "
            f"version {_VERSION}. Give this source a sink of its own."
        )

    def to_bytes(self) -> bytes:
        """Return the stored form."""
        positions = [(*place, *position) for place, position in self.positions.items()]
        members = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return orjson.dumps({**members, "version": _VERSION, "positions": positions})

    def after(self, run: Run, topic_ids: Mapping[str, str]) -> Checkpoint:
        """Return the checkpoint after a run."""
        moved = replace(self, positions={**self.positions, **run.positions()}, topic_ids=dict(topic_ids))
        last = run.last
        if last.lsn <= self.lsn:
            return moved
        return replace(moved, lsn=last.lsn, tx=last.id, ts_ms=last.ts_ms)
