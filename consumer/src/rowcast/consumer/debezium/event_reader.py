"""Read the messages of a table's topic: envelopes and flattened events, with and without schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from rowcast.consumer.debezium.event_forms import Decoders, EventForm, EventForms
from rowcast.consumer.debezium.log_place import LogPlace, is_snapshot, log_place
from rowcast.consumer.debezium.placeholders import Placeholders
from rowcast.consumer.events.change import CREATING_OPS, TRUNCATE_KEY, Change
from rowcast.consumer.events.connect_decoder import WITH_SCHEMA, split_schema
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts
from rowcast.consumer.events.value_types import require_types
from rowcast.shared import row_values
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError

_OPS = frozenset(("c", "u", "r", "d", "t"))
_NO_EVENT = "not an event of Debezium"
WRITTEN_BY_RELAY = (
    "rowcast's relay wrote the message, and the configuration has format = 'debezium'. Remove the line `format`, or "
    "name the connector's topic.prefix in `source`"
)
_ADDED = "__"
_NULL = b"null"


class TableEvent(NamedTuple):
    """An event of a table.

    ``order``: the place in the transaction, or 0 without a transaction. ``is_read``: a snapshot has read the row.
    ``is_snapshot``: the row belongs to a snapshot of whole tables, which ends with ``is_last``. ``is_tombstone``: the
    message has no value.
    """

    change: Change
    place: LogPlace | None = None
    order: int = 0
    is_read: bool = False
    is_snapshot: bool = False
    is_last: bool = False
    is_tombstone: bool = False


class _Document(NamedTuple):
    """The members of a message for the worker, for every form of message. ``row``: None for a delete."""

    op: str
    row: dict[str, Any] | None
    source: Mapping[str, Any]
    transaction: str | None
    order: int
    table: tuple[str, str]


class EventReader:
    """Read the events of one source into changes of the wanted tables."""

    def __init__(self, settings: Settings, layouts: RowLayouts, forms: EventForms) -> None:
        self._source = settings.source
        self._connector = settings.debezium.connector
        self._layouts = layouts
        self._forms = forms
        self._placeholders = Placeholders(settings.debezium.unavailable_value_placeholder)

    def read(self, message: Any) -> TableEvent | None:
        """Return the event, or None if the replica excludes the table or a tombstone names no row.

        Raise DataError with the reason if the message is not an event that the worker can apply.
        """
        try:
            schema, payload = _split(message.value() or _NULL)
            # A converter with schemas writes a tombstone with a schema, too.
            return self._tombstone(message) if payload == _NULL else self._event(message, schema, payload)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{_NO_EVENT}: {row_values.value_error(error)}") from error

    def _event(self, message: Any, schema: bytes, payload: bytes) -> TableEvent | None:
        document = self._document(orjson.loads(payload), message.topic())
        if document is None:
            return None
        if document.op not in _OPS:
            raise DataError(f"{_NO_EVENT}: op {document.op!r}")
        if not self._layouts.is_wanted(".".join(document.table)):
            return None
        change = self._change(message, schema, document)
        # A truncate of a table without a row in the replica.
        if change is None:
            return None
        source = document.source
        return TableEvent(
            change, log_place(source), document.order, document.op == "r", is_snapshot(source),
            source.get("snapshot") == "last",
        )  # fmt: skip

    def _document(self, value: dict[str, Any], topic: str) -> _Document | None:
        """Return the members of a message, or None for a connector with a longer prefix (``shop.eu`` for ``shop``)."""
        if not isinstance(value, dict):
            raise DataError(f"{_NO_EVENT}: the value is not an object")
        source = value.get("source")
        if "op" not in value or not isinstance(source, dict):
            return self._flattened(value, topic)
        if source["connector"] == "rowcast":
            raise DataError(WRITTEN_BY_RELAY)
        if str(source["name"]).startswith(f"{self._source}."):
            return None
        transaction = value.get("transaction") or {}
        table = str(source.get("schema") or source["db"]), str(source["table"])
        return _Document(
            str(value["op"]), value.get("after"), source, _identity(transaction.get("id")),
            int(transaction.get("total_order") or 0), table,
        )  # fmt: skip

    def _flattened(self, value: dict[str, Any], topic: str) -> _Document:
        """Return the members of an event of ExtractNewRecordState, possibly with added fields."""
        added = {name.removeprefix(_ADDED).removeprefix("source_"): v for name, v in value.items() if _is_added(name)}
        row = {name: v for name, v in value.items() if not _is_added(name)}
        op = "d" if added.get("deleted") in ("true", True) else str(added.get("op") or "u")
        schema, _, table = topic.removeprefix(f"{self._source}.").partition(".")
        if not table:
            raise DataError(f"{_NO_EVENT}: neither an envelope nor a flattened event in the topic of a table")
        source = {"connector": self._connector, **added}
        transaction, order = added.get("transaction_id"), added.get("transaction_total_order")
        return _Document(op, row, source, _identity(transaction), int(order or 0), (schema, table))

    def _change(self, message: Any, schema: bytes, document: _Document) -> Change | None:
        partition, offset = (message.topic(), message.partition()), message.offset()
        ts_ms = int(document.source.get("ts_ms") or message.timestamp()[1])
        if document.op == "t":
            emptied = self._forms.latest(".".join(document.table))
            if emptied is None:
                return None
            return Change(emptied, TRUNCATE_KEY, None, 0, document.transaction, ts_ms, partition, offset)
        if not message.key():
            raise DataError(
                f"table {'.'.join(document.table)} has no key. Give it a primary key or the connector's "
                "message.key.columns, or leave the table out with `tables`"
            )
        key_schema, key_text = _split(message.key())
        key = orjson.loads(key_text)
        row = None if document.op == "d" else document.row
        form = self._form(document, key_schema, schema, key)
        left_out = [] if row is None else self._placeholders.left_out(row)
        layout = form.without(left_out)
        _decode(key, form, form.key_decoders)
        if row is not None:
            for name in left_out:
                del row[name]
            _decode(row, form, form.decoders)
        self._require_fit(form, layout, key, row)
        image = None if row is None else orjson.dumps({name: row[name] for name in layout.columns})
        ordered_key = orjson.dumps({name: key[name] for name in layout.key})
        creates = document.op in CREATING_OPS
        return Change(layout, ordered_key, image, 0, document.transaction, ts_ms, partition, offset, creates)

    def _form(self, document: _Document, key_schema: bytes, schema: bytes, key: dict[str, Any]) -> EventForm:
        engine = str(document.source["connector"])
        if bool(key_schema) != bool(schema):
            raise DataError(
                "only one of key and value carries a schema. Give the connector's key.converter.schemas.enable and "
                "value.converter.schemas.enable one value"
            )
        if schema:
            return self._forms.of_schemas(document.table, engine, key_schema, schema)
        if document.op == "d" and (known := self._forms.of_key(document.table, engine, b"")) is not None:
            return known
        return self._forms.of_columns(document.table, engine, list(key), None if document.op == "d" else document.row)

    @staticmethod
    def _require_fit(form: EventForm, layout: RowLayout, key: dict[str, Any], row: dict[str, Any] | None) -> None:
        # A known form has the names and types of the layout.
        is_known = (*key, *map(type, key.values())) in layout.forms.keys and (
            row is None or (*row, *map(type, row.values())) in layout.forms.rows
        )
        if not is_known:
            if key.keys() != set(layout.key):
                columns = list(form.layout.key)
                raise DataError(f"the key's columns are {sorted(key)}, but the key of {layout.table} is {columns}")
            if row is not None and row.keys() != layout.names:
                raise DataError(f"the row of {layout.table} does not have the columns of its schema")
            require_types(layout.shape, layout.forms, key, row)
        if row is not None and not key.items() <= row.items():
            raise DataError(f"the row of {layout.table} has another key than the message")

    def _tombstone(self, message: Any) -> TableEvent | None:
        """Return a delete, because compaction or a transformation may have removed the delete event before."""
        schema, _, name = message.topic().removeprefix(f"{self._source}.").partition(".")
        key_schema, text = _split(message.key() or b"{}")
        form = self._forms.of_key((schema, name), self._connector, key_schema)
        key = orjson.loads(text)
        # A table without a row in the replica has no row to delete. A key with unknown columns belongs to another
        # program's message.
        if form is None or not isinstance(key, dict) or key.keys() != set(form.layout.key):
            return None
        _decode(key, form, form.decoders)
        ordered = orjson.dumps({column: key[column] for column in form.layout.key})
        partition = message.topic(), message.partition()
        change = Change(form.layout, ordered, None, 0, None, message.timestamp()[1], partition, message.offset())
        return TableEvent(change, is_tombstone=True)


def _split(text: bytes) -> tuple[bytes, bytes]:
    """Return schema and payload. The schema is empty for a message without one."""
    if not text.startswith(WITH_SCHEMA):
        return b"", text
    schema, payload = split_schema(text)
    return (b"" if schema == _NULL else schema), payload


def _is_added(name: str) -> bool:
    return name.startswith(_ADDED)


def _identity(transaction: Any) -> str | None:
    """Return the id that all events of a transaction share."""
    return transaction_identity(transaction) if isinstance(transaction, str) else None


# A BEGIN or END does not name its connector.
_WITH_LSN = re.compile(r"[0-9]+:[0-9]+")


def transaction_identity(transaction: str) -> str:
    """Return the common part of the ids of a transaction's messages.

    PostgreSQL's connector appends the lsn of each event: ``742:26436400``. Other connectors have one id, for example a
    GTID of MySQL: ``705f2d02-ed9f-11f1-9a2f-02fc00000001:8``.
    """
    return transaction.partition(":")[0] if _WITH_LSN.fullmatch(transaction) else transaction


def _decode(values: dict[str, Any], form: EventForm, decoders: Decoders) -> None:
    name = ""
    try:
        for name, decode in decoders:
            value = values.get(name)
            if value is not None:
                values[name] = decode(value)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"column {name} of table {form.layout.table} does not have the form of its schema: "
            f"{row_values.value_error(error)}"
        ) from error
