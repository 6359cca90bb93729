"""Compare two databases by the rows read through the application's tables. The comparison uses no code of rowcast."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

Rows = dict[tuple[str, tuple[Any, ...]], dict[str, Any]]


def rows_of(database: sa.Engine, metadata: sa.MetaData) -> Rows:
    """Return every row of every table as Python values, by table and primary key."""
    found: Rows = {}
    with database.connect() as connection:
        for table in application_tables(metadata):
            for row in connection.execute(sa.select(table)):
                values = {str(c.name): _plain(row._mapping[c]) for c in table.columns}
                found[table.name, tuple(values[str(c.name)] for c in table.primary_key.columns)] = values
    return found


def application_tables(metadata: sa.MetaData) -> Iterator[sa.Table]:
    """Yield the tables of the application, without the tables of rowcast."""
    return (table for table in metadata.sorted_tables if not table.name.startswith("rowcast_"))


def assert_same_rows(primary: sa.Engine, replica: sa.Engine, metadata: sa.MetaData) -> Rows:
    """Return the rows of both databases. Raises AssertionError if they differ, or if both are empty."""
    expected, got = rows_of(primary, metadata), rows_of(replica, metadata)
    assert expected, "the primary is empty"
    differences = [f"{key}: {expected.get(key)} became {got.get(key)}" for key in _differing(expected, got)]
    more = f"\n… and {len(differences) - 20} more" if len(differences) > 20 else ""
    assert not differences, f"{len(differences)} rows differ:\n" + "\n".join(differences[:20]) + more
    return expected


def _differing(expected: Rows, got: Rows) -> list[tuple[str, tuple[Any, ...]]]:
    return sorted((key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)), key=repr)


def _plain(value: Any) -> Any:
    """Convert a time with a zone to UTC without a zone, because some engines store no zone."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def assert_same_foreign_keys(metadata: sa.MetaData, replica: sa.Engine) -> None:
    """Check that every foreign key of the models exists on the replica."""
    inspector = sa.inspect(replica)
    wanted = {
        (table.name, tuple(c.column_keys), c.referred_table.name, tuple(e.column.name for e in c.elements))
        for table in application_tables(metadata)
        for c in table.foreign_key_constraints
    }
    there = {
        (table, tuple(key["constrained_columns"]), key["referred_table"], tuple(key["referred_columns"]))
        for table in inspector.get_table_names()
        for key in inspector.get_foreign_keys(table)
    }
    assert wanted, "the models have no foreign key"
    assert wanted <= there, f"missing on the replica: {wanted - there}"
