"""What of a stored row leaves the primary, as SQL expressions made from its table's shape alone."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import Masked, RowImage
from rowcast.shared.shapes import ColumnShape, TableShape
from rowcast.shared.table_settings import ColumnSettings, TableSettings


def stored_table(shape: TableShape) -> sa.TableClause:
    """The table on the primary, its columns without types."""
    schema = None if shape.default_schema else shape.schema
    return sa.table(shape.name, *(sa.column(c.name) for c in shape.columns), schema=schema)


def leaving_value(
    shape: TableShape, column: ColumnShape, stored: ColumnElement[Any], settings: TableSettings
) -> ColumnElement[Any]:
    """What leaves in place of a stored value of the column. ``settings`` know the salts.

    Raises ConfigurationError if one is missing.
    """
    if column.masking is None:
        return stored
    salt = settings.columns.get(column.name, ColumnSettings()).salt
    if column.masking.hash is not None and salt is None:
        raise ConfigurationError(
            f"column {column.name} of table {shape.full_name} leaves the primary as a hash, and the configuration does "
            f'not know its salt: set salt in [tables."{shape.full_name}".columns.{column.name}].'
        )
    return Masked(stored, column.masking, column.type.length, None if salt is None else salt.get_secret_value())


def stored_images(shape: TableShape, settings: TableSettings) -> tuple[sa.TableClause, RowImage, RowImage]:
    """The table, the image of a row's key, and that of what leaves of the row. Raises as ``leaving_value``."""
    table = stored_table(shape)
    key = RowImage([(name, table.c[name], shape.column(name).type) for name in shape.primary_key])
    row = RowImage([(c.name, leaving_value(shape, c, table.c[c.name], settings), c.type) for c in shape.columns])
    return table, key, row


def leaving_rows(shape: TableShape) -> ColumnElement[bool]:
    """The condition that a row leaves."""
    return sa.true() if shape.where is None else sa.literal_column(f"({shape.where})")
