"""Are the captured tables in the database what the application's models say?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy.engine import Connection, Inspector

from rowcast.producer.checks.leaving import written_shapes
from rowcast.shared.parts import Finding, Verdict
from rowcast.shared.shapes import TableShape
from rowcast.shared.types import engine_family, portable_type

# Types whose values are written alike: a model may call a column by another name of its kind.
_KINDS = {
    **dict.fromkeys(("int16", "int32", "int64", "uint64"), "an integer"),
    **dict.fromkeys(("float32", "float64"), "a floating point number"),
    **dict.fromkeys(("string", "char", "text", "enum", "uuid", "json", "native"), "text"),
    **dict.fromkeys(("timestamp", "timestamptz"), "a timestamp"),
    **dict.fromkeys(("time", "timetz"), "a time"),
}


def mismatch(connection: Connection, inspector: Inspector) -> Iterator[Finding]:
    """The findings about tables that differ from the newest shape that the capture wrote."""
    for name, shape in sorted(written_shapes(connection).items()):
        for verdict, message, mend in _of_table(connection, inspector, shape):
            yield Finding("primary", verdict, f"{name} {message}", mend)


def _of_table(
    connection: Connection, inspector: Inspector, shape: TableShape
) -> Iterator[tuple[Verdict, str, str]]:  # fmt: skip
    schema = None if shape.default_schema else shape.schema
    if not inspector.has_table(shape.name, schema=schema):
        mend = "nothing to do if it was dropped on purpose: the replicas keep it"
        yield Verdict.warning, "was captured, and is not there", mend
        return
    there = {str(c["name"]): c["type"] for c in inspector.get_columns(shape.name, schema=schema)}
    wanted = [column.name for column in shape.columns]
    if missing := [name for name in wanted if name not in there]:
        mend = "migrate the table, or the models: until then commits that change it fail"
        yield Verdict.missing, f"has no column {', '.join(missing)}, which the application's models have", mend
    if unknown := [name for name in there if name not in wanted]:
        mend = "nothing to do if it is left out on purpose; else add it to the models"
        yield Verdict.warning, f"has a column that is not captured: {', '.join(unknown)}", mend
    key = inspector.get_pk_constraint(shape.name, schema=schema)["constrained_columns"]
    if set(key) != set(shape.primary_key):
        keys = f"({', '.join(key)}), and in the application's models ({', '.join(shape.primary_key)})"
        yield Verdict.missing, f"has the primary key {keys}", "make them agree: consumers know rows by the models' key"
    yield from _of_types(connection, shape, there)


def _of_types(
    connection: Connection, shape: TableShape, there: Mapping[str, Any]
) -> Iterator[tuple[Verdict, str, str]]:  # fmt: skip
    family = engine_family(connection.dialect.name)
    for column in shape.columns:
        # On SQLite a column's type says little of its values, on MariaDB a boolean is a number.
        untold = family == "sqlite" or (family == "mysql" and column.type.name == "boolean")
        if untold or column.masking is not None or column.name not in there:
            continue
        stored = portable_type(there[column.name], connection.dialect).name
        stored, declared = (_KINDS.get(name, name) for name in (stored, column.type.name))
        if stored != declared:
            message = f"has a column {column.name} of {stored}, which in the application's models is {declared}"
            yield (
                Verdict.warning,
                message,
                "make them agree: replicas have the models' type",
            )
