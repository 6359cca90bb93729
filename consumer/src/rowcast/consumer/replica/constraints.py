"""The constraints between rows: dropped while the replica loads, created and checked when it becomes consistent."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateIndex

from rowcast.consumer.replica.dialects import WORKER_PREFIX, Fault, ReplicaDialect, for_people
from rowcast.consumer.replica.dialects.naming import constraint_base
from rowcast.consumer.replica.dialects.orphans import count_orphans, log_orphans
from rowcast.consumer.replica.table_definitions import TableDefinitions
from rowcast.consumer.replica.tables import ReplicaTables
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import ConfigurationError

_log = logging.getLogger("rowcast.worker")


class Constraints:
    """Create and drop unique and foreign keys of the worker's tables. The user's own tables keep all constraints."""

    def __init__(self, replica: ReplicaDialect, tables: ReplicaTables) -> None:
        self._replica = replica
        self._tables = tables

    def create(self, connection: Connection, *, are_checked: bool = False, only: Collection[str] | None = None) -> bool:
        """Create the missing constraints, each in a separate transaction.

        Return False if rows violate a constraint. A warning names the constraint, and the replica is not consistent
        before the constraint exists. Unsupported constraints are left out, with a warning. ``are_checked``: the replica
        was consistent, and the rows satisfy the existing constraints. ``only``: look at these tables alone.
        """
        definitions = self._tables.definitions(connection.dialect)
        create_key = self._add_to_table if self._replica.foreign_keys_in_table else self._create_foreign_key
        with connection.begin():
            own = self._tables.records.created_by_worker(connection)
            own = own if only is None else own.intersection(only)
            missing = list(missing_constraints(connection, definitions, own))
        found = [
            create_key(connection, name, new)
            if isinstance(new, sa.ForeignKeyConstraint)
            else self._create_index(connection, name, new)
            for name, new in missing
        ]
        if are_checked and not found:
            return True
        with connection.begin():
            self._tables.refresh(connection)
            tables = [self._tables.table(name) for name in definitions.shapes]
            found.append(are_checked or self._replica.check_foreign_keys(connection, tables))
        return all(found)

    def missing(self, connection: Connection, *, but: Collection[str] = ()) -> list[str]:
        """Return the statements to create the missing constraints. ``but``: the tables to leave out."""
        with connection.begin():
            own = self._tables.records.created_by_worker(connection).difference(but)
            missing = list(missing_constraints(connection, self._tables.definitions(connection.dialect), own))
            return [statement for _, new in missing for statement in creation(connection, self._replica, new)]

    def drop(self, connection: Connection) -> None:
        """Drop what ``create`` has created, while the replica loads."""
        with connection.begin():
            own = self._tables.records.created_by_worker(connection)
            definitions = self._tables.definitions(connection.dialect)
        names = own & definitions.tables.keys()
        if not self._replica.foreign_keys_in_table:
            for full_name in names:
                self._drop_foreign_keys(connection, definitions.tables[full_name])
        for full_name in names:
            self._drop_unique_indexes(connection, definitions.tables[full_name])
        with connection.begin():
            self._tables.refresh(connection)

    def _drop_foreign_keys(self, connection: Connection, table: sa.Table) -> None:
        with connection.begin():
            for key in sa.inspect(connection).get_foreign_keys(table.name, table.schema):
                name = key.get("name") or ""
                if name.startswith(WORKER_PREFIX):
                    connection.exec_driver_sql(
                        self._replica.foreign_key_drop(connection, (table.schema, table.name), name)
                    )

    def _drop_unique_indexes(self, connection: Connection, table: sa.Table) -> None:
        with connection.begin():
            for index in sa.inspect(connection).get_indexes(table.name, table.schema):
                name = index.get("name") or ""
                if name.startswith(f"{WORKER_PREFIX}uq_"):
                    for statement in self._replica.index_drop(connection, (table.schema, table.name), name):
                        connection.exec_driver_sql(statement)

    def _create_index(self, connection: Connection, full_name: str, index: sa.Index) -> bool:
        table = index.table
        assert table is not None
        try:
            with connection.begin():
                connection.execute(CreateIndex(index))
        except exc.DBAPIError as error:
            kind = "unique key" if index.unique else "index"
            return self._handle_failure(error, full_name, f"{kind} ({', '.join(c.name for c in index.columns)})")
        return True

    def _create_foreign_key(self, connection: Connection, full_name: str, key: sa.ForeignKeyConstraint) -> bool:
        try:
            # A reader may hold one of both tables for long, and later readers wait behind the creation.
            with connection.begin(), self._replica.bounded_lock_waits(connection):
                for statement in self._replica.foreign_key_addition(connection, key):
                    connection.exec_driver_sql(statement)
        except exc.DBAPIError as error:
            return self._handle_failure(error, full_name, _description(key))
        return True

    def _add_to_table(self, connection: Connection, full_name: str, key: sa.ForeignKeyConstraint) -> bool:
        """Write the table again with the foreign key, on an engine that creates foreign keys only with their table.

        The engine does not check the rows.
        """
        self._replica.set_consistency(connection, consistent=False)
        try:
            with connection.begin():
                parent, referred = key.referred_table.name, [element.column.name for element in key.elements]
                if count := count_orphans(connection, key.table.name, key.column_keys, parent, referred):
                    log_orphans(full_name, count, parent)
                    return False
            return self._create_foreign_key(connection, full_name, key)
        except ConfigurationError as error:
            _log.warning("table %s: %s is left out. The rows satisfy it: %s", full_name, _description(key), error)
            return True
        finally:
            self._replica.set_consistency(connection, consistent=True)

    def _handle_failure(self, error: exc.DBAPIError, table: str, constraint: str) -> bool:
        """Return whether the replica may become consistent without this constraint. Raise a transient error again."""
        if self._replica.classify(error) in (Fault.LOST, Fault.TRANSIENT):
            raise error
        reason = first_line(error)
        if self._replica.is_violated_by_rows(error):
            _log.warning(
                "table %s: %s cannot be created, so the replica is loading: %s. "
                "Look for rows from before the capture, which are not in the topics, and for texts that only the "
                "primary's collation takes for the same.", table, constraint, reason,
            )  # fmt: skip
            return False
        _log.warning("table %s: %s is left out, because this engine does not support it: %s", table, constraint, reason)
        return True


NewConstraint = sa.Index | sa.ForeignKeyConstraint


def missing_constraints(
    connection: Connection, definitions: TableDefinitions, names: Collection[str]
) -> Iterator[tuple[str, NewConstraint]]:
    """Yield the missing unique keys, indexes and foreign keys of the worker's tables, indexes first."""
    tables = {name: table for name, table in definitions.tables.items() if name in names}
    existing = _existing_names(connection, tables.values())
    for name in tables:
        shape = definitions.shapes[name]
        for index in (*definitions.unique_indexes(shape), *definitions.foreign_key_indexes(shape)):
            if constraint_base(index.name) not in existing:
                yield name, index
    for name, table in tables.items():
        for key in table.foreign_key_constraints:
            if constraint_base(str(key.name)) not in existing:
                yield name, key


