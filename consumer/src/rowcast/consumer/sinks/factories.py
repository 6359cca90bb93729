"""The sinks of rowcast, as entry points of ``rowcast.sinks``."""

from __future__ import annotations

import sqlalchemy as sa

from rowcast.consumer.sinks.sqlalchemy_sink import SqlAlchemySink


def sqlalchemy(url: str, *, schema: str | None = None, primary_keys: bool = True) -> SqlAlchemySink:
    """Return the sink for a database of any installed dialect. See ``SqlAlchemySink``."""
    return SqlAlchemySink(sa.create_engine(url), schema=schema, primary_keys=primary_keys)
