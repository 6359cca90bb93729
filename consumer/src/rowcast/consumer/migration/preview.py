"""Find the steps that a worker would take with the tables of a replica for given shapes, and take none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.constraints import NewConstraint, creation, missing_constraints
from rowcast.consumer.replica.dialects import ReplicaDialect, for_people, quoted_name
from rowcast.consumer.replica.evolution.evolving_table import EvolvingTable
from rowcast.consumer.replica.evolution.planner import Planner
from rowcast.consumer.replica.evolution.shape_changes import TableRebuildError, require_compatible
from rowcast.consumer.replica.evolution.steps import Step
from rowcast.consumer.replica.evolution.table_renaming import recorded_former, renaming
from rowcast.consumer.replica.known_columns import KnownColumns
from rowcast.consumer.replica.table_definitions import TableDefinitions, replica_name
from rowcast.consumer.replica.table_records import TableRecord
from rowcast.consumer.views.changed_view import require_same_view
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import TableShape

Recorded = Mapping[str, TableRecord]
"""What the worker has recorded for each table."""


@dataclass(slots=True)
class TablePreview:
    """The changes of a migration to a table. ``changes``: each change in words, with its statements.

    ``kept``: the columns unknown to the source. ``stop``: why the worker cannot follow, or "". ``needs_rebuild``: a
    rebuild of the table alone helps.
    """

    table: str
    created: bool = True
    changes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    kept: tuple[str, ...] = ()
    stop: str = ""
    needs_rebuild: bool = False


class Preview:
    """Compare the tables of a replica with shapes, in the caller's transaction.

    ``drop``: shell patterns over ``schema.table.column`` of kept columns that are to be dropped. ``is_consistent``: the
    worker creates missing constraints. A loading replica gets them later. ``is_asked``: somebody wants tables of the
    user's to follow too. ``renamed``: the present name of each former name of a table.
    """

    def __init__(
        self, connection: Connection, replica: ReplicaDialect, recorded: Recorded, shapes: Iterable[TableShape], *,
        drop: Iterable[str] = (), is_consistent: bool = True, is_asked: bool = False, renamed: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._connection = connection
        self._replica = replica
        self.recorded = dict(recorded)
        """The records, with the present names of renamed tables."""
        self._renamed = renamed
        self._formers: dict[str, TableShape] = {}
        self._drop = tuple(drop)
        self._is_consistent = is_consistent
        self._is_asked = is_asked
        self._definitions = TableDefinitions(shapes, replica, connection.dialect)
        self._tables = {name: self._evolving(shape) for name, shape in self._definitions.shapes.items()}

    def _evolving(self, shape: TableShape) -> EvolvingTable:
        former = recorded_former(shape, self._renamed, self.recorded)
        if former is not None:
            return self._former(self.recorded.pop(former), shape)
        name = replica_name(shape, self._replica)
        before, created = self.recorded.get(shape.full_name, (shape, False))
        columns = self._replica.read_columns(self._connection, *name)
        return EvolvingTable(shape, before, created or self._is_asked, name, columns)

    def _former(self, record: TableRecord, shape: TableShape) -> EvolvingTable:
        """Return a table to rename, under its present name."""
        self.recorded[shape.full_name] = renamed = record.renamed(shape)
        self._formers[shape.full_name] = record.shape
        names = [replica_name(s, self._replica) for s in (record.shape, shape)]
        columns = {name: self._replica.read_columns(self._connection, *name) for name in names}
        name = next((name for name in names if columns[name]), names[-1])
        return EvolvingTable(shape, renamed.shape, record.created or self._is_asked, name, dict(columns[name]))

    def steps(self) -> Iterator[Step]:
        """Yield the steps for existing tables. Each step is planned after the earlier steps are done.

        Raise DataError for a table that cannot follow, and ConfigurationError for an impossible column.
        """
        for table in self._tables.values():
            require_same_view(table.before, table.shape)
        tables = [table for table in self._tables.values() if table.columns]
        require_compatible((table.before, table.shape) for table in tables)
        yield from self._steps(tables)

    def _steps(self, tables: list[EvolvingTable]) -> Iterator[Step]:
        planner = Planner(self._connection, sa.inspect(self._connection), self._replica, self._definitions)
        yield from planner.steps(tables)
        for table in tables:
            yield from self._dropped_columns(table)
            # Last, because all earlier steps use the present name of the table.
            if (former := self._formers.get(table.shape.full_name)) is not None:
                columns = KnownColumns(self._replica, self._connection, ())
                step = renaming(self._connection, self._replica, columns, former, table.shape)
                yield from [] if step is None else [step]

    def _dropped_columns(self, table: EvolvingTable) -> Iterator[Step]:
        for name in self._kept(table):
            if any(fnmatchcase(f"{table.shape.full_name}.{name}", pattern) for pattern in self._drop):
                quoted = quoted_name(self._connection, *table.name)
                drop = f"ALTER TABLE {quoted} DROP COLUMN {quoted_name(self._connection, None, name)}"
                yield Step(table.shape, f"column {name} dropped with its values", (drop,))
                del table.columns[name]

    def tables(self) -> list[TablePreview]:
        """Return the tables with their changes, sorted by name."""
        return [self._preview(table) for _, table in sorted(self._tables.items())]

    def _preview(self, table: EvolvingTable) -> TablePreview:
        try:
            require_same_view(table.before, table.shape)
        except DataError as error:
            return TablePreview(table.shape.full_name, self._is_created(table), stop=str(error))
        if not table.columns:
            return self._creation(table)
        found, said = TablePreview(table.shape.full_name, self._is_created(table)), set[str]()
        try:
            require_compatible([(table.before, table.shape)])
            for step in self._steps([table]):
                statements = (for_people(self._connection, statement) for statement in step.statements)
                found.changes.append((step.what, tuple(s for s in statements if s not in said)))
                said.update(found.changes[-1][1])
            if self._is_consistent and found.created:
                found.changes += self._new_constraints(table)
        except (ConfigurationError, DataError) as error:
            found.stop, found.needs_rebuild = str(error), isinstance(error, TableRebuildError) and found.created
        found.kept = tuple(self._kept(table))
        return found

    def _creation(self, table: EvolvingTable) -> TablePreview:
        ddl = (str(one.compile(dialect=self._connection.dialect)) for one in self._definitions.creation(table.shape))
        statements = tuple(for_people(self._connection, " ".join(statement.split())) for statement in ddl)
        return TablePreview(table.shape.full_name, changes=[("table created", statements)])

    def _is_created(self, table: EvolvingTable) -> bool:
        """Return whether a worker created the table."""
        return self.recorded.get(table.shape.full_name, (table.shape, False))[1]

    def _kept(self, table: EvolvingTable) -> list[str]:
        """Return the columns unknown to the source, in a table created by a worker."""
        names = {column.name for column in table.shape.columns}
        return [name for name in table.columns if name not in names] if self._is_created(table) else []

    def _new_constraints(self, table: EvolvingTable) -> Iterator[tuple[str, tuple[str, ...]]]:
        for _, new in missing_constraints(self._connection, self._definitions, [table.shape.full_name]):
            yield _description(new), tuple(creation(self._connection, self._replica, new))


def _description(new: NewConstraint) -> str:
    if isinstance(new, sa.ForeignKeyConstraint):
        return f"foreign key ({', '.join(new.column_keys)}) to {new.referred_table.fullname} created"
    kind = "unique key" if new.unique else "index"
    return f"{kind} ({', '.join(column.name for column in new.columns)}) created"
