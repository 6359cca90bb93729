"""Read pages of one side of a table as hashes: computed by the database, or from row images in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection

from rowcast.consumer.verification.buckets import Buckets, Tally
from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.verification.row_forms import RowForms
from rowcast.consumer.views.conditions import Row

_DIGEST_ROWS = 50_000
_FIRST_IMAGE_ROWS = 100
_MOST_IMAGE_ROWS = 10_000
_PAGE_BYTES = 2_000_000
"""The aimed size of a page of row images, because a page is in memory at once."""
_GROWTH = 8
_FETCHED_ROWS = 1_000


class HashedRow(NamedTuple):
    """A row as its hash. ``identity``: equal for equal keys of both sides. ``key``: the key's image."""

    identity: Hashable
    key: dict[str, Any]
    hash: int


class TooLargeError(Exception):
    """A page has too many bytes. Read fewer rows."""


class Reader(ABC):
    """Read one side of a table."""

    page_rows: ClassVar[int]
    """The number of rows in the first page."""

    def __init__(self, table: ComparedTable, buckets: Buckets, forms: RowForms) -> None:
        self.table = table
        self._buckets = buckets
        self._forms = forms
        self.rows = self.page_rows
        """The number of rows in the next page."""

    @abstractmethod
    def tally(self, connection: Connection, page: ColumnElement[bool], tally: Tally) -> None:
        """Add the rows of a page to the tally. Raise TooLargeError without adding anything."""

    @abstractmethod
    def hashed_rows(
        self, connection: Connection, page: ColumnElement[bool], buckets: Collection[int]
    ) -> Iterator[HashedRow]:
        """Return the rows of a page that belong to the buckets. Raise TooLargeError before the first row."""

    def shrink(self) -> bool:
        """Make the pages smaller. Return False if a page has a single row."""
        if self.rows == 1:
            return False
        self.rows = max(1, self.rows // _GROWTH**2)
        return True


class DigestReader(Reader):
    """Let the database compute the hashes, for two databases on one engine."""

    page_rows = _DIGEST_ROWS

    def __init__(self, table: ComparedTable, buckets: Buckets, forms: RowForms) -> None:
        super().__init__(table, buckets, forms)
        self._hash = table.database.sql.row_hash(table.row_image)
        self._bucket = buckets.expression(table)

    def tally(self, connection: Connection, page: ColumnElement[bool], tally: Tally) -> None:
        """Add the sums of the page's buckets."""
        rows = self.table.select(page, self._bucket.label("b"), self._hash.label("h")).subquery()
        sums = sa.select(rows.c.b, sa.func.count(), sa.func.sum(rows.c.h)).group_by(rows.c.b)
        for bucket, count, hashes in connection.execute(sums):
            tally.add(int(bucket), count, int(hashes))

    def hashed_rows(
        self, connection: Connection, page: ColumnElement[bool], buckets: Collection[int]
    ) -> Iterator[HashedRow]:
        """Return keys and hashes."""
        wanted = sa.and_(page, self._bucket.in_([sa.literal_column(str(bucket)) for bucket in buckets]))
        query = self.table.select(wanted, self.table.key_image, self._hash)
        for key, hash_ in connection.execute(query):
            yield HashedRow(key, orjson.loads(key), int(hash_))


class ImageReader(Reader):
    """Read row images and hash their canonical values, for databases on different engines.

    The database joins the images of a page to a single value, because drivers take long for each row.
    """

    page_rows = _FIRST_IMAGE_ROWS

    def tally(self, connection: Connection, page: ColumnElement[bool], tally: Tally) -> None:
        """Add each row of the page."""
        key_of, hash_row, bucket_of, add = self._forms.key, self._forms.hash_row, self._buckets.of_key, tally.add
        for row in self._images(connection, page):
            add(bucket_of(key_of(row)), 1, hash_row(row))

    def hashed_rows(
        self, connection: Connection, page: ColumnElement[bool], buckets: Collection[int]
    ) -> Iterator[HashedRow]:
        """Return keys and hashes."""
        names = self.table.shape.primary_key
        for row in self._images(connection, page):
            identity = self._forms.key(row)
            if self._buckets.of_key(identity) in buckets:
                yield HashedRow(identity, {name: row[name] for name in names}, self._forms.hash_row(row))

    def _images(self, connection: Connection, page: ColumnElement[bool]) -> Sequence[Row]:
        """Return the images of the page's rows, and choose the size of the next page."""
        sql, image = self.table.database.sql, self.table.row_image
        try:
            count, text = connection.execute(self.table.select(page, sa.func.count(), sql.joined(image))).one()
        except exc.DBAPIError as error:
            if error.connection_invalidated or self.rows == 1:
                raise
            raise TooLargeError from error
        if not count:
            return []
        rows = _parsed(text)
        if len(rows) != count:
            if self.rows > 1:
                raise TooLargeError
            rows = [orjson.loads(row[0]) for row in connection.execute(self.table.select(page, image))]
            text = ""
        fitting = _PAGE_BYTES * count // (len(text) or _PAGE_BYTES)
        self.rows = max(1, min(fitting, self.rows * _GROWTH, _MOST_IMAGE_ROWS))
        return [seen for row in rows if (seen := self.table.seen(row)) is not None]


def _parsed(text: str | None) -> list[dict[str, Any]]:
    """Return the images in a joined text, or an empty list if the database has cut the text."""
    try:
        rows: list[dict[str, Any]] = orjson.loads(f"[{text}]")
    except orjson.JSONDecodeError:
        return []
    return rows


def readers_for(
    primary: ComparedTable, replica: ComparedTable, buckets: Buckets, forms: RowForms
) -> tuple[Reader, Reader]:
    """Return the readers of both sides."""
    kind = DigestReader if _have_equal_images(primary, replica) else ImageReader
    return kind(primary, buckets, forms), kind(replica, buckets, forms)


def _have_equal_images(primary: ComparedTable, replica: ComparedTable) -> bool:
    """Return whether equal rows have equal images: the engine is one, and so are the types of the columns."""
    # A view is evaluated here, not in the database.
    if primary.rows is not None or not primary.database.is_like(replica.database):
        return False
    columns = (column for column in primary.shape.columns if column.masking is None)
    return all(not replica.columns or primary.columns[c.name].type == replica.columns[c.name].type for c in columns)
