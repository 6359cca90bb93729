"""Check whether the primary answers, has an outbox with a capture, and has all rows published."""

from __future__ import annotations

import time
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Inspector

from rowcast.producer.checks.model_drift import model_drift
from rowcast.producer.checks.rights import rights, unreadable_tables
from rowcast.producer.checks.row_security import row_security
from rowcast.producer.checks.table_settings import check_table_settings
from rowcast.producer.checks.transactions import transactions
from rowcast.producer.checks.triggers import triggers
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.backlog import EXCESS_HINT, backlog, excess
from rowcast.producer.outbox.schema import missing_parts, outbox_tables, unknown_columns
from rowcast.shared.cli.contributions import open_for_check
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.own_tables import is_application_table

_AREA = "primary"
_CLOCKS_APART_S = 5.0


def primary(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about the primary database."""
    if settings.primary is None:
        verdict = Verdict.warning if settings.replicas else Verdict.configuration
        yield Finding(
            _AREA,
            verdict,
            "no primary is configured",
            "set url in [primary], or ROWCAST_PRIMARY__URL, because relay and verify need a primary",
        )
        return
    engine = yield from open_for_check(settings.primary.sqlalchemy_url, _AREA)
    if engine is None:
        return
    try:
        with engine.connect() as connection:
            inspector = sa.inspect(connection)
            whole = True
            for finding in _outbox(connection):
                whole = whole and finding.verdict is Verdict.ok
                yield finding
            yield from _clock(connection)
            if whole:
                yield from _alarm(settings, engine)
                yield from _captured(connection, inspector)
                if not (yield from rights(connection, _AREA)):
                    # The remaining checks read the tables.
                    return
                yield from model_drift(connection, inspector)
                yield from check_table_settings(settings, connection, inspector)
                yield from triggers(connection)
                yield from transactions(connection)
                yield from row_security(connection)
    finally:
        engine.dispose()


def _outbox(connection: Connection) -> Iterator[Finding]:
    tables = outbox_tables(sa.MetaData())
    hidden = unreadable_tables(connection, tables)
    whole = True
    for table in tables:
        if table in hidden:
            continue
        if missing := missing_parts(table, connection) or unknown_columns(table, connection):
            whole = False
            fault, _, hint = missing.partition(". ")
            yield Finding(_AREA, Verdict.missing, f"table {table.name} {fault}", hint)
    # Only batches of the application use the batch table.
    if names := [table.name for table in hidden if table is not tables.batch]:
        user = connection.engine.url.username
        yield Finding(
            _AREA,
            Verdict.missing,
            f"the user {user} may not read {', '.join(names)}",
            "grant the rights of docs/how-to/database-rights.md. MariaDB and MySQL give the same answer for a table "
            "that does not exist: then run `rowcast init` with a user who may create tables",
        )
    elif whole:
        yield Finding(_AREA, Verdict.ok, "the outbox tables are complete")


def _clock(connection: Connection) -> Iterator[Finding]:
    before = time.time()
    theirs = connection.execute(sa.select(capture_dialect(connection.dialect).now_ms())).scalar_one() / 1_000
    after = time.time()
    ahead_s = theirs - after if theirs > after else min(0.0, theirs - before)
    if abs(ahead_s) > _CLOCKS_APART_S:
        direction = "ahead of" if ahead_s > 0 else "behind"
        yield Finding(
            _AREA,
            Verdict.warning,
            f"its clock is {abs(ahead_s):,.0f} s {direction} this machine's, and so wrong are the ages of commits",
            "let both machines take their time from the same server, for example by chrony",
        )


def _alarm(settings: Settings, engine: Engine) -> Iterator[Finding]:
    waiting = backlog(engine, settings.source, most_rows=settings.relay.alarm_rows)
    if (fault := excess(waiting, settings.relay)) is not None:
        yield Finding(_AREA, Verdict.warning, fault, EXCESS_HINT)


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
            "install Capture on the application's session factory, start the application, and commit a change",
        )
        return
    yield Finding(_AREA, Verdict.ok, f"captured: {', '.join(rows_before)}")
    for name in (n for n, before in rows_before.items() if before):
        yield Finding(
            _AREA,
            Verdict.missing,
            f"{name}: rows from before the capture are not all in the topics",
            f'run `rowcast snapshot {name}`, or wait for the relay, which does so unless snapshot = "never" in [relay]',
        )
    if uncaptured := sorted(_table_names(connection, inspector) - rows_before.keys()):
        yield Finding(
            _AREA,
            Verdict.warning,
            f"not captured: {', '.join(uncaptured)}",
            "nothing to do if they are left out on purpose, otherwise add them to the metadata of Capture",
        )


def _table_names(connection: Connection, inspector: Inspector) -> set[str]:
    """Return the application tables of the default schema, as ``schema.table``."""
    default = default_schema(connection.dialect)
    return {f"{default}.{name}" for name in inspector.get_table_names() if is_application_table(name)}
