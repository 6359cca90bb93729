"""Find out how PostgreSQL compares the primary key of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A base type has one text for each value, or the declared precision gives it one. Everything else may be equal and
# differ: citext, numeric without a scale, -0.0, 24 hours and a day.
_KEY_COLUMNS = """
SELECT a.attname, format('OPERATOR(%I.%s)', n.nspname, o.oprname), (
  t.typtype = 'e'
  OR b.oid IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype, 'bytea'::regtype,
    'date'::regtype, 'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'text'::regtype, 'varchar'::regtype)
  OR b.oid IN ('bpchar'::regtype, 'numeric'::regtype) AND a.atttypmod <> -1
) AND coalesce(l.collisdeterministic, true)
FROM pg_index AS i
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) AS k (number, class)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
JOIN pg_type AS t ON t.oid = a.atttypid
JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
JOIN pg_opclass AS c ON c.oid = k.class
JOIN pg_amop AS e ON e.amopfamily = c.opcfamily AND e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype
JOIN pg_am AS m ON m.oid = e.amopmethod AND m.amname = 'btree' AND e.amopstrategy = 3
JOIN pg_operator AS o ON o.oid = e.amopopr
JOIN pg_namespace AS n ON n.oid = o.oprnamespace
WHERE i.indrelid = {table}::regclass AND i.indisprimary
"""


@dataclass(frozen=True, slots=True)
class KeyComparison:
    """Describe how the key's index compares keys.

    ``operators`` are the index's equality operators by column, with their schema. ``is_exact``: keys that are equal are
    stored equally, because no collation or type takes different values for equal.
    """

    operators: dict[str, str]
    is_exact: bool


def key_comparison(execute: Callable[[str], Any], table: str) -> KeyComparison:
    """Return how the key's index compares keys. ``table``: a string literal of the quoted name with its schema."""
    rows = execute(_KEY_COLUMNS.format(table=table)).all()
    return KeyComparison({name: operator for name, operator, _ in rows}, bool(rows) and all(row[2] for row in rows))