def creation(connection: Connection, replica: ReplicaDialect, new: NewConstraint) -> list[str]:
    """Return the statements to create a constraint, in SQL for a person."""
    if isinstance(new, sa.ForeignKeyConstraint):
        statements = replica.foreign_key_addition(connection, new)
    else:
        statements = [str(CreateIndex(new).compile(dialect=connection.dialect))]
    return [for_people(connection, statement) for statement in statements]


def _existing_names(connection: Connection, tables: Iterable[sa.Table]) -> set[str | None]:
    """Return the names of all indexes and foreign keys of the tables, in few statements where the engine can.

    The names of the worker are without the suffix of a rebuild.
    """
    inspector = sa.inspect(connection)
    by_schema: dict[str | None, list[str]] = {}
    for table in tables:
        by_schema.setdefault(table.schema, []).append(table.name)
    found: set[str | None] = set()
    for schema, names in by_schema.items():
        for of_table in inspector.get_multi_indexes(schema=schema, filter_names=names).values():
            found.update(constraint_base(index["name"]) for index in of_table)
        for keys in inspector.get_multi_foreign_keys(schema=schema, filter_names=names).values():
            found.update(constraint_base(key["name"]) for key in keys)
    return found


def _description(key: sa.ForeignKeyConstraint) -> str:
    return f"foreign key ({', '.join(key.column_keys)}) to {key.referred_table.fullname}"
