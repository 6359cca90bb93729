"""Capture by statement triggers on PostgreSQL, with transition tables.

One function for each table writes a line for each row, up to thousands in one outbox row. The transition tables only
say *which* rows were changed. The images are read from the table itself, under the locks that the transaction holds,
because a trigger of the application may have changed a row again before ours runs. The line of that later change is
then already written, and the older state must not follow it.

**Rights.** The functions run with the rights of their owner. Whoever may write to the table can create types, and in a
schema of their own also operators and functions. Therefore a name in a function never means such an object: the search
path has the system's schema first and ``pg_temp`` last, tables and types have their schema, and nobody but the owner
may call the functions. Only a row filter of the application needs further schemas in the path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.line_writer import gone_line, key_image, row_line
from rowcast.producer.outbox.schema import KEYS_PER_ROW
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import RowFilter, check_row_filter, stored_value
from rowcast.producer.triggers.base import InstalledTrigger, TriggerComment, TriggerDialect, digest
from rowcast.producer.triggers.function_owner import FunctionOwners
from rowcast.producer.triggers.key_columns import KeyComparison, key_comparison
from rowcast.producer.triggers.salts import Salts
from rowcast.producer.triggers.unseen_changes import unseen_changes
from rowcast.shared.errors import ConfigurationError

_OLD, _NEW = "rowcast_old", "rowcast_new"

_MAX_BYTES = 100_000_000
"""The bytes of an outbox row, but for its first line. PostgreSQL's limit is 1 GB."""

# The settings of the functions override the session's settings, because values must always be written in one form.
# row_security = off makes the read of a hidden row an error. The row would look deleted otherwise.
_SETTINGS = (
    "SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1 "
    "SET bytea_output = 'hex' SET standard_conforming_strings = on SET row_security = off"
)
# A plan that was made while the table was empty would read the whole table for each key.
_BY_KEY = "SET enable_seqscan = off"

_TRIGGERS = {
    "insert": f"AFTER INSERT ON {{table}} REFERENCING NEW TABLE AS {_NEW}",
    "update": f"AFTER UPDATE ON {{table}} REFERENCING OLD TABLE AS {_OLD} NEW TABLE AS {_NEW}",
    "delete": f"AFTER DELETE ON {{table}} REFERENCING OLD TABLE AS {_OLD}",
    "truncate": "BEFORE TRUNCATE ON {table}",
}


