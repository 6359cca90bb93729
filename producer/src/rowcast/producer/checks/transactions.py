"""Check whether changes of the captured tables and of the outbox can be in one transaction."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.findings import Finding, Verdict


def transactions(connection: Connection) -> Iterator[Finding]:
    """Yield the findings about tables on a storage engine without transactions."""
    outbox, schema = outbox_tables(sa.MetaData()), default_schema(connection.dialect)
    captured = connection.scalars(sa.select(outbox.shape.c.table_name).distinct().order_by(outbox.shape.c.table_name))
    names = [*(f"{schema}.{own.name}" for own in outbox), *captured]
    for full_name in names:
        place, _, name = full_name.rpartition(".")
        storage = capture_dialect(connection.dialect).storage_without_transactions(connection, place, name)
        if storage is not None:
            yield Finding(
                "primary",
                Verdict.missing,
                f"{full_name}: its storage engine {storage} has no transactions",
                f"convert it: ALTER TABLE {full_name} ENGINE = InnoDB, or do not capture the table",
            )
