"""Say what a migration will do to each replica, for ``rowcast check --metadata``, before anything is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.checks.views import view_fault, viewed_shapes
from rowcast.consumer.events.rebuild_hint import REBUILD_COMMAND, with_command
from rowcast.consumer.migration.preview import Preview, Recorded, TablePreview
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.table_records import TableRecords
from rowcast.consumer.replica.worker_tables import METADATA
from rowcast.shared.cli.contributions import open_for_check
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.renamed_tables import renamed_tables
from rowcast.shared.tables.shape import TableShape


def planned_changes(settings: Settings, shapes: Sequence[TableShape]) -> Iterator[Finding]:
    """Yield the changes to each table of each replica when the source has the shapes."""
    for name, replica in settings.replicas.items():
        area = f"replica {name!r}"
        try:
            wanted = viewed_shapes(replica, shapes)
        except ConfigurationError as error:
            yield view_fault(area, error)
            continue
        # The check of the replicas reports a silent replica.
        engine = _result_of(open_for_check(replica.sqlalchemy_url, area))
        if engine is None or not all(sa.inspect(engine).has_table(table.name) for table in METADATA.sorted_tables):
            continue
        dialect = replica_dialect(engine.dialect.name)
        dialect.configure_reader(engine)
        with engine.connect() as connection, connection.begin():
            recorded, row = TableRecords(settings.source).read(connection), read_row(connection, settings.source)
            is_consistent = row is not None and row.state == "consistent"
            renamed = renamed_tables([*(record.shape for record in recorded.values()), *wanted])
            preview = Preview(connection, dialect, recorded, wanted, is_consistent=is_consistent, renamed=renamed)
            for table in preview.tables():
                yield from _of_table(table, preview.recorded, replica, name, area)
        engine.dispose()


def _result_of(steps: Iterator[Finding]) -> Engine | None:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            engine: Engine | None = end.value
            return engine


def _of_table(
    table: TablePreview, recorded: Recorded, settings: ReplicaSettings, name: str, area: str
) -> Iterator[Finding]:  # fmt: skip
    if table.stop:
        stop = with_command(table.stop, REBUILD_COMMAND.replace("REPLICA", name))
        fault, _, hint = stop.partition(". ")
        if table.needs_rebuild and settings.on_retype == "rebuild":
            what = f"will be rebuilt by a snapshot after the migration: {table.table}, because {fault}"
            yield Finding(area, Verdict.ok, what, table=table.table)
            return
        yield Finding(area, Verdict.missing, f"the worker will stop: {fault}", hint.removesuffix("."), table.table)
        return
    what, evolution = ", ".join(what for what, _ in table.changes), settings.evolution
    is_new = table.table not in recorded
    if what and (evolution == "evolve" or is_new):
        yield Finding(area, Verdict.ok, f"will change with the models: {table.table}: {what}", table=table.table)
    elif what and evolution == "validate":
        fault = f'the worker will stop (evolution = "validate"): {table.table}: {what}'
        yield Finding(area, Verdict.missing, fault, f"after the migration: rowcast migrate {name} --apply", table.table)
    elif what:
        fault = f'will stay behind the models (evolution = "none"): {table.table}: {what}'
        yield Finding(area, Verdict.warning, fault, f"after the migration: rowcast migrate {name} --apply", table.table)
    if dropped := _dropped_now(table, recorded):
        yield Finding(
            area,
            Verdict.warning,
            f"{table.table}: {', '.join(dropped)} will be kept, because the models have no such column",
            'if a column was renamed, say so: Column(info={"rowcast": {"was": "FORMER NAME"}})',
            table.table,
        )


def _dropped_now(table: TablePreview, recorded: Recorded) -> list[str]:
    """Return the kept columns still at the source."""
    if table.table not in recorded:
        return []
    before = {column.name for column in recorded[table.table][0].columns}
    return [column for column in table.kept if column in before]
