"""Is the primary there, with an outbox that a capture writes to, and are all its rows on their way?"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Inspector

from rowcast.producer.checks.leaving import leaving
from rowcast.producer.checks.mismatch import mismatch
from rowcast.producer.checks.triggers import triggers
from rowcast.producer.outbox import PREFIX, missing_of, outbox_tables, unknown_of
from rowcast.shared.config import Settings
from rowcast.shared.parts import Finding, Verdict, reached

_AREA = "primary"
# Migration tools' own tables; nobody wants them on a replica.
_OF_NO_INTEREST = frozenset(("alembic_version", "sqlite_sequence"))


def primary(settings: Settings) -> Iterator[Finding]:
    """The findings about the primary database."""
    if settings.primary is None:
        verdict = Verdict.warning if settings.replicas else Verdict.configuration
        yield Finding(
            _AREA,
            verdict,
            "none is configured",
            "relay and verify need one: set url in [primary], or ROWCAST_PRIMARY__URL",
        )
        return
    engine = yield from reached(settings.primary.sqlalchemy_url, _AREA)
    if engine is None:
        return
    try:
        with engine.connect() as connection:
            inspector = sa.inspect(connection)
            whole = True
            for finding in _outbox(connection):
                whole = whole and finding.verdict is Verdict.ok
                yield finding
            if whole:
                yield from _captured(connection, inspector)
                yield from mismatch(connection, inspector)
                yield from leaving(settings, connection, inspector)
                yield from triggers(connection)
    finally:
        engine.dispose()


def _outbox(connection: Connection) -> Iterator[Finding]:
    whole = True
    for table in outbox_tables(sa.MetaData()):
        if missing := missing_of(table, connection) or unknown_of(table, connection):
            whole = False
            what, _, mend = missing.partition(". ")
            yield Finding(_AREA, Verdict.missing, f"table {table.name} {what}", mend)
    if whole:
        yield Finding(_AREA, Verdict.ok, "the outbox tables are there")


def _captured(connection: Connection, inspector: Inspector) -> Iterator[Finding]:
    shape = outbox_tables(sa.MetaData()).shape
    rows = connection.execute(sa.select(shape.c.table_name, shape.c.rows_before).order_by(shape.c.table_name))
    rows_before: dict[str, bool] = {}
    for name, before in rows:
        rows_before[name] = rows_before.get(name, False) or bool(before)
    if not rows_before:
        yield Finding(
            _AREA,
            Verdict.missing,
            "no capture has written yet",
            "install Capture on what the application's sessions come from, start it and let it commit a change",
        )
        return
    yield Finding(_AREA, Verdict.ok, f"captured: {', '.join(rows_before)}")
    for name in (n for n, before in rows_before.items() if before):
        yield Finding(
            _AREA,
            Verdict.missing,
            f"{name}: rows that were there before the capture are not all in the topics",
            f'rowcast snapshot {name}; a relay does so by itself, unless snapshot = "never" in [relay]',
        )
    if uncaptured := sorted(_table_names(connection, inspector) - rows_before.keys()):
        yield Finding(
            _AREA,
            Verdict.warning,
            f"not captured: {', '.join(uncaptured)}",
            "nothing to do if they are left out on purpose; else add them to the metadata that Capture was given",
        )


def _table_names(connection: Connection, inspector: Inspector) -> set[str]:
    """The tables of the default schema, as events name them."""
    default = connection.dialect.default_schema_name or "main"
    return {
        f"{default}.{name}"
        for name in inspector.get_table_names()
        if not name.startswith(PREFIX) and name not in _OF_NO_INTEREST
    }
