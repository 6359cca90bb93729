"""The foreign keys between the tables of a rebuild and the tables that stay.

The swap drops such a foreign key, because it belongs to the old table. Afterwards the rebuild, or the next worker that
takes the replica over, creates the foreign key again and checks the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.shared.tables.shape import TableShape


def crossing_keys(chosen: Mapping[str, TableShape], rest: Mapping[str, TableShape]) -> Iterator[tuple[str, str]]:
    """Yield the referring and the referred table of each foreign key between chosen tables and the rest."""
    for shape in (*chosen.values(), *rest.values()):
        others = rest if shape.full_name in chosen else chosen
        for key in shape.foreign_keys:
            referred = f"{key.referred_schema}.{key.referred_table}"
            if referred in others:
                yield shape.full_name, referred


def unsupported_keys(
    chosen: Mapping[str, TableShape], rest: Mapping[str, TableShape], dialect: ReplicaDialect
) -> Iterator[str]:
    """Yield why an engine cannot create the foreign keys again that the swap drops."""
    if not dialect.foreign_keys_in_table:
        return
    for table, referred in sorted(set(crossing_keys(chosen, rest))):
        other = referred if table in chosen else table
        yield (
            f"a foreign key of table {table} refers to table {referred}, and this engine creates foreign keys only "
            f"together with tables. Add {other} to --tables, or rebuild all tables"
        )
