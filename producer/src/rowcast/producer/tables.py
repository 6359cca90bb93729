"""The tables that are captured, as they are on one engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Dialect

from rowcast.producer.outbox import PREFIX
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.shapes import PortableType, TableShape
from rowcast.shared.types import portable_type, shape_of


class CapturedTable:
    """One captured table on one engine: its shape, and what the drain needs of it. Equal only to itself."""

    __slots__ = ("before", "key_columns", "shape", "table", "types", "version")

    def __init__(self, table: sa.Table, dialect: Dialect, default_schema: str) -> None:
        self.table = table
        self.key_columns: tuple[sa.Column[Any], ...] = tuple(table.primary_key.columns)
        try:
            self.types: dict[str, PortableType] = {str(c.name): portable_type(c.type, dialect) for c in table.columns}
            self.shape: TableShape = shape_of(table, dialect, default_schema)
        except exc.CompileError as error:
            raise ConfigurationError(
                f"table {table.fullname!r} has a column whose type {dialect.name} does not have ({error}). "
                "Give that column a type this engine has, or leave the table out with info={'rowcast': False}."
            ) from error
        self.version = self.shape.version
        self.before = False

    @property
    def full_name(self) -> str:
        """``schema.table``."""
        return self.shape.full_name


def wanted(table: sa.Table) -> bool:
    """Whether the metadata asks for this table's capture."""
    return table.info.get("rowcast") is not False and not table.name.startswith(PREFIX)


def wanted_tables(metadata: sa.MetaData) -> Iterator[sa.Table]:
    """Every table to capture, parents before children where foreign keys allow."""
    return (table for table in metadata.sorted_tables if wanted(table))


def refuse_tables_without_key(metadata: sa.MetaData) -> None:
    """Raises ConfigurationError naming each captured table that has no primary key: its rows cannot be told apart."""
    keyless = [table.fullname for table in wanted_tables(metadata) if not table.primary_key.columns]
    if keyless:
        raise ConfigurationError(
            f"cannot capture {', '.join(map(repr, keyless))}: no primary key, so its rows cannot be told apart. "
            "Add one, or leave the table out with Table(info={'rowcast': False})."
        )
