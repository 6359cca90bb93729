"""What ``rowcast check`` looks at on the consuming side: each replica, and how far its worker has brought it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.limits import limits
from rowcast.consumer.positions import METADATA, REPLICA, TABLE, read_state
from rowcast.consumer.written_shapes import written_shapes
from rowcast.shared.config import ReplicaSettings, Settings
from rowcast.shared.databases import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.parts import Finding, Verdict, reached
from rowcast.shared.shapes import TableShape
from rowcast.shared.types import engine_family


def replicas(settings: Settings) -> Iterator[Finding]:
    """The findings about every replica."""
    if not settings.replicas:
        yield Finding(
            "replicas", Verdict.warning, "none is configured", "a worker needs one: a [replicas.NAME] section"
        )
    for name, replica in settings.replicas.items():
        area = f"replica {name!r}"
        none_yet = Finding(area, Verdict.warning, "there is no file yet", f"`rowcast worker {name}` makes it")
        engine = yield from reached(replica.sqlalchemy_url, area, no_file=none_yet)
        if engine is None:
            continue
        try:
            yield from _applied(engine, settings.source, name, area)
            yield from _not_held(settings, replica, engine, name, area)
        finally:
            engine.dispose()


def _applied(engine: Engine, source: str, name: str, area: str) -> Iterator[Finding]:
    inspector = sa.inspect(engine)
    if not inspector.has_table(REPLICA.name):
        yield Finding(
            area, Verdict.warning, "no worker has run yet", f"start `rowcast worker {name}`: it makes its tables"
        )
        return
    for table in METADATA.sorted_tables:
        there = {c["name"] for c in inspector.get_columns(table.name)} if inspector.has_table(table.name) else set()
        if lacking := [str(c.name) for c in table.columns if c.name not in there]:
            yield Finding(
                area,
                Verdict.missing,
                f"table {table.name} has no column {', '.join(lacking)}",
                "it was made by another version of rowcast: start `rowcast worker` of the version that made it",
            )
            return
    with engine.connect() as connection:
        state = read_state(connection, source)
        known = connection.scalars(
            sa.select(TABLE.c.table_name).where(TABLE.c.source == source).order_by(TABLE.c.table_name)
        ).all()
    if state is None:
        yield Finding(
            area, Verdict.warning, f"no worker has run for source {source!r} yet", f"start `rowcast worker {name}`"
        )
        return
    if state.state == "consistent":
        yield Finding(area, Verdict.ok, f"consistent up to lsn {state.lsn}; tables: {', '.join(known) or 'none yet'}")
    else:
        yield Finding(
            area,
            Verdict.warning,
            f"{state.state}: not yet a state that the primary was in",
            f"let `rowcast worker {name}` run until it is consistent",
        )


def _not_held(settings: Settings, replica: ReplicaSettings, engine: Engine, name: str, area: str) -> Iterator[Finding]:
    """What rows the worker would stop before, column by column."""
    if settings.primary is None:
        return
    primary = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
    try:
        shapes = [s for s in written_shapes(primary) if any(fnmatchcase(s.full_name, p) for p in replica.tables)]
    except ConfigurationError:
        # No capture has written yet, or the primary does not answer: that is a finding about the primary.
        return
    finally:
        primary.dispose()
    for what, columns in limits(shapes, engine.dialect).items():
        yield Finding(
            area,
            Verdict.warning,
            f"cannot hold {what}: {', '.join(columns)}",
            f"nothing, if none is ever stored there: `rowcast worker {name}` would stop before it. Else a CHECK "
            "constraint on the primary keeps it out, or `tables` of the replica its table",
        )
    if engine.dialect.name == "postgresql":
        yield from _missing_types(shapes, engine, area)


def _missing_types(shapes: Sequence[TableShape], engine: Engine, area: str) -> Iterator[Finding]:
    """Types of PostgreSQL's extensions, which a replica's table would have too."""
    used: dict[str, list[str]] = {}
    for shape in shapes:
        for column in shape.columns:
            type_ = column.type.items or column.type
            if type_.name == "native" and engine_family(shape.engine) == "postgresql":
                used.setdefault(type_.native, []).append(f"{shape.full_name}.{column.name}")
    with engine.connect() as connection:
        for type_name, columns in used.items():
            if connection.scalar(sa.select(sa.func.to_regtype(type_name))) is None:
                yield Finding(
                    area,
                    Verdict.missing,
                    f"there is no type {type_name}, which {', '.join(columns)} has",
                    f"CREATE EXTENSION {type_name.lower()}, if an extension has it; else make the type there too",
                )
