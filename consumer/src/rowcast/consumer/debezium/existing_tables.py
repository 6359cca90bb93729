"""Read the columns of existing tables, for messages without schemas."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.consumer.debezium.fields import Field
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, unreachable
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape
from rowcast.shared.tables.type_mapping import shape_of

_DIGITS = re.compile(r"\((\d)\)")
_BITS = re.compile(r"BIT(?: VARYING)?\((\d+)\)", re.IGNORECASE)
_MILLISECONDS = 3


class ExistingTables:
    """Know the tables of the primary, or of the replica if the configuration has no primary."""

    def __init__(self, settings: Settings, replica: ReplicaSettings) -> None:
        self._url = (settings.primary or replica).sqlalchemy_url
        self._label = "primary" if settings.primary else "replica"

    def columns(self, table: tuple[str, str], engine: str, names: Collection[str] | None) -> list[ColumnShape]:
        """Return these columns of a table of the source, or all columns for None.

        Raise DataError if the table or a column does not exist, because then the meaning of the values is unknown.
        """
        shape = self._read(*table)
        missing = set(names or ()) - {column.name for column in shape.columns} if shape else set[str]()
        if shape is None or missing:
            what = f"column {', '.join(sorted(missing))} of table" if shape else "table"
            raise DataError(
                f"the {self._label} has no {what} {'.'.join(table)}, and the messages carry no schema. Create it, "
                "name the source's database in [primary], or set the connector's value.converter.schemas.enable and "
                "key.converter.schemas.enable to true"
            )
        return [
            _of_source(column, shape.engine, engine) for column in shape.columns if not names or column.name in names
        ]

    def _read(self, schema: str, name: str) -> TableShape | None:
        connection_engine = open_engine(self._url, self._label, pooled=False)
        try:
            with connection_engine.connect() as connection:
                inspector = sa.inspect(connection)
                default = inspector.default_schema_name or "main"
                for place in (schema, None):
                    if inspector.has_table(name, place):
                        columns = [
                            sa.Column(one["name"], one["type"], nullable=one["nullable"])
                            for one in inspector.get_columns(name, place)
                        ]
                        found = sa.Table(name, sa.MetaData(), *columns, schema=place)
                        return shape_of(found, connection.dialect, default)
        except exc.DBAPIError as error:
            raise unreachable(connection_engine, self._label, error) from error
        finally:
            connection_engine.dispose()
        return None


def _of_source(column: ColumnShape, found_on: str, engine: str) -> ColumnShape:
    """Return the column in the source's form. ``found_on``: the engine of the read table."""
    if replica_dialect(found_on).is_own_engine(engine):
        return column
    # MySQL's BOOLEAN. The DDL of another engine says nothing about the source.
    name = "boolean" if column.type.native.upper() == "TINYINT(1)" else column.type.name
    return replace(column, type=replace(column.type, name=name, native=""))


def assumed_field(column: ColumnShape, settings: DebeziumSettings, engine: str) -> Field:
    """Return the connector's field for a column, under the settings."""
    described = _described(column.type, settings, engine)
    return {**described, "field": column.name, "optional": column.nullable}


def _described(type_: PortableType, settings: DebeziumSettings, engine: str) -> dict[str, Any]:
    match type_.name:
        case "decimal":
            return _decimal(type_, settings)
        case "bytes":
            return _bytes(settings)
        case "interval":
            numeric = settings.interval_handling_mode == "numeric"
            return _named("io.debezium.time.MicroDuration" if numeric else "io.debezium.time.Interval")
        case "date" | "time" | "timestamp":
            return _named(_time_name(type_, settings, engine))
        case "native" if bits := _BITS.match(type_.native):
            return _named("io.debezium.data.Bits") | {"parameters": {"length": bits[1]}}
        case "array" if type_.items is not None:
            return {"type": "array", "items": _described(type_.items, settings, engine)}
    return _SIMPLE.get(type_.name, {"type": "string"})


def _named(name: str) -> dict[str, Any]:
    return {"type": "string", "name": name}


_SIMPLE: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "int16": {"type": "int16"},
    "int32": {"type": "int32"},
    "int64": {"type": "int64"},
    "uint64": {"type": "int64", "parameters": {"__debezium.source.column.type": "BIGINT UNSIGNED"}},
    "float32": {"type": "float32"},
    "float64": {"type": "float64"},
    "timetz": _named("io.debezium.time.ZonedTime"),
    "timestamptz": _named("io.debezium.time.ZonedTimestamp"),
    "uuid": _named("io.debezium.data.Uuid"),
    "json": _named("io.debezium.data.Json"),
}


def _decimal(type_: PortableType, settings: DebeziumSettings) -> dict[str, Any]:
    if settings.decimal_handling_mode != "precise":
        length = type_.precision or 0
        parameters = {"type": "NUMERIC", "length": str(length), "scale": str(type_.scale or 0)}
        kind = "string" if settings.decimal_handling_mode == "string" else "double"
        return {"type": kind, "parameters": {f"__debezium.source.column.{k}": v for k, v in parameters.items()}}
    if type_.precision is None:
        return _named("io.debezium.data.VariableScaleDecimal")
    digits = {"scale": str(type_.scale or 0), "connect.decimal.precision": str(type_.precision)}
    return _named("org.apache.kafka.connect.data.Decimal") | {"parameters": digits}


def _bytes(settings: DebeziumSettings) -> dict[str, Any]:
    if settings.binary_handling_mode == "bytes":
        return {"type": "bytes"}
    return {"type": "string", "parameters": {"__debezium.source.column.type": "BYTEA"}}


def _time_name(type_: PortableType, settings: DebeziumSettings, engine: str) -> str:
    """Return the name of the schema of a date or time under the connector's ``time.precision.mode``."""
    kind, mode = type_.name.capitalize(), settings.time_precision_mode
    if mode == "connect":
        return f"org.apache.kafka.connect.data.{kind}"
    if mode == "isostring":
        return f"io.debezium.time.Iso{kind}"
    if kind == "Date":
        return "io.debezium.time.Date"
    prefix = {"microseconds": "Micro", "nanoseconds": "Nano"}.get(mode) or _adaptive_prefix(type_, mode, engine)
    return f"io.debezium.time.{prefix}{kind}"


def _adaptive_prefix(type_: PortableType, mode: str, engine: str) -> str:
    if type_.name == "time" and (mode == "adaptive_time_microseconds" or engine != "postgresql"):
        return "Micro"
    found = _DIGITS.search(type_.native)
    # A column without digits holds microseconds on PostgreSQL, and seconds on MySQL.
    digits = int(found[1]) if found else 6 if engine == "postgresql" else 0
    return "" if digits <= _MILLISECONDS else "Micro"
