"""What a replica's engine cannot hold of a source's types, known before the first such value comes.

The worker refuses these values one by one, and stops before them; ``rowcast check`` names the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy.engine import Dialect

from rowcast.shared.shapes import ColumnShape, TableShape
from rowcast.shared.types import NativeType, engine_family, portable_type, replica_type

NAN, INFINITE = "NaN", "infinite numbers"
NO_DATES = "infinity, and years before 1 or after 9999"
ZERO_DATES = "dates whose month or day is 0"
NO_TIMES = "times below 0, or of 24 hours and more"
MIDNIGHT = "24:00:00"
NUL = "texts with a NUL character"
UUIDS = "UUIDs that MariaDB takes for malformed (a version above 7 without the variant of RFC 9562)"
LONG_KEYS = "texts of more than 255 characters"
DIGITS = "more digits after the point than the column says"
NUMBERS = "numbers other than 0 and 1"


def limits(shapes: Iterable[TableShape], dialect: Dialect) -> dict[str, list[str]]:
    """By what cannot be held: ``schema.table.column`` of each column that could have it."""
    found: dict[str, list[str]] = {}
    for shape in shapes:
        source, replica = engine_family(shape.engine), engine_family(dialect.name)
        if source == replica:
            continue
        indexed = set(shape.primary_key).union(*shape.unique, *(key.columns for key in shape.foreign_keys))
        for column in shape.columns:
            for what in _limits(column, source, replica, dialect, key=column.name in indexed):
                found.setdefault(what, []).append(f"{shape.full_name}.{column.name}")
    return found


def _limits(column: ColumnShape, source: str, replica: str, dialect: Dialect, *, key: bool) -> Iterator[str]:
    stored = replica_type(column.type, source, dialect, key=key)
    # Without a type, or as text, everything is held.
    kept = "" if isinstance(stored, NativeType) else portable_type(stored, dialect).name
    match column.type.name, kept:
        case "float32" | "float64", _:
            if source == "postgresql":
                yield NAN
            if replica == "mysql":
                yield INFINITE
        case "decimal", "decimal" if source == "postgresql":
            yield NAN
        case "decimal", "decimal" if source == "sqlite" and replica == "mysql":
            yield DIGITS
        case "date" | "timestamp" | "timestamptz", _ if source == "postgresql":
            yield NO_DATES
        case "date" | "timestamp" | "timestamptz", _ if source == "mysql" and replica == "postgresql":
            yield ZERO_DATES
        case "time", _ if source == "mysql":
            yield NO_TIMES
        case "time", _ if source == "postgresql" and replica == "sqlite":
            yield MIDNIGHT
        case "boolean", _ if replica == "postgresql":
            yield NUMBERS
        case "uuid", _ if replica == "mysql" and stored.compile(dialect=dialect) == "UUID":
            yield UUIDS
        case "string" | "char" | "text" | "enum" | "native", _:
            if replica == "postgresql":
                yield NUL
            if replica == "mysql" and key and not 0 < (column.type.length or 0) <= 255:
                yield LONG_KEYS
