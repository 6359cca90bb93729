"""What ``rowcast check`` looks at on the consuming side: each replica, and how far its worker has brought it."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.positions import METADATA, REPLICA, TABLE, read_state
from rowcast.shared.config import Settings
from rowcast.shared.parts import Finding, Verdict, reached


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
