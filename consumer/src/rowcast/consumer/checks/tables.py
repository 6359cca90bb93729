"""Compare the tables of a replica with the recorded shapes, for ``rowcast check``."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.shape import TableShape


def table_findings(
    connection: Connection, dialect: ReplicaDialect, shapes: list[TableShape], name: str, area: str
) -> Iterator[Finding]:
    """Yield missing tables, and tables with missing columns. The worker would find the fault only at the next event."""
    for shape in shapes:
        schema, table = replica_name(shape, dialect)
        columns = dialect.read_columns(connection, schema, table)
        if not columns:
            yield Finding(
                area,
                Verdict.missing,
                f"table {shape.full_name} is gone, although a worker has filled it",
                f"rebuild it: `rowcast rebuild {name}`",
            )
        elif lacking := [column.name for column in shape.columns if column.name not in columns]:
            yield Finding(
                area,
                Verdict.missing,
                f"table {shape.full_name} has no column {', '.join(lacking)} any more",
                f"add what was dropped, then compare: `rowcast verify {name} --table {shape.full_name}`",
            )


def trigger_findings(
    connection: Connection, dialect: ReplicaDialect, shapes: list[TableShape], name: str, area: str
) -> Iterator[Finding]:
    """Yield the tables with triggers, because a trigger may change the worker's rows."""
    names = {replica_name(s, dialect): s.full_name for s in shapes}
    for table, triggers in dialect.triggers(connection, list(names)).items():
        yield Finding(
            area,
            Verdict.warning,
            f"table {names[table]} has triggers, which may change rows: {', '.join(triggers)}",
            f"drop them, then compare: `rowcast verify {name} --table {names[table]}`",
        )
