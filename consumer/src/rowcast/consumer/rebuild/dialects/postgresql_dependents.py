"""Find the objects of a PostgreSQL database that depend on a replica's tables, and follow or prevent a swap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.rebuild.swapped_table import SwappedTable

# The objects that refer to a table, a column or the row type. ``follows``: the swap lets the object follow, or the
# object ends with the table.
_DEPENDENTS = sa.text(
    r"""
    WITH live AS (SELECT c.oid, c.reltype, t.typarray FROM pg_class c JOIN pg_type t ON t.oid = c.reltype
                  WHERE c.oid IN (SELECT CAST(to_regclass(name) AS oid) FROM unnest(CAST(:names AS text[])) name)),
        rest AS (SELECT CAST(to_regclass(name) AS oid) AS oid FROM unnest(CAST(:rest AS text[])) name)
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS what,
        pg_describe_object(d.refclassid, d.refobjid, 0) AS refers_to,
        coalesce(CASE d.classid
            WHEN 'pg_class'::regclass THEN (SELECT relkind = 'i' FROM pg_class WHERE oid = d.objid)
            WHEN 'pg_constraint'::regclass THEN (
                SELECT conrelid IN (SELECT oid FROM live) AND (contype IN ('p', 'n') OR conname LIKE 'rowcast\_%')
                    OR conrelid IN (SELECT oid FROM rest) AND contype = 'f' AND conname LIKE 'rowcast\_%'
                FROM pg_constraint WHERE oid = d.objid)
            WHEN 'pg_rewrite'::regclass THEN (
                SELECT c.relkind = 'v' AND r.rulename = '_RETURN' AND pg_has_role(c.relowner, 'USAGE')
                FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE r.oid = d.objid)
            WHEN 'pg_trigger'::regclass THEN true
            WHEN 'pg_publication_rel'::regclass THEN (
                SELECT pg_has_role(p.pubowner, 'USAGE') AND to_jsonb(r) ->> 'prqual' IS NULL
                    AND to_jsonb(r) ->> 'prattrs' IS NULL
                FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.oid = d.objid)
        END, false) AS follows,
        (SELECT c.relname FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
         WHERE d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid) AS view,
        (SELECT c.relname FROM pg_class c WHERE c.oid = d.refobjid) AS table
    FROM pg_depend d
    WHERE d.deptype <> 'i' AND (
        (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM live))
        OR (d.refclassid = 'pg_type'::regclass
            AND d.refobjid IN (SELECT unnest(ARRAY[reltype, typarray]) FROM live)))
    ORDER BY 2, 1
    """
)
_TABLE_FAULTS = sa.text(
    """
    SELECT concat_ws(', ',
        CASE WHEN c.relkind <> 'r' OR c.relispartition THEN 'is partitioned or no plain table' END,
        CASE WHEN c.relrowsecurity THEN 'has row-level security' END,
        CASE WHEN c.relpersistence <> 'p' THEN 'is unlogged' END,
        CASE WHEN c.reltablespace <> 0 THEN 'is in a tablespace of its own' END,
        CASE WHEN c.relreplident = 'i' THEN 'has an index as its replica identity' END,
        CASE WHEN NOT pg_has_role(c.relowner, 'USAGE')
            THEN 'belongs to ' || pg_get_userbyid(c.relowner) || ', whose role the user of the url lacks' END)
    FROM pg_class c WHERE c.oid = to_regclass(:name)
    """
)
_COLUMNS = sa.text(
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
)
_VIEWS = sa.text(
    """
    SELECT DISTINCT c.oid, format('CREATE OR REPLACE VIEW %I.%I%s AS %s', n.nspname, c.relname,
        coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', ''), pg_get_viewdef(c.oid)) AS definition
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'v' JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE d.refclassid = 'pg_class'::regclass
        AND d.refobjid IN (SELECT CAST(to_regclass(name) AS oid) FROM unnest(CAST(:names AS text[])) name)
    ORDER BY c.oid
    """
)
_TRIGGERS = sa.text(
    """
    SELECT format('DROP TRIGGER %I ON ', t.tgname) AS drop, pg_get_triggerdef(t.oid) AS definition,
        CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' END
            || format(' TRIGGER %I', t.tgname) AS enabled
    FROM pg_trigger t WHERE t.tgrelid = to_regclass(:name) AND NOT t.tgisinternal ORDER BY t.tgname
    """
)
_PUBLICATIONS = sa.text(
    """
    SELECT quote_ident(p.pubname) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE r.prrelid = to_regclass(:name) ORDER BY 1
    """
)


def obstacles(connection: Connection, tables: Sequence[SwappedTable], rest: Sequence[SwappedTable]) -> list[str]:
    """Return what depends on the live tables and cannot follow the swap, with the next step.

    ``rest``: the worker's tables that stay.
    """
    live = [table for table in tables if table.before is not None]
    found = []
    names = {"names": [_name(connection, table) for table in live], "rest": [_name(connection, t) for t in rest]}
    rows = connection.execute(_DEPENDENTS, names).all()
    for row in rows:
        if not row.follows:
            found.append(f"{row.what} depends on {row.refers_to}. Drop it, and create it again after the rebuild.")
    viewed = {row.table: row.view for row in rows if row.view is not None}
    for table in live:
        found += _faults(connection, table)
        if table.live in viewed and (column := _changed_column(table)):
            found.append(
                f"view {viewed[table.live]} uses table {table.live}, whose column {column} has another type after the "
                "rebuild, or is gone. Drop the view, and create it again after the rebuild."
            )
    return found


def _faults(connection: Connection, table: SwappedTable) -> Iterator[str]:
    assert table.before is not None
    name = _name(connection, table)
    if fault := connection.execute(_TABLE_FAULTS, {"name": name}).scalar():
        yield f"table {table.live} {fault}. Undo this, or rebuild into another database with --into."
    columns = set(connection.scalars(_COLUMNS, {"name": name}))
    if own := sorted(columns - {column.name for column in table.before.columns}):
        yield (
            f"table {table.live} has columns that the source does not have: {', '.join(own)}. "
            "Move them to a table of your own."
        )


def _changed_column(table: SwappedTable) -> str | None:
    """Return the first column that the rebuild drops or gives another type."""
    assert table.before is not None
    after = {} if table.after is None else {column.name: column.type for column in table.after.columns}
    return next((c.name for c in table.before.columns if after.get(c.name) != c.type), None)


class Dependents:
    """The views, triggers and publications of the live tables, read in the transaction of the swap."""

    def __init__(self, connection: Connection, tables: Sequence[SwappedTable]) -> None:
        # With all names qualified, the definitions mean the same under every search path.
        path = connection.exec_driver_sql("SHOW search_path").scalar()
        names = [_name(connection, table) for table in tables]
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        qualified = [name if table.schema else f'"{schema}".{name}' for table, name in zip(tables, names, strict=True)]
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        self._views = connection.execute(_VIEWS, {"names": qualified}).all()
        self._triggers: list[tuple[SwappedTable, Any]] = []
        self._publications: list[tuple[SwappedTable, str]] = []
        for table, name in zip(tables, qualified, strict=True):
            self._triggers += [(table, row) for row in connection.execute(_TRIGGERS, {"name": name})]
            self._publications += [(table, row) for row in connection.scalars(_PUBLICATIONS, {"name": name})]
        connection.execute(sa.text("SELECT set_config('search_path', :path, true)"), {"path": path})

    def follow(self, connection: Connection) -> None:
        """Let the objects refer to the tables that have the live names now."""
        for view in self._views:
            _execute(connection, view.definition)
        for table, trigger in self._triggers:
            _execute(connection, f"{trigger.drop}{table.quoted(connection, table.old)}", is_text=False)
            if table.after is not None:
                _execute(connection, trigger.definition)
                if trigger.enabled is not None:
                    live = table.quoted(connection, table.live)
                    _execute(connection, f"ALTER TABLE {live} {trigger.enabled}", is_text=False)
        for table, publication in self._publications:
            old, live = table.quoted(connection, table.old), table.quoted(connection, table.live)
            _execute(connection, f"ALTER PUBLICATION {publication} DROP TABLE {old}", is_text=False)
            if table.after is not None:
                _execute(connection, f"ALTER PUBLICATION {publication} ADD TABLE {live}", is_text=False)


def _name(connection: Connection, table: SwappedTable) -> str:
    """Return the quoted name of the live table, as text for the server."""
    return table.quoted(connection, table.live).replace("%%", "%")


def _execute(connection: Connection, statement: str, *, is_text: bool = True) -> None:
    """Execute a statement. ``is_text``: the statement comes from the server, and the driver needs %% for %."""
    connection.exec_driver_sql(statement.replace("%", "%%") if is_text else statement)
