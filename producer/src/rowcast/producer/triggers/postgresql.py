"""Triggers on PostgreSQL: one for each kind of statement, with the rows that it changed as tables.

A function per table writes one line for each row, thousands in one outbox row. Transition tables only say *which* rows
were changed: the images are read from the table itself, under the locks that the transaction holds. A trigger of the
application's may have changed a row again before ours runs, and its own line is then already written; the old state
must not come behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rowcast.producer.clock import now_ms
from rowcast.producer.drain import KEYS_PER_ROW
from rowcast.producer.outbox_lines import gone_line, row_line
from rowcast.producer.predicates import RowPredicate, stored
from rowcast.producer.tables import CapturedTable
from rowcast.producer.triggers.dialect import Installed, Marker, TriggerDialect, digest
from rowcast.shared.errors import ConfigurationError

_OLD, _NEW = "rowcast_old", "rowcast_new"

# What the function is run under, whatever the session's own settings are. Values are written as text in one form.
_SETTINGS = (
    "SET search_path FROM CURRENT SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET timezone = 'UTC' "
    "SET extra_float_digits = 1"
)
# A plan made while the table was empty would go on reading all of it for each key.
_BY_KEY = "SET enable_seqscan = off"

# In the order of pg_trigger.tgname.
_TRIGGERS = {
    "insert": f"AFTER INSERT ON {{table}} REFERENCING NEW TABLE AS {_NEW}",
    "update": f"AFTER UPDATE ON {{table}} REFERENCING OLD TABLE AS {_OLD} NEW TABLE AS {_NEW}",
    "delete": f"AFTER DELETE ON {{table}} REFERENCING OLD TABLE AS {_OLD}",
    "truncate": "BEFORE TRUNCATE ON {table}",
}


class PostgreSQLTriggers(TriggerDialect):
    events = tuple(_TRIGGERS)

    def refuse(self, table: CapturedTable) -> None:
        name = self.literal(self.qualified(table.shape.schema, table.shape.name))
        kind, partition, hidden, readable = self.run(
            f"SELECT relkind, relispartition, row_security_active(oid), has_table_privilege(oid, 'SELECT') "
            f"FROM pg_class WHERE oid = {name}::regclass"
        ).one()
        if kind not in ("r", "p"):
            raise ConfigurationError(
                f"{table.full_name} is no table that triggers can capture (pg_class.relkind {kind})."
            )
        if partition:
            raise ConfigurationError(
                f"{table.full_name} is a partition: its rows belong to the partitioned table. Install them there."
            )
        if hidden:
            raise ConfigurationError(
                f"row security hides rows of {table.full_name} from the installing role, so that its triggers would "
                "take them for deleted. Install as the table's owner (without FORCE ROW LEVEL SECURITY), or as a role "
                "with BYPASSRLS."
            )
        if not readable:
            raise ConfigurationError(f"the installing role may not SELECT from {table.full_name}: grant it that.")

    @contextmanager
    def alone(self, table: CapturedTable) -> Iterator[None]:
        # The lock that the triggers need anyway. Rows that are there now have been there before the capture.
        self.run(f"LOCK TABLE {self.qualified(table.shape.schema, table.shape.name)} IN SHARE ROW EXCLUSIVE MODE")
        yield

    def create(self, table: CapturedTable, marker: str) -> Sequence[str]:
        qualified = self.qualified(table.shape.schema, table.shape.name)
        changed, emptied = self._functions(table.shape.schema, table.shape.name)
        statements = [
            _function(changed, f"{_SETTINGS} {_BY_KEY}", marker, self._changed(table)),
            _function(emptied, _SETTINGS, marker, [*self._emptied(table), "RETURN NULL;"]),
        ]
        for event, when in _TRIGGERS.items():
            function = emptied if event == "truncate" else changed
            statements.append(
                f"CREATE OR REPLACE TRIGGER rowcast_{event} {when.format(table=qualified)} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            )
        return statements

    def drop(self, schema: str, name: str) -> Sequence[str]:
        qualified = self.qualified(schema, name)
        return [
            *(f"DROP TRIGGER IF EXISTS rowcast_{event} ON {qualified}" for event in _TRIGGERS),
            *(f"DROP FUNCTION IF EXISTS {function}()" for function in self._functions(schema, name)),
        ]

    def installed(self) -> list[Installed]:
        names = ", ".join(f"'rowcast_{event}'" for event in _TRIGGERS)
        found = self.run(
            "SELECT n.nspname, c.relname, array_agg(substr(t.tgname, 9)) FILTER (WHERE t.tgenabled IN ('O', 'A')), "
            "array_agg(DISTINCT split_part(p.prosrc, E'\\n', 2)) "
            "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_proc p ON p.oid = t.tgfoid "
            f"WHERE t.tgname IN ({names}) AND NOT t.tgisinternal AND t.tgparentid = 0 GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return [
            Installed(schema, name, frozenset(events or ()), Marker.find(heads[0]) if len(heads) == 1 else None)
            for schema, name, events, heads in found
        ]

    def columns(self, schema: str, name: str) -> str:
        table = f"{self.literal(self.qualified(schema, name))}::regclass"
        return str(
            self.run(
                "SELECT string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) "
                f"|| coalesce((SELECT conkey::text FROM pg_constraint WHERE conrelid = {table} AND contype = 'p'), '') "
                f"FROM pg_attribute WHERE attrelid = {table} AND attnum > 0 AND NOT attisdropped"
            ).scalar_one()
        )

    def _functions(self, schema: str, name: str) -> tuple[str, str]:
        changed, emptied = f"rowcast_changed_{name}", f"rowcast_emptied_{name}"
        if len(changed.encode()) > 63:
            changed, emptied = f"rowcast_changed_{digest(name)}", f"rowcast_emptied_{digest(name)}"
        return self.qualified(schema, changed), self.qualified(schema, emptied)

    def _changed(self, table: CapturedTable) -> list[str]:
        key = ", ".join(self.quote(str(c.name)) for c in table.key_columns)
        new_keys = f"SELECT {key} FROM {_NEW} EXCEPT SELECT {key} FROM {_OLD}"
        gone = self.sql(gone_line(table, self.of("o"), self.of("o")))
        old = (
            f"SELECT coalesce(f.line, {gone}) AS line, f.line IS NOT NULL AS there\n"
            f"FROM {_OLD} AS o LEFT JOIN LATERAL ({self._found(table, 'u', 'o')}) AS f ON true"
        )
        found = self._found(table, "c", "n")
        new, added = (
            f"SELECT f.line, true AS there\nFROM {keys} AS n, LATERAL ({found}) AS f"
            for keys in (_NEW, f"({new_keys})")
        )
        # Of changed keys the old ones go first, then the new ones come.
        rekeyed = self._write(f"{old}\nUNION ALL\n{added}", in_order=True)
        return [
            "CASE TG_OP",
            f"WHEN 'INSERT' THEN\n{self._write(new)}",
            f"WHEN 'UPDATE' THEN\nIF EXISTS ({new_keys}) THEN\n{rekeyed}\nELSE\n{self._write(old)}\nEND IF;",
            f"WHEN 'DELETE' THEN\n{self._write(old)}",
            "END CASE;",
            "RETURN NULL;",
        ]

    def _found(self, table: CapturedTable, op: str, alias: str) -> str:
        """The row as it is stored now. OFFSET keeps this a look-up for each key."""
        before = self.of(alias) if op == "u" else None
        line = self.sql(row_line(table, op, stored, before))
        return f"SELECT {line} AS line FROM {self.source(table)} WHERE {self.same_key(table, alias)} OFFSET 0"

    def _emptied(self, table: CapturedTable) -> list[str]:
        # Nobody else can reach the table any more, and the rows are still there.
        line = self.sql(gone_line(table, stored, stored))
        where = f" WHERE {self.sql(RowPredicate(table))}" if table.where is not None else ""
        return [self._write(f"SELECT {line} AS line, false AS there FROM {self.source(table)}{where}")]

    def _write(self, lines: str, *, in_order: bool = False) -> str:
        """Writes outbox rows of as many lines as a drain's; ``in_order``: those of rows that are not there any more
        first; others are not sorted, which would take time. OFFSET keeps the planner from making each line twice."""
        now = self.sql(now_ms(self.dialect))
        piece = f"(n - 1) / {KEYS_PER_ROW}"
        number, text = ("ORDER BY there", "line, '' ORDER BY n") if in_order else ("", "line, ''")
        return (
            f"INSERT INTO {self.outbox} (tx, ts_ms, changes)\n"
            f"SELECT txid_current()::text, {now}, string_agg({text})\n"
            f"FROM (SELECT line, row_number() OVER ({number}) AS n FROM (\n{lines} OFFSET 0\n) AS made "
            "WHERE line <> '') AS told\n"
            f"GROUP BY {piece} ORDER BY {piece};"
        )


def _function(name: str, settings: str, marker: str, body: Sequence[str]) -> str:
    """It runs with the rights of who installs it: other programs' roles need none on the outbox."""
    text = "\n".join(["", f"-- {marker}", "BEGIN", *body, "END;", ""])
    # Quotes that nobody's predicate can hold.
    quotes = f"$rowcast_{digest(text)}$"
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} "
        f"AS {quotes}{text}{quotes}"
    )
