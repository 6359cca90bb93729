"""Comparisons on PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from rowcast.consumer.verification.dialects.base import VerifyDialect

_ESTIMATE = sa.text(
    "SELECT sum(greatest(c.reltuples, 0)) FROM pg_class c WHERE c.oid = to_regclass(:name) OR c.oid IN "
    "(SELECT relid FROM pg_partition_tree(to_regclass(:name)) WHERE isleaf)"
)


class PostgreSQLVerify(VerifyDialect):
    """The SQL of PostgreSQL."""

    def row_hash(self, text: ColumnElement[str]) -> ColumnElement[int]:
        """Return a hash of 64 bits."""
        # The collation C, because hashes follow the rules of equality of a collation.
        return sa.func.hashtextextended(sa.collate(text, "C"), sa.literal_column("0"))

    def joined(self, texts: ColumnElement[str]) -> ColumnElement[str]:
        """Return the texts, up to 1 GB."""
        return sa.func.string_agg(texts, sa.literal_column("','"))

    def estimate_rows(self, connection: Connection, schema: str | None, name: str) -> int:
        """Return the estimate of the planner. The planner counts each partition separately."""
        preparer = connection.dialect.identifier_preparer
        quoted = ".".join(preparer.quote_identifier(part) for part in (schema, name) if part)
        # to_regclass reads the name as SQL does, so the doubling of % for the driver is undone.
        return int(connection.scalar(_ESTIMATE, {"name": quoted.replace("%%", "%")}) or 0)
