"""Find captured tables under a ``schema_translate_map``, which moves tables to different schemas."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from rowcast.producer.tables.captured import CapturedTable, CapturedTables

Translation = Mapping[str | None, str | None]

MAX_TRANSLATED_TABLES = 1_000
"""The number of translated tables that an engine's capture keeps. A program may have any number of tenants."""

_Key = tuple[sa.Table, tuple[str | None, ...]]


class SchemaTranslation:
    """Translate the captured tables of an engine. A table has equal settings in every schema.

    Only the tables that were used last are kept.
    """

    def __init__(self, tables: CapturedTables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect
        self._schemas: dict[sa.Table, tuple[str | None, ...]] = {}
        self._recent: OrderedDict[_Key, CapturedTable] = OrderedDict()
        # The same table must not have two objects in one transaction. Therefore a table that is used is found here.
        self._used: WeakValueDictionary[tuple[str, str], CapturedTable] = WeakValueDictionary()

    def translate(self, own: CapturedTable, translation: Translation, default_schema: str) -> CapturedTable:
        """Return the table under the map. Return ``own`` if the map does not change the table."""
        identity = own.table, tuple([translation.get(schema, schema) for schema in self._schemas_of(own.table)])
        found = self._recent.get(identity)
        if found is None:
            copy = CapturedTable(
                _copy(own.table, translation), self._dialect, default_schema, self._tables.settings(own.table)
            )
            if (copy.full_name, copy.version) == (own.full_name, own.version):
                copy = own
            else:
                copy.is_copy_of(own)
            # Two maps may translate to the same table.
            found = self._used.setdefault((copy.full_name, copy.version), copy)
            self._recent[identity] = found
            if len(self._recent) > MAX_TRANSLATED_TABLES:
                _remove_oldest(self._recent)
        else:
            _move_to_end(self._recent, identity)
        return found

    def _schemas_of(self, table: sa.Table) -> tuple[str | None, ...]:
        """Return the schemas on which the shape of the table depends."""
        schemas = self._schemas.get(table)
        if schemas is None:
            referred = [constraint.referred_table.schema for constraint in table.foreign_key_constraints]
            schemas = self._schemas[table] = tuple(dict.fromkeys((table.schema, *referred)))
        return schemas


def _remove_oldest(recent: OrderedDict[_Key, CapturedTable]) -> None:
    try:
        recent.popitem(last=False)
    except KeyError:
        # Other threads have removed all entries.
        return


def _move_to_end(recent: OrderedDict[_Key, CapturedTable], key: _Key) -> None:
    try:
        recent.move_to_end(key)
    except KeyError:
        # Another thread has removed the entry.
        return


def _copy(table: sa.Table, translation: Translation) -> sa.Table:
    """Return a copy of the table under the map, with as much of the referred tables as the foreign keys need."""
    copies = sa.MetaData()
    copy = table.to_metadata(
        copies,
        schema=_schema(table.schema, translation),  # type: ignore[arg-type]  # None is the default schema
        referred_schema_fn=lambda _table, _schema_, _constraint, referred: _schema(referred, translation),
    )
    for constraint in table.foreign_key_constraints:
        referred = constraint.referred_table
        if referred is table:
            continue
        columns = [sa.Column(e.column.name, e.column.type, key=e.column.key) for e in constraint.elements]
        sa.Table(referred.name, copies, *columns, schema=_schema(referred.schema, translation), extend_existing=True)
    return copy


def _schema(schema: str | None, translation: Translation) -> str | None:
    return translation.get(schema, schema)
