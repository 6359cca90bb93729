"""Keys and row images in the form of Connect's schemas. Those of a table for which that is the outbox's form, or of
which nothing is special, are left as the bytes they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from rowcast.producer.relay.batches import BatchRow, UnpublishableError
from rowcast.producer.relay.connect_types import Encoder, connect_type
from rowcast.producer.relay.lines import Change, LineHead
from rowcast.producer.relay.tables import Tables
from rowcast.shared.errors import DataError
from rowcast.shared.shapes import TableShape

# A text may end so, too: then the image is looked at in vain.
_SPECIAL = (b'"NaN"', b'Infinity"')

_Encoders = tuple[tuple[str, Encoder], ...]


class _TableImages:
    """One version of a table's."""

    def __init__(self, shape: TableShape) -> None:
        self._table = shape.full_name
        types = [(c, connect_type(c.type, shape.engine)) for c in shape.columns]
        self._encoders: _Encoders = tuple((c.name, t.encode) for c, t in types if t.encode is not None)
        self._only_special = all(t.plain_unless_special for _, t in types if t.encode is not None)
        self._key: _Encoders = tuple((name, encode) for name, encode in self._encoders if name in shape.primary_key)

    def change(self, change: Change) -> Change:
        """Raises DataError, naming table, key and column, for a value that Connect has no form for."""
        head, key, after, before = change
        try:
            return (
                head,
                _encoded(key, self._key) if self._key else key,
                None if after is None else self._image(after),
                None if before is None else self._image(before),
            )
        except ValueError as error:
            raise DataError(
                f'table {self._table}, key {key.decode()}, {error}. Only [relay] format = "json" can carry it'
            ) from error

    def _image(self, image: bytes) -> bytes:
        if not self._encoders or (self._only_special and not any(text in image for text in _SPECIAL)):
            return image
        return _encoded(image, self._encoders)


def _encoded(document: bytes, encoders: _Encoders) -> bytes:
    row = orjson.loads(document)
    for name, encode in encoders:
        value = row[name]
        if value is not None:
            try:
                row[name] = encode(value)
            except ValueError as error:
                raise ValueError(f"column {name}: {error}") from error
    return orjson.dumps(row)


class ConnectImages:
    """Of one source's tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: dict[LineHead, _TableImages] = {}

    def row(self, row: BatchRow) -> BatchRow:
        """Raises UnpublishableError for a value that Connect has no form for."""
        try:
            return replace(row, changes=self.changes(row.changes))
        except DataError as error:
            raise UnpublishableError(row.id, row.tx, str(error)) from error

    def changes(self, changes: Sequence[Change]) -> list[Change]:
        """Raises DataError."""
        return [self._of(change[0]).change(change) for change in changes]

    def _of(self, head: LineHead) -> _TableImages:
        images = self._known.get(head)
        if images is None:
            images = self._known[head] = _TableImages(self._tables.of(head).shape)
        return images
