"""Find the changes of one row in the outbox, for ``rowcast trace``."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine

_MOST_ROWS = 1_000


class WaitingChange(NamedTuple):
    """A change that is not published yet: the outbox row, the transaction, and the age of the commit in ms."""

    outbox_id: int
    tx: str
    age_ms: int


def waiting_changes(settings: Settings, table: str, key: dict[str, Any]) -> list[WaitingChange]:
    """Return the changes of a row in the first 1,000 outbox rows. ``table``: ``schema.table``.

    Raises UnreachableError, ConfigurationError and DataError.
    """
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
    try:
        return _changes(engine, table, key)
    finally:
        engine.dispose()


def _changes(engine: Engine, table: str, key: dict[str, Any]) -> list[WaitingChange]:
    row = outbox_tables(sa.MetaData()).outbox.c
    first = sa.select(row.id, row.tx, row.ts_ms, row.changes).order_by(row.id).limit(_MOST_ROWS)
    splitter, now_ms = ChangeSplitter(), time.time_ns() // 1_000_000
    with engine.connect() as connection:
        return [
            WaitingChange(id_, tx, max(0, now_ms - ts_ms))
            for id_, tx, ts_ms, changes in connection.execute(first)
            if any(head.table == table and orjson.loads(found) == key for head, found, _, _ in splitter.split(changes))
        ]
