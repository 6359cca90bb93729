"""The share of ``rowcast check`` on the consuming side: each replica, and how far its worker has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.events.row_layout import matches_any
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.type_limits import type_limits
from rowcast.consumer.replica.worker_tables import METADATA, ROWCAST_TABLE, missing_columns
from rowcast.shared.cli.contributions import open_for_check
from rowcast.shared.config.settings import ReplicaSettings, Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
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
            yield from _type_findings(settings, replica, engine, name, area)
        finally:
            engine.dispose()


def _worker_findings(engine: Engine, source: str, name: str, area: str) -> Iterator[Finding]:
    """Yield what the worker's tables in the replica say."""
    inspector = sa.inspect(engine)
    if not all(inspector.has_table(table.name) for table in METADATA.sorted_tables):
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
        row = read_row(connection, source)
        tables = connection.scalars(
            sa.select(ROWCAST_TABLE.c.table_name)
            .where(ROWCAST_TABLE.c.source == source)
            .order_by(ROWCAST_TABLE.c.table_name)
        ).all()
    if row is None:
        yield Finding(
            area, Verdict.warning, f"no worker has run for source {source!r} yet", f"start `rowcast worker {name}`"
        )
        return
    if row.state == "consistent":
        names = ", ".join(tables) or "none yet"
        yield Finding(area, Verdict.ok, f"consistent up to lsn {row.lsn}, tables: {names}")
    else:
        yield Finding(
            area,
            Verdict.warning,
            f"{row.state}: not yet a state that the primary had",
            f"let `rowcast worker {name}` run until it is consistent",
        )


def _type_findings(
    settings: Settings, replica: ReplicaSettings, engine: Engine, name: str, area: str
) -> Iterator[Finding]:
    """Yield the columns with values that the replica may be unable to hold, and the types missing there."""
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
    for values, columns in type_limits(shapes, engine.dialect).items():
        yield Finding(
            area,
            Verdict.warning,
            f"cannot hold {values}: {', '.join(columns)}",
            f"nothing, if such a value is never stored there. `rowcast worker {name}` would stop before it. A CHECK "
            "constraint on the primary keeps such values out, and the replica's `tables` the table",
        )
    yield from _missing_type_findings(shapes, engine, area)


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
