"""Check whether the captured tables in the database have the columns and types of the application's models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy.engine import Connection, Inspector

from rowcast.producer.database.dialects import capture_dialect
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import newest_shapes
from rowcast.shared.tables.type_mapping import portable_type

# Types with equal encodings of values. Model and table may differ within a kind.
_KINDS = {
    **dict.fromkeys(("int16", "int32", "int64", "uint64"), "an integer"),
    **dict.fromkeys(("float32", "float64"), "a floating point number"),
    **dict.fromkeys(("string", "char", "text", "enum", "uuid", "json", "native"), "text"),
    **dict.fromkeys(("timestamp", "timestamptz"), "a timestamp"),
    **dict.fromkeys(("time", "timetz"), "a time"),
}


def model_drift(connection: Connection, inspector: Inspector) -> Iterator[Finding]:
    """Yield the findings about tables that differ from the capture's newest shape."""
    for name, shape in sorted(newest_shapes(connection).items()):
        for verdict, message, hint in _of_table(connection, inspector, shape):
            yield Finding("primary", verdict, f"{name} {message}", hint)


def _of_table(
    connection: Connection, inspector: Inspector, shape: TableShape
) -> Iterator[tuple[Verdict, str, str]]:  # fmt: skip
    schema = None if shape.default_schema else shape.schema
    if not inspector.has_table(shape.name, schema=schema):
        hint = "nothing to do if you dropped it on purpose: the replicas keep it"
        yield Verdict.warning, "was captured, but does not exist any more", hint
        return
    there = {str(c["name"]): c["type"] for c in inspector.get_columns(shape.name, schema=schema)}
    wanted = [column.name for column in shape.columns]
    if missing := [name for name in wanted if name not in there]:
        hint = "migrate the table or the models, because commits that change the table fail until then"
        yield Verdict.missing, f"has no column {', '.join(missing)}, which the application's models have", hint
    if unknown := [name for name in there if name not in wanted]:
        hint = "nothing to do if it is left out on purpose, otherwise add it to the models"
        yield Verdict.warning, f"has a column that is not captured: {', '.join(unknown)}", hint
    key = inspector.get_pk_constraint(shape.name, schema=schema)["constrained_columns"]
    if set(key) != set(shape.primary_key):
        keys = f"({', '.join(key)}), but ({', '.join(shape.primary_key)}) in the application's models"
        yield (
            Verdict.missing,
            f"has the primary key {keys}",
            "make them equal, because consumers identify rows by the key of the models",
        )
    yield from _of_types(connection, shape, there)


def _of_types(
    connection: Connection, shape: TableShape, there: Mapping[str, Any]
) -> Iterator[tuple[Verdict, str, str]]:  # fmt: skip
    dialect = capture_dialect(connection.dialect)
    for column in shape.columns:
        if not dialect.reflects_type(column.type.name) or column.masking is not None or column.name not in there:
            continue
        stored = portable_type(there[column.name], connection.dialect).name
        stored, declared = (_KINDS.get(name, name) for name in (stored, column.type.name))
        if stored != declared:
            message = f"has a column {column.name} of {stored}, but the application's models have {declared}"
            yield (
                Verdict.warning,
                message,
                "make them equal, because replicas have the type of the models",
            )
