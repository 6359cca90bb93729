"""Know the columns of each kind of message: from the schemas in the messages, or from an existing table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from rowcast.consumer.debezium.existing_tables import ExistingTables, assumed_field
from rowcast.consumer.debezium.fields import Field, FieldForm, read_field
from rowcast.consumer.debezium.values import Decoder
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts, layout_of_columns
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape

Decoders = Sequence[tuple[str, Decoder]]
MOST_FORMS = 10_000


@dataclass(frozen=True, eq=False)
class EventForm:
    """The form of a table's events: how values are decoded, and the layout of the whole row."""

    layout: RowLayout
    decoders: Decoders

    @cached_property
    def key_decoders(self) -> Decoders:
        """Return the decoders of the key's columns."""
        return [(name, decode) for name, decode in self.decoders if name in self.layout.key]

    def without(self, names: Iterable[str]) -> RowLayout:
        """Return the layout of a row without some columns. The replica keeps the values of the missing columns."""
        missing = frozenset(names)
        return layout_of_columns(self.layout.shape, self.layout.names - missing) if missing else self.layout


class EventForms:
    """Find the form of a message. A table's newest form becomes the table's shape in ``layouts``."""

    def __init__(self, settings: DebeziumSettings, layouts: RowLayouts, existing: ExistingTables) -> None:
        self._settings = settings
        self._layouts = layouts
        self._existing = existing
        self._by_schemas: dict[tuple[str, bytes, bytes], EventForm] = {}
        self._by_columns: dict[tuple[str, frozenset[str], tuple[str, ...]], EventForm] = {}
        self._added = 0

    def of_schemas(self, table: tuple[str, str], engine: str, key_schema: bytes, row_schema: bytes) -> EventForm:
        """Return the form of a message with schemas. ``row_schema``: of the whole value.

        Raise DataError if the schema is not one of a table's events.
        """
        identity = ".".join(table), key_schema, row_schema
        form = self._by_schemas.get(identity)
        if form is None:
            fields = _row_fields(orjson.loads(row_schema))
            key = tuple(one["field"] for one in orjson.loads(key_schema)["fields"])
            form = self._new(table, engine, key, fields)
            if len(self._by_schemas) < MOST_FORMS:
                self._by_schemas[identity] = form
        return form

    def of_columns(
        self, table: tuple[str, str], engine: str, key: Sequence[str], names: Iterable[str] | None
    ) -> EventForm:
        """Return the form of a message without schemas. ``names``: the columns of the row, or None without a row."""
        identity = ".".join(table), frozenset(names or ()), tuple(key)
        form = self._by_columns.get(identity)
        if form is None:
            columns = self._existing.columns(table, engine, identity[1] | set(key) if names else None)
            fields = [assumed_field(column, self._settings, engine) for column in columns]
            types = {column.name: column.type for column in columns}
            form = self._by_columns[identity] = self._new(table, engine, identity[2], fields, types)
        return form

    def of_key(self, table: tuple[str, str], engine: str, key_schema: bytes) -> EventForm | None:
        """Return the form of a message with only a key, or None before the first row of the table is read."""
        layout = self.latest(".".join(table))
        if layout is None:
            return None
        identity = ".".join(table), key_schema, b""
        form = self._by_schemas.get(identity)
        if form is None or form.layout is not layout:
            if key_schema:
                fields = orjson.loads(key_schema)["fields"]
            else:
                columns = map(layout.shape.column, layout.key)
                fields = [assumed_field(column, self._settings, engine) for column in columns]
            forms = {str(one["field"]): read_field(one, self._settings, engine) for one in fields}
            form = self._by_schemas[identity] = EventForm(layout, _decoders(forms))
        return form

    def latest(self, table: str) -> RowLayout | None:
        """Return the newest layout of a table, or None before the first row of the table is read."""
        shape = self._layouts.latest(table)
        return None if shape is None else self._layouts.find(table, shape.version)

    def _new(
        self, table: tuple[str, str], engine: str, key: tuple[str, ...], fields: Sequence[Field],
        types: Mapping[str, PortableType] | None = None,
    ) -> EventForm:  # fmt: skip
        """Return the form of events with these fields. ``types``: the known types of the columns."""
        forms = {str(one["field"]): read_field(one, self._settings, engine) for one in fields}
        full_name = ".".join(table)
        if not key or not forms.keys() >= set(key):
            raise DataError(
                f"table {full_name}: the key has the columns {', '.join(key) or 'none'}, and the row has no such "
                "columns. Set the connector's message.key.columns to columns of the table"
            )
        optional = {str(one["field"]): bool(one.get("optional", True)) for one in fields}
        shape = TableShape(
            *table,
            engine,
            tuple(
                ColumnShape(name, (types or {}).get(name, form.type), optional[name] and name not in key)
                for name, form in forms.items()
            ),
            key,
            default_schema=engine != "postgresql" or table[0] == "public",
        )
        return EventForm(self._layout(shape), _decoders(forms))

    def _layout(self, shape: TableShape) -> RowLayout:
        self._added += 1
        self._layouts.add(shape.version, shape, self._added)
        layout = self._layouts.find(shape.full_name, shape.version)
        assert layout is not None, "only wanted tables have forms"
        return layout


def _row_fields(schema: Mapping[str, Any]) -> list[Field]:
    """Return the fields of the row: of ``after`` in an envelope, and of a flattened event without the added fields."""
    fields: list[Field] = schema["fields"]
    for one in fields:
        if one["field"] == "after":
            after: list[Field] = one["fields"]
            return after
    return [one for one in fields if not one["field"].startswith("__")]


def _decoders(forms: Mapping[str, FieldForm]) -> Decoders:
    return [(name, form.decode) for name, form in forms.items() if form.decode is not None]
