"""The captured tables under a ``schema_translate_map``: the same tables in other schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from rowcast.producer.tables import CapturedTable, CapturedTables

Translation = Mapping[str | None, str | None]


class TranslatedTables:
    """One engine's. What leaves of a table is the same in every schema."""

    def __init__(self, tables: CapturedTables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect
        self._metadata: dict[tuple[int, frozenset[Any]], sa.MetaData] = {}
        self._captured: dict[tuple[str, str], CapturedTable] = {}
        self._known: dict[tuple[sa.Table, int, frozenset[Any]], CapturedTable] = {}

    def of(self, own: CapturedTable, translation: Translation, default_schema: str) -> CapturedTable:
        """``own`` as the map has it; ``own`` itself if that is the same."""
        count = len(self._tables.metadata.tables)
        identity = (own.table, count, frozenset(translation.items()))
        found = self._known.get(identity)
        if found is None:
            table = self._copies(count, translation).tables[_key(own.table, translation)]
            copy = CapturedTable(table, self._dialect, default_schema, self._tables.settings(own.table))
            if (copy.full_name, copy.version) == (own.full_name, own.version):
                copy = own
            # Several maps may lead to one table.
            found = self._known[identity] = self._captured.setdefault((copy.full_name, copy.version), copy)
        return found

    def _copies(self, count: int, translation: Translation) -> sa.MetaData:
        identity = (count, frozenset(translation.items()))
        if identity not in self._metadata:
            copies = sa.MetaData()
            for table in list(self._tables.metadata.tables.values()):
                if _key(table, translation) not in copies.tables:
                    table.to_metadata(
                        copies,
                        schema=_schema(table.schema, translation),  # type: ignore[arg-type]  # None is one
                        referred_schema_fn=lambda _table, _schema_, _constraint, referred: _schema(
                            referred, translation
                        ),
                    )
            self._metadata[identity] = copies
        return self._metadata[identity]


def _schema(schema: str | None, translation: Translation) -> str | None:
    return translation.get(schema, schema)


def _key(table: sa.Table, translation: Translation) -> str:
    schema = _schema(table.schema, translation)
    return f"{schema}.{table.name}" if schema else str(table.name)
