"""The share of ``rowcast check`` on the consuming side: each replica, and how far its worker has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.consumer.checks.creation import creation_findings
from rowcast.consumer.checks.retention import retention_findings
from rowcast.consumer.checks.rights import rights_findings
from rowcast.consumer.checks.tables import table_findings, trigger_findings
from rowcast.consumer.checks.views import view_findings, viewed_shapes
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import matches_any
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.letter_rows import count_letters
from rowcast.consumer.replica.positions import ReplicaRow, read_positions, read_row
from rowcast.consumer.replica.table_records import TableRecords
from rowcast.consumer.replica.type_limits import type_limits
from rowcast.consumer.replica.worker_tables import METADATA, ROWCAST_DEAD_LETTER, ROWCAST_TABLE, missing_columns
from rowcast.consumer.status.lag import replica_status, shown_state
from rowcast.shared.cli.contributions import open_for_check
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.driver_errors import is_missing_right
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.database.engines import open_engine
from rowcast.shared.database.rights import RIGHTS_HINT
from rowcast.shared.errors import ConfigurationError, DataError, UnreachableError
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import written_shapes


def replicas(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about every replica."""
    if not settings.replicas:
        yield Finding(
            "replicas", Verdict.warning, "none is configured", "a worker needs one: a [replicas.NAME] section"
        )
    for name, replica in settings.replicas.items():
        area = f"replica {name!r}"
        no_file = Finding(area, Verdict.warning, "there is no file yet", f"`rowcast worker {name}` creates it")
        engine = yield from open_for_check(replica.sqlalchemy_url, area, no_file=no_file)
        if engine is None:
            continue
        try:
            yield from _worker_findings(engine, settings.source, name, area)
            yield from _rights_findings(engine, settings.source, name, area)
            if settings.kafka:
                yield from _running_findings(settings, name, area)
            yield from _type_findings(settings, replica, engine, name, area)
        except exc.DBAPIError as error:
            if not is_missing_right(error):
                raise
            fault = f"a check ended, because the user lacks a right: {first_line(error)}"
            yield Finding(area, Verdict.missing, fault, RIGHTS_HINT)
        finally:
            engine.dispose()


def _worker_findings(engine: Engine, source: str, name: str, area: str) -> Iterator[Finding]:
    """Yield the findings from the worker's tables in the replica."""
    inspector = sa.inspect(engine)
    # The dead letters have a table since a later version, and the next worker creates it.
    if not all(inspector.has_table(t.name) for t in METADATA.sorted_tables if t is not ROWCAST_DEAD_LETTER):
        yield Finding(
            area, Verdict.warning, "no worker has run yet", f"start `rowcast worker {name}`: it creates its tables"
        )
        return
    if missing := missing_columns(engine):
        yield Finding(
            area,
            Verdict.warning,
            f"an earlier version created the worker's tables: they lack {', '.join(missing)}",
            f"start `rowcast worker {name}`: it adds them. If its user may not, run {' and '.join(missing.values())}",
        )
    with engine.connect() as connection:
        row, applied = read_row(connection, source), read_positions(connection, source)
        shapes, letters = TableRecords(source).shapes(connection), count_letters(connection, source)
        dialect = replica_dialect(engine.dialect.name)
        faults = [
            *table_findings(connection, dialect, shapes, name, area),
            *trigger_findings(connection, dialect, shapes, name, area),
        ]
    if row is None:
        yield Finding(
            area, Verdict.warning, f"no worker has run for source {source!r} yet", f"start `rowcast worker {name}`"
        )
        return
    yield _state_finding(row, applied, [shape.full_name for shape in shapes], name, area)
    if letters.events:
        waiting = (
            f"lacks {letters.transactions:,} transactions, with {letters.events:,} events in the dead letter topic"
        )
        yield Finding(area, Verdict.missing, waiting, f"see `rowcast dlq list {name}`")
    yield from faults


def _rights_findings(engine: Engine, source: str, name: str, area: str) -> Iterator[Finding]:
    """Yield the finding about the rights of the user, in the recorded tables."""
    with engine.connect() as connection:
        is_recorded = sa.inspect(connection).has_table(ROWCAST_TABLE.name)
        shapes = TableRecords(source).shapes(connection) if is_recorded else []
    yield from rights_findings(engine, replica_dialect(engine.dialect.name), shapes, name, area)


