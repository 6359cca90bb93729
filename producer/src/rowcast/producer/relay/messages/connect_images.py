"""Convert keys and row images to the form of Kafka Connect's schemas.

Rows of tables whose types need no conversion, and row images without special values, keep their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from rowcast.producer.outbox.line_parser import Change, LineHead
from rowcast.producer.relay.messages.batch_rows import ParsedRow, UnpublishableError
from rowcast.producer.relay.messages.connect_types import Encoder, connect_type
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.shared import row_values
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape

# A text may end like this too. Then the image is parsed without need.
_SPECIAL = (b'"NaN"', b'Infinity"')

_Encoders = tuple[tuple[str, Encoder], ...]


class _TableImages:
    """Convert the changes of one version of a table."""

    def __init__(self, shape: TableShape) -> None:
        self._table = shape.full_name
        types = [(c, connect_type(c.type, shape.engine)) for c in shape.columns]
        self._encoders: _Encoders = tuple((c.name, t.encode) for c, t in types if t.encode is not None)
        self._only_special = all(t.plain_unless_special for _, t in types if t.encode is not None)
        self._key: _Encoders = tuple((name, encode) for name, encode in self._encoders if name in shape.primary_key)

    def encode_change(self, change: Change) -> Change:
        """Convert a change. Raises DataError that names table, key and column if Connect has no form for a value."""
        head, key, after, before = change
        try:
            return (
                head,
                _encode(key, self._key) if self._key else key,
                None if after is None else self._encode_image(after),
                None if before is None else self._encode_image(before),
            )
        except ValueError as error:
            raise DataError(
                f"table {self._table}{row_values.key_suffix(key)}, {error}. Only [relay] "
                'format = "json" can represent the value'
            ) from error

    def _encode_image(self, image: bytes) -> bytes:
        if self._needs_no_encoding(image):
            return image
        return _encode(image, self._encoders)

    def _needs_no_encoding(self, image: bytes) -> bool:
        """Return whether the fast path applies: the bytes of the image are in Connect's form already."""
        if not self._encoders:
            return True
        return self._only_special and not any(text in image for text in _SPECIAL)


def _encode(document: bytes, encoders: _Encoders) -> bytes:
    """Convert a row image on the full path, column by column."""
    row = orjson.loads(document)
    for name, encode in encoders:
        value = row[name]
        if value is not None:
            try:
                row[name] = encode(value)
            except ValueError as error:
                raise row_values.UnsuitableValueError(f"column {name}: {row_values.value_error(error)}") from error
    return orjson.dumps(row)


class ConnectImages:
    """Convert the changes of one source to the form of Connect's schemas."""

    def __init__(self, tables: TableVersions) -> None:
        self._tables = tables
        self._known: dict[LineHead, _TableImages] = {}

    def encode_row(self, row: ParsedRow) -> ParsedRow:
        """Convert the changes of a row. Raises UnpublishableError if Connect has no form for a value."""
        try:
            return replace(row, changes=self.encode_changes(row.changes))
        except DataError as error:
            raise UnpublishableError(row.id, row.tx, str(error)) from error

    def encode_changes(self, changes: Sequence[Change]) -> list[Change]:
        """Convert changes. Raises DataError if Connect has no form for a value."""
        return [self._table_images(change[0]).encode_change(change) for change in changes]

    def _table_images(self, head: LineHead) -> _TableImages:
        images = self._known.get(head)
        if images is None:
            images = self._known[head] = _TableImages(self._tables.get(head).shape)
        return images
