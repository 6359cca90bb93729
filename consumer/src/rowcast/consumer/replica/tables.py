"""The replica's tables: missing tables are created from shapes, existing tables are checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import chain
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect, Inspector

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import ReplicaDialect, ReplicaTable, TableName, quoted_name
from rowcast.consumer.replica.evolution.evolving_table import EvolvingTable
from rowcast.consumer.replica.evolution.planner import Planner
from rowcast.consumer.replica.evolution.shape_changes import require_compatible, require_same_key
from rowcast.consumer.replica.evolution.steps import Step, carry_out, require_no_steps
from rowcast.consumer.replica.evolution.table_renaming import follow_renaming, recorded_former
from rowcast.consumer.replica.known_columns import KnownColumns
from rowcast.consumer.replica.part import TablesChangedError
from rowcast.consumer.replica.renamed_columns import RenamedColumns
from rowcast.consumer.replica.renamed_tables import RenamedTables
from rowcast.consumer.replica.table_definitions import TableDefinitions, replica_name, table_limits_named
from rowcast.consumer.replica.table_records import TableRecord, TableRecords
from rowcast.consumer.replica.trigger_warnings import TriggerWarnings
from rowcast.consumer.replica.users_tables import require_fitting
from rowcast.consumer.views.changed_view import require_same_view
from rowcast.shared.config.replica_settings import Evolution
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.table_order import parents_first

_log = logging.getLogger("rowcast.worker")

_CASCADE_FREE_ACTIONS = ("NO ACTION", "RESTRICT")


class NotReplaceableError(DataError):
    """A unique value moves between rows of a table whose rows cannot be deleted and written again."""


class ReplicaTables:
    """Know the replica's table for each table of the source.

    Call every method with a connection in a transaction. ``first_lsn``: the first lsn of the snapshot to load new
    tables from, or 0 to load from the beginning of the topics. ``evolution``: see ``ReplicaSettings``. ``may_change``:
    create tables and follow changed shapes. Without, raise TablesChangedError in place of both.
    """

    def __init__(
        self, source: str, replica: ReplicaDialect, first_lsn: int = 0, evolution: Evolution = "evolve", *,
        may_change: bool = True,
    ) -> None:  # fmt: skip
        self.records = TableRecords(source, first_lsn)
        self._may_change = may_change
        self._replica = replica
        self.evolution = evolution
        self.just_created: set[str] = set()
        """The tables that the last ``prepare`` has created."""
        self._tables: dict[str, ReplicaTable] = {}
        self._shapes: dict[str, TableShape] = {}
        self._order: list[str] | None = None
        self._fitting: set[RowLayout] = set()
        self._definitions: TableDefinitions | None = None
        self._trigger_warnings = TriggerWarnings(replica)
        self.renamed = RenamedColumns()
        """The names that the columns of older shapes have now."""
        self.renamed_tables = RenamedTables()
        """The names that tables have now. Every layout below has its table's present name."""

    def shapes(self) -> list[TableShape]:
        """Return the shapes of the tables that are ready."""
        return list(self._shapes.values())

    def order(self) -> list[str]:
        """Return the names of the tables that are ready, parents first."""
        if self._order is None:
            self._order = parents_first(sorted(self._shapes.values(), key=attrgetter("full_name")))
        return self._order

    def table(self, full_name: str) -> ReplicaTable:
        """Return the replica's table for ``schema.table``, which must be ready."""
        return self._tables[full_name]

    def needs_prepare(self, shapes: Iterable[TableShape]) -> bool:
        """Return whether a shape is new or has changed since ``prepare``."""
        return any(self._shapes.get(shape.full_name) != shape for shape in shapes)

    def fits(self, layout: RowLayout) -> bool:
        """Return whether the table is ready for events of the layout: with the key, and wide enough columns."""
        if layout in self._fitting:
            return True
        table, shape = self._tables.get(layout.table), self._shapes.get(layout.table)
        if (
            table is None
            or shape is None
            or layout.key != shape.primary_key
            or not layout.names <= table.columns.keys()
        ):
            return False
        if layout.shape is shape:
            self._fitting.add(layout)
        return layout in self._fitting

    def prepare(
        self, connection: Connection, shapes: Iterable[TableShape], layouts: Iterable[RowLayout] = (),
        renamed: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        """Create the tables of these shapes, or adapt existing tables.

        ``layouts``: layouts of events with shapes possibly wider than the latest shape. ``renamed``: the present name
        of each former name of a table.

        Raise ConfigurationError if a table of the user's does not fit. Raise DataError if the replica cannot follow a
        changed shape.
        """
        wanted = list(shapes)
        self._replica.require_transactions(connection, [self._name(shape)[1] for shape in wanted])
        # A table renamed back has its former name again.
        formers = renamed.keys() - {shape.full_name for shape in wanted}
        known = {name: shape for name, shape in self._shapes.items() if name not in formers}
        self._tables = {name: table for name, table in self._tables.items() if name not in formers}
        known |= {shape.full_name: shape for shape in wanted}
        self._definitions = TableDefinitions(known.values(), self._replica, connection.dialect)
        columns = self._read_columns(connection, wanted)
        recorded = self.records.read(connection)
        if self._may_change:
            self._rename(connection, columns, recorded, renamed, wanted)
        self.just_created.clear()
        changed = [(recorded[s.full_name].shape, s) for s in wanted if s.full_name in recorded]
        for recorded_shape, shape in changed:
            require_same_view(recorded_shape, shape)
        there = [(before, after) for before, after in changed if columns.of(self._name(after))]
        require_compatible(there, keys_only=self.evolution == "none")
        followed = []
        for shape in wanted:
            before, created = recorded.get(shape.full_name, (None, False))
            if before != shape and not self._may_change:
                raise TablesChangedError(f"table {shape.full_name} has another shape than when the load was divided")
            table = self._find_or_create(connection, columns, before, shape, created=created)
            followed += [] if table is None else [table]
        inspector = sa.inspect(connection)
        if self._may_change:
            self._evolve(connection, inspector, columns, followed)
        self._inspect(connection, inspector, columns, wanted)
        self._trigger_warnings.warn_of_new(connection, [self._name(shape) for shape in wanted])
        self._shapes, self._order = known, None
        self.renamed.add(wanted)
        self.renamed_tables.set(renamed, known)
        self._prepare_layouts(connection, layouts)

    def _rename(
        self, connection: Connection, columns: KnownColumns, recorded: dict[str, TableRecord],
        renamed: Mapping[str, str], shapes: Iterable[TableShape],
    ) -> None:  # fmt: skip
        """Rename tables to their names at the source, and change the records."""
        for shape in shapes:
            former = recorded_former(shape, renamed, recorded)
            if former is not None:
                record = recorded.pop(former)
                # First, because the view also chooses the table's name.
                require_same_view(record.shape, shape)
                may_rename = record.created and self.evolution == "evolve"
                record = follow_renaming(connection, self._replica, columns, record, shape, may_rename=may_rename)
                self.records.rename(connection, former, record)
                recorded[shape.full_name] = record

    def _evolve(
        self, connection: Connection, inspector: Inspector, columns: KnownColumns, tables: list[EvolvingTable]
    ) -> None:
        """Change the existing tables as far as the settings allow, and record the shapes."""
        assert self._definitions is not None
        planner = Planner(connection, inspector, self._replica, self._definitions)
        if changed := self._change(connection, planner.steps(tables)):
            inspector.clear_cache()
        for table in tables:
            if table.shape.full_name in changed:
                columns.forget(table.name)
            if table.before != table.shape:
                self.records.update(connection, table.shape)

    def _change(self, connection: Connection, steps: Iterable[Step]) -> set[str]:
        """Return ``schema.table`` of the changed tables."""
        if self.evolution == "evolve":
            return carry_out(connection, self._replica, steps)
        if self.evolution == "validate":
            require_no_steps(connection, steps)
        return set()

    def _prepare_layouts(self, connection: Connection, layouts: Iterable[RowLayout]) -> None:
        """Widen and relax columns for events of other shapes than the latest. Tables of the user's are left alone."""
        created = self.records.created_by_worker(connection)
        for layout in map(self.renamed_tables.layout, layouts):
            if layout.table in self._shapes:
                require_same_key(layout, self._shapes[layout.table])
            if layout.table in created and layout.table in self._shapes:
                columns, renamed = self._read_columns(connection, [layout.shape]), self.renamed.layout(layout)
                table = self._evolving(columns, renamed.shape, renamed.shape, created=True)
                inspector, definitions = sa.inspect(connection), self.definitions(connection.dialect)
                planner = Planner(connection, inspector, self._replica, definitions)
                # A layout without some columns keeps the values of existing rows, so NOT NULL can stay.
                relaxed = () if layout.keeps_others else planner.relaxed(table, renamed)
                if self._change(connection, chain(planner.widened(table), relaxed)):
                    columns.forget(table.name)
                    self._inspect(connection, sa.inspect(connection), columns, [self._shapes[layout.table]])
            self._fitting.add(layout)

    def _find_or_create(
        self, connection: Connection, columns: KnownColumns, before: TableShape | None, shape: TableShape, *,
        created: bool,
    ) -> EvolvingTable | None:  # fmt: skip
        """Return the table to compare with the shape. Return None for a new table."""
        if not columns.of(self._name(shape)):
            assert self._definitions is not None
            with table_limits_named(shape, self._replica):
                for statement in self._definitions.creation(shape):
                    connection.execute(statement)
            columns.forget(self._name(shape))
            self.records.add(connection, shape, created=True)
            self.just_created.add(shape.full_name)
            _log.info("table %s created", shape.full_name)
            return None
        if before is None:
            # MariaDB and MySQL keep a created table if the worker was killed before it recorded the table.
            created = bool(self._replica.naming.prefix)
            if not created:
                name = self._name(shape)
                require_fitting(connection, name, columns.of(name).keys(), shape)
                _log.info("table %s exists already and is used as it is", shape.full_name)
            self.records.add(connection, shape, created=created)
        return self._evolving(columns, before or shape, shape, created=created)

    def _evolving(
        self, columns: KnownColumns, before: TableShape, shape: TableShape, *, created: bool
    ) -> EvolvingTable:
        name = self._name(shape)
        return EvolvingTable(shape, before, created, name, dict(columns.of(name)))

    def require_replaceable(self, connection: Connection, layout: RowLayout) -> None:
        """Raise NotReplaceableError if deleting rows of the table and writing them again would lose anything."""
        table, layout = self.table(layout.table), self.renamed.layout(layout)
        reason = f"table {table.name}: a unique value moves between rows, so the rows must be deleted and written again"
        written = {name for name, column in table.columns.items() if not column.generated}
        if others := written - layout.names:
            raise NotReplaceableError(
                f"{reason}, but the source has no value for their columns {', '.join(sorted(others))}. "
                "Drop the columns, as with rowcast migrate REPLICA --drop, or the unique key."
            )
        if self._replica.suspends_foreign_keys:
            return
        inspector = sa.inspect(connection)
        for other in self._tables.values():
            for key in inspector.get_foreign_keys(other.name, other.schema):
                action = key.get("options", {}).get("ondelete", "NO ACTION")
                refers = key["referred_table"] == table.name and key["referred_schema"] in (table.schema, None)
                if refers and action not in _CASCADE_FREE_ACTIONS:
                    raise NotReplaceableError(
                        f"{reason}, but foreign key {key['name']} of {other.name} would {action} then. "
                        "Make it ON DELETE NO ACTION DEFERRABLE, because cascades come as events."
                    )

    def refresh(self, connection: Connection) -> None:
        """Inspect the tables again, after their constraints have changed."""
        columns = self._read_columns(connection, self.shapes())
        self._inspect(connection, sa.inspect(connection), columns, self.shapes())

    def definitions(self, dialect: Dialect) -> TableDefinitions:
        """Return the definitions of the tables that are ready."""
        if self._definitions is None or self._definitions.shapes != self._shapes:
            self._definitions = TableDefinitions(self._shapes.values(), self._replica, dialect)
        return self._definitions

    def _read_columns(self, connection: Connection, shapes: Iterable[TableShape]) -> KnownColumns:
        return KnownColumns(self._replica, connection, [self._name(shape) for shape in shapes])

    def _name(self, shape: TableShape) -> TableName:
        return replica_name(shape, self._replica)

    def _inspect(
        self, connection: Connection, inspector: Inspector, columns: KnownColumns, shapes: Iterable[TableShape]
    ) -> None:
        """Read what the replica's tables are like, in few statements where the engine can."""
        by_schema: dict[str | None, list[TableShape]] = {}
        for shape in shapes:
            by_schema.setdefault(self._name(shape)[0], []).append(shape)
        for schema, group in by_schema.items():
            names = [self._name(shape)[1] for shape in group]
            constraints = inspector.get_multi_unique_constraints(schema=schema, filter_names=names)
            indexes = inspector.get_multi_indexes(schema=schema, filter_names=names)
            for shape, name in zip(group, names, strict=True):
                # An index over an expression has None in place of a column's name.
                unique: list[set[str | None]] = [set(u["column_names"]) for u in constraints.get((schema, name), ())]
                unique += [set(i["column_names"]) for i in indexes.get((schema, name), ()) if i["unique"]]
                self._tables[shape.full_name] = ReplicaTable(
                    schema,
                    name,
                    quoted_name(connection, schema, name),
                    dict(columns.of((schema, name))),
                    shape.primary_key,
                    other_unique=any(key != set(shape.primary_key) for key in unique),
                )