class PostgreSQLTriggers(TriggerDialect):
    """Capture by statement triggers on PostgreSQL."""

    events = tuple(_TRIGGERS)
    harm_of_older_forms = (
        "with functions by which whoever may write to the table can act with the rights of their owner (see "
        "SECURITY.md), and with salts that every role can read"
    )
    rights_hint = (
        "Install as the table's owner, with CREATE on its schema. To let another role own the functions, be a member "
        "of the role, and give the role CREATE on the schema for the time of the installation."
    )

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._owners = FunctionOwners(self, self.outbox)

    def check_supported(self, table: CapturedTable) -> None:
        qualified, role = self._qualified(table), self._owner(table)
        owner = self._owners.describe(qualified, role, [str(c.name) for c in self._read_columns(table)])
        if owner.kind not in ("r", "p"):
            raise ConfigurationError(
                f"triggers cannot capture {table.full_name}, because it is no ordinary or partitioned table "
                f"(pg_class.relkind {owner.kind}). Leave it out."
            )
        if owner.is_partition:
            raise ConfigurationError(
                f"{table.full_name} is a partition, and its rows belong to the partitioned table. Install the "
                "triggers there."
            )
        for fault, step in owner.faults(self.outbox):
            raise ConfigurationError(f"triggers cannot capture {table.full_name}: {fault}. {step}.")
        if table.where is not None:
            self._check_row_filter(table, role)

    def choose_owner(self, role: str) -> None:
        self.owner = role

    def _check_row_filter(self, table: CapturedTable, role: str) -> None:
        schemas = self._schemas_of_row_filter(table)
        if creators := self._owners.creators(self._qualified(table), role, schemas):
            raise ConfigurationError(
                f"the row filter of {table.full_name} would run with the rights of {role}, and other roles could "
                f"replace what its names mean, because they may create objects: {', '.join(creators)}. "
                "REVOKE CREATE ON SCHEMA … from them, or publish the table without a row filter."
            )
        before = self.execute("SELECT current_setting('search_path')").scalar_one()
        self._set_path(self._path(table))
        check_row_filter(self.connection, table)
        self._set_path(before)

    def _set_path(self, path: str) -> None:
        self.execute(f"SELECT set_config('search_path', {self.literal(path)}, true)")

    def create_shared(self, table: CapturedTable) -> None:
        if not self._owners.of_triggers(self._qualified(table)):
            # Somebody else may have created functions of these names, and would own ours.
            for function in self._functions(table.shape.schema, table.shape.name):
                self.execute(f"DROP FUNCTION IF EXISTS {function}()")

    def finish(self, table: CapturedTable) -> None:
        role = self._owner(table)
        for function in self._functions(table.shape.schema, table.shape.name):
            self._owners.give(f"{function}()", role)
        self._salts(table).store(self.connection, role)

    @contextmanager
    def writers_kept_out(self, table: CapturedTable) -> Iterator[None]:
        # CREATE TRIGGER needs this lock anyway. All rows that exist under the lock are older than the capture.
        self.execute(f"LOCK TABLE {self.qualified(table.shape.schema, table.shape.name)} IN SHARE ROW EXCLUSIVE MODE")
        yield

    def create_statements(self, table: CapturedTable, marker: str) -> Sequence[str]:
        qualified = self._qualified(table)
        changed, emptied = self._functions(table.shape.schema, table.shape.name)
        salts = self._salts(table)
        salted = salts.replaced()
        settings = f"SET search_path = {self._path(table)} {_SETTINGS}"
        if any(c.type.native.upper() == "MONEY" for c in table.shape.columns):
            settings += " SET lc_monetary FROM CURRENT"
        begin = [*salts.declarations(), f"BEGIN\n-- {marker}", self._guard(table), *salts.reads()]
        statements = [
            _function(changed, f"{settings} {_BY_KEY}", [*begin, *self._changed(salted)]),
            _function(emptied, settings, [*begin, *self._emptied(salted)]),
        ]
        for event, when in _TRIGGERS.items():
            function = emptied if event == "truncate" else changed
            statements.append(
                f"CREATE OR REPLACE TRIGGER rowcast_{event} {when.format(table=qualified)} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            )
        return statements

    def drop_statements(self, schema: str, name: str) -> Sequence[str]:
        qualified = self.qualified(schema, name)
        return [
            *(f"DROP TRIGGER IF EXISTS rowcast_{event} ON {qualified}" for event in _TRIGGERS),
            *(f"DROP FUNCTION IF EXISTS {function}()" for function in self._functions(schema, name)),
        ]

    def installed(self) -> list[InstalledTrigger]:
        names = ", ".join(f"'rowcast_{event}'" for event in _TRIGGERS)
        found = self.execute(
            "SELECT n.nspname, c.relname, array_agg(substr(t.tgname, 9)) FILTER (WHERE t.tgenabled IN ('O', 'A')), "
            "array_agg(DISTINCT substring(p.prosrc from '-- (rowcast shape=[^\\n]*)')) "
            "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_proc p ON p.oid = t.tgfoid "
            f"WHERE t.tgname IN ({names}) AND NOT t.tgisinternal AND t.tgparentid = 0 GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return [
            InstalledTrigger(
                schema, name, frozenset(events or ()), TriggerComment.find(heads[0]) if len(heads) == 1 else None
            )
            for schema, name, events, heads in found
        ]

    def column_signature(self, schema: str, name: str) -> str:
        table = f"{self.literal(self.qualified(schema, name))}::regclass"
        return str(
            self.execute(
                "SELECT string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) "
                f"|| coalesce((SELECT conkey::text FROM pg_constraint WHERE conrelid = {table} AND contype = 'p'), '') "
                f"FROM pg_attribute WHERE attrelid = {table} AND attnum > 0 AND NOT attisdropped"
            ).scalar_one()
        )

    def faults(self, schema: str, name: str) -> Iterator[str]:
        qualified = self.qualified(schema, name)
        yield from self._owners.unsafe(qualified)
        if (role := self._owners.of_triggers(qualified)) is not None:
            for fault, _ in self._owners.describe(qualified, role).faults(self.outbox):
                yield fault

    def unseen_changes(self, schema: str, name: str) -> Iterator[str]:
        return unseen_changes(self.execute, self.literal(self.qualified(schema, name)))

    def has_other_salts(self, table: CapturedTable) -> bool:
        return not self._salts(table).are_stored(self.connection)

    def _salts(self, table: CapturedTable) -> Salts:
        return Salts(self, table)

    def _owner(self, table: CapturedTable) -> str:
        """Return the role that owns the functions: the chosen owner, the present owner, or the installing role."""
        return self.owner or self._owners.of_triggers(self._qualified(table)) or self._owners.current_role()

    def _qualified(self, table: CapturedTable) -> str:
        return self.qualified(table.shape.schema, table.shape.name)

    def _read_columns(self, table: CapturedTable) -> Sequence[sa.Column[Any]]:
        """Return the columns that the functions read. A row filter may name any column."""
        if table.where is not None:
            return list(table.table.columns)
        return list(dict.fromkeys((*table.key_columns, *table.columns)))

    def _comparison(self, table: CapturedTable) -> KeyComparison:
        return key_comparison(self.execute, self.literal(self._qualified(table)))

    def _path(self, table: CapturedTable) -> str:
        """Return the functions' search_path. A row filter may name functions and operators of the application."""
        schemas = [] if table.where is None else self._schemas_of_row_filter(table)
        return ", ".join(["pg_catalog", *map(self.quote, schemas), "pg_temp"])

    def _schemas_of_row_filter(self, table: CapturedTable) -> list[str]:
        """Return the schemas of the outbox, of the table, and of the types of its columns."""
        types = self.execute(
            "SELECT DISTINCT n.nspname FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid "
            f"JOIN pg_namespace AS n ON n.oid = t.typnamespace "
            f"WHERE a.attrelid = {self.literal(self._qualified(table))}::regclass "
            "AND a.attnum > 0 AND n.nspname <> 'pg_catalog' ORDER BY 1"
        ).scalars()
        return list(dict.fromkeys([self.default_schema, table.shape.schema, *types]))

    def _functions(self, schema: str, name: str) -> tuple[str, str]:
        changed, emptied = f"rowcast_changed_{name}", f"rowcast_emptied_{name}"
        if len(changed.encode()) > 63:
            changed, emptied = f"rowcast_changed_{digest(name)}", f"rowcast_emptied_{digest(name)}"
        return self.qualified(schema, changed), self.qualified(schema, emptied)

    def _guard(self, table: CapturedTable) -> str:
        """Return the statement that fails if another table calls the function, for example after a rename."""
        return (
            f"IF TG_TABLE_SCHEMA <> {self.literal(table.shape.schema)} "
            f"OR TG_TABLE_NAME <> {self.literal(table.shape.name)} THEN\nRAISE EXCEPTION USING "
            f"MESSAGE = {self.literal(f'these triggers of rowcast capture {table.full_name} and no other table')}, "
            "HINT = 'Drop them, and install the triggers of this table: rowcast triggers install';\nEND IF;"
        )

    def _changed(self, table: CapturedTable) -> list[str]:
        new_keys = f"{self._keys(table, _NEW)} EXCEPT {self._keys(table, _OLD)}"
        gone = self.compile(gone_line(table, self.values_of("o"), self.values_of("o")))
        old = (
            f"SELECT coalesce(f.line, {gone}) AS line, f.line IS NOT NULL AS there\n"
            f"FROM {_OLD} AS o LEFT JOIN LATERAL ({self._found(table, 'u', 'o')}) AS f ON true"
        )
        found = self._found(table, "c", "n")
        new, added = (
            f"SELECT f.line, true AS there\nFROM {keys} AS n, LATERAL ({found}) AS f"
            for keys in (_NEW, f"({new_keys})")
        )
        # If keys change, the deletes of the old keys come first, then the inserts of the new keys.
        rekeyed = self._write(f"{old}\nUNION ALL\n{added}", in_order=True)
        return [
            "CASE TG_OP",
            f"WHEN 'INSERT' THEN\n{self._write(new)}",
            f"WHEN 'UPDATE' THEN\nIF EXISTS ({new_keys}) THEN\n{rekeyed}\nELSE\n{self._write(old)}\nEND IF;",
            f"WHEN 'DELETE' THEN\n{self._write(old)}",
            "END CASE;",
        ]

    def _keys(self, table: CapturedTable, rows: str) -> str:
        """Return the query for the keys in a transition table. Keys that are stored differently are different."""
        key = [f"k.{self.quote(str(c.name))}" for c in table.key_columns]
        if not self._comparison(table).is_exact:
            key.append(f"{self.compile(key_image(table, self.values_of('k')))} AS rowcast_key")
        return f"SELECT {', '.join(key)} FROM {rows} AS k"

    def _found(self, table: CapturedTable, op: str, alias: str) -> str:
        """Return the query for the stored row. OFFSET makes the planner look up each key."""
        before = self.values_of(alias) if op == "u" else None
        line = self.compile(row_line(table, op, stored_value, before))
        return f"SELECT {line} AS line FROM {self.from_clause(table)} WHERE {self.same_key(table, alias)} OFFSET 0"

    def same_key(self, table: CapturedTable, alias: str) -> str:
        comparison = self._comparison(table)
        equal = [
            f"{self.compile(c)} {comparison.operators.get(str(c.name), '=')} {alias}.{self.quote(str(c.name))}"
            for c in table.key_columns
        ]
        if not comparison.is_exact:
            stored, given = (self.compile(key_image(table, v)) for v in (stored_value, self.values_of(alias)))
            equal.append(f"{stored} = {given}")
        return " AND ".join(equal)

    def _emptied(self, table: CapturedTable) -> list[str]:
        # TRUNCATE has locked the table, and the rows still exist.
        line = self.compile(gone_line(table, stored_value, stored_value))
        where = f" WHERE {self.compile(RowFilter(table))}" if table.where is not None else ""
        return [self._write(f"SELECT {line} AS line, false AS there FROM {self.from_clause(table)}{where}")]

    def _write(self, lines: str, *, in_order: bool = False) -> str:
        """Return the statement that writes the lines in outbox rows of ``KEYS_PER_ROW`` lines, or fewer long lines.

        ``in_order``: write the lines of deleted rows first. Otherwise the lines are not sorted, because sorting takes
        time. OFFSET keeps the planner from making each line twice.
        """
        piece = f"(n - 1) / {KEYS_PER_ROW}, (bytes - 1) / {_MAX_BYTES}"
        order, text = ("ORDER BY there", "line, '' ORDER BY n") if in_order else ("", "line, ''")
        return (
            f"INSERT INTO {self.outbox} (tx, ts_ms, changes)\n"
            f"SELECT pg_catalog.txid_current()::pg_catalog.text, {self.now}, pg_catalog.string_agg({text})\n"
            "FROM (SELECT line, pg_catalog.row_number() OVER so_far AS n, "
            "pg_catalog.sum(pg_catalog.octet_length(line)) OVER so_far AS bytes\n"
            f"FROM (\n{lines} OFFSET 0\n) AS made WHERE line <> ''\n"
            f"WINDOW so_far AS ({order} ROWS UNBOUNDED PRECEDING)) AS numbered\n"
            f"GROUP BY {piece} ORDER BY {piece};"
        )


def _function(name: str, settings: str, body: Sequence[str]) -> str:
    """Return the statement that creates a trigger function."""
    text = "\n".join(["", *body, "RETURN NULL;", "END;", ""])
    # No row filter contains these quotes.
    quotes = f"$rowcast_{digest(text)}$"
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} "
        f"AS {quotes}{text}{quotes}"
    )
