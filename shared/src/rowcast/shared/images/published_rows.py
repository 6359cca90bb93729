"""Make the SQL expressions of published rows from the table's shape alone: columns, masks and row filter."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from rowcast.shared.config.table_settings import ColumnSettings, TableSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import Masked, RowImage
from rowcast.shared.tables.shape import ColumnShape, TableShape


def stored_table(shape: TableShape) -> sa.TableClause:
    """Return the table on the primary, with columns without types."""
    schema = None if shape.default_schema else shape.schema
    return sa.table(shape.name, *(sa.column(c.name) for c in shape.columns), schema=schema)


def published_value(
    shape: TableShape, column: ColumnShape, stored: ColumnElement[Any], settings: TableSettings
) -> ColumnElement[Any]:
    """Return the published form of a stored value: the value or the mask.

    ``settings`` hold the salts. Raises ConfigurationError if the salt of a hash is missing.
    """
    if column.masking is None:
        return stored
    salt = settings.columns.get(column.name, ColumnSettings()).salt
    if column.masking.hash is not None and salt is None:
        raise ConfigurationError(
            f"column {column.name} of table {shape.full_name} is published as a hash, but the configuration has no "
            f'salt for it. Set salt in [tables."{shape.full_name}".columns.{column.name}].'
        )
    return Masked(stored, column.masking, column.type.length, None if salt is None else salt.get_secret_value())


def stored_images(shape: TableShape, settings: TableSettings) -> tuple[sa.TableClause, RowImage, RowImage]:
    """Return the table, the row image of the key, and the row image of the published columns.

    Raises as ``published_value``.
    """
    table = stored_table(shape)
    key = RowImage([(name, table.c[name], shape.column(name).type) for name in shape.primary_key])
    row = RowImage([(c.name, published_value(shape, c, table.c[c.name], settings), c.type) for c in shape.columns])
    return table, key, row


def row_filter(shape: TableShape) -> ColumnElement[bool]:
    """Return the row filter."""
    return sa.true() if shape.where is None else sa.literal_column(f"({shape.where})")