def _state_finding(
    row: ReplicaRow, applied: Mapping[Partition, Position], tables: Sequence[str], name: str, area: str
) -> Finding:
    """Return the finding about the replica's state."""
    match shown_state(row, applied):
        case "suspect":
            return Finding(area, Verdict.missing, f"suspect: {row.reason}", f"run `rowcast rebuild {name}`")
        case "stopped":
            hint = f"remove the cause, and start `rowcast worker {name}`"
            return Finding(area, Verdict.missing, f"stopped: {row.reason}", hint)
        case "promoting":
            return Finding(area, Verdict.missing, "its promotion is not finished", f"run `rowcast promote {name}`")
        case "promoted":
            hint = f"name its url in [primary], and remove [replicas.{name}]"
            return Finding(area, Verdict.warning, "promoted: it is a primary now", hint)
        case "waiting":
            hint = f"let `rowcast relay` and `rowcast worker {name}` run"
            return Finding(area, Verdict.warning, "waiting: nothing has been applied yet", hint)
        case "loading":
            hint = f"let `rowcast worker {name}` run until it is consistent"
            return Finding(area, Verdict.warning, "loading: not yet a state that the primary had", hint)
    names = ", ".join(tables) or "none yet"
    if row.state == "following":
        return Finding(area, Verdict.ok, f"following: each row by itself, without transactions, tables: {names}")
    return Finding(area, Verdict.ok, f"consistent up to lsn {row.lsn}, tables: {names}")


def _running_findings(settings: Settings, name: str, area: str) -> Iterator[Finding]:
    """Yield a finding if records wait and no worker runs."""
    try:
        status = replica_status(settings, name)
    except (ConfigurationError, UnreachableError, DataError) as error:
        yield Finding(area, Verdict.warning, f"its lag is not known: {error}", "correct the configuration of Kafka")
        return
    if status.workers == 0 and status.records:
        waiting = f"no worker runs, and {status.records:,} records wait, the oldest for {status.behind_ms:,} ms"
        yield Finding(area, Verdict.missing, waiting, f"start `rowcast worker {name}`")
    elif status.workers == 0:
        yield Finding(area, Verdict.ok, "no worker runs, and no record waits")
    yield from retention_findings(settings, status, area)


def _type_findings(
    settings: Settings, replica: ReplicaSettings, engine: Engine, name: str, area: str
) -> Iterator[Finding]:
    """Yield the columns with values that the replica may be unable to hold, and the missing types."""
    if settings.primary is None:
        return
    primary = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
    try:
        shapes = [shape for shape in written_shapes(primary) if matches_any(shape.full_name, replica.tables)]
    except ConfigurationError:
        # No capture has written yet, or the primary does not answer. The check of the primary reports both.
        return
    finally:
        primary.dispose()
    found = list(view_findings(replica, shapes, area))
    yield from found
    if any(finding.verdict is Verdict.configuration for finding in found):
        return
    shapes = viewed_shapes(replica, shapes)
    for values, columns in type_limits(shapes, engine.dialect).items():
        yield Finding(
            area,
            Verdict.warning,
            f"cannot hold {values}: {', '.join(columns)}",
            f"nothing, if such a value is never stored there. `rowcast worker {name}` would stop before it. A CHECK "
            "constraint on the primary keeps such values out, and the replica's `tables` the table",
        )
    yield from _missing_type_findings(shapes, engine, area)
    yield from creation_findings(engine, replica_dialect(engine.dialect.name), shapes, area)


def _missing_type_findings(shapes: Sequence[TableShape], engine: Engine, area: str) -> Iterator[Finding]:
    """Yield the types needed by the replica's tables and missing in the database, for example types of extensions."""
    with engine.connect() as connection:
        missing = replica_dialect(engine.dialect.name).missing_types(connection, shapes)
    for type_name, columns in missing.items():
        yield Finding(
            area,
            Verdict.missing,
            f"there is no type {type_name}, which {', '.join(columns)} has",
            f"CREATE EXTENSION {type_name.lower()}, if an extension has it. If not, create the type there too",
        )
