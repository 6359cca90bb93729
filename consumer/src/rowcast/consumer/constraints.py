"""The constraints between rows: taken off while the replica loads, made and checked when it becomes consistent."""

from __future__ import annotations

import logging

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.schema import AddConstraint, CreateIndex

from rowcast.consumer.definitions import OWN_PREFIX, Definitions
from rowcast.consumer.dialects import Fault, ReplicaDialect
from rowcast.consumer.tables import ReplicaTables

_log = logging.getLogger("rowcast.worker")


class Constraints:
    """Unique keys and foreign keys of the replica's tables. Those of the user's own tables are left alone."""

    def __init__(self, replica: ReplicaDialect, tables: ReplicaTables) -> None:
        self._replica = replica
        self._tables = tables

    def make(self, connection: Connection) -> bool:
        """Makes what is missing, each in a transaction of its own.

        False if rows stand in the way: they are named in warnings, and the replica cannot be consistent yet. What the
        engine cannot have at all is named too, and left out.
        """
        definitions = Definitions(self._tables.shapes(), self._replica, connection.dialect)
        with connection.begin():
            own = self._tables.own(connection)
        done = True
        for full_name, shape in definitions.shapes.items():
            if full_name in own:
                for index in (*definitions.unique_indexes(shape), *definitions.foreign_key_indexes(shape)):
                    done &= self._make_index(connection, full_name, index)
        for full_name in definitions.shapes:
            if full_name in own and not self._replica.foreign_keys_in_table:
                for key in definitions.tables[full_name].foreign_key_constraints:
                    done &= self._make_foreign_key(connection, full_name, key)
        with connection.begin():
            self._tables.refresh(connection)
            done &= self._replica.check_foreign_keys(
                connection, [self._tables.table(name) for name in definitions.shapes]
            )
        return done

    def take_off(self, connection: Connection) -> None:
        """Drops what ``make`` made, for the time of loading."""
        with connection.begin():
            own = self._tables.own(connection)
            definitions = Definitions(self._tables.shapes(), self._replica, connection.dialect)
        for full_name in own & definitions.tables.keys():
            table = definitions.tables[full_name]
            with connection.begin():
                inspector = sa.inspect(connection)
                for key in inspector.get_foreign_keys(table.name, table.schema):
                    name = key.get("name") or ""
                    if name.startswith(OWN_PREFIX) and not self._replica.foreign_keys_in_table:
                        self._replica.drop_foreign_key(connection, self._tables.table(full_name), name)
        for full_name in own & definitions.tables.keys():
            table = definitions.tables[full_name]
            with connection.begin():
                for index in sa.inspect(connection).get_indexes(table.name, table.schema):
                    name = index.get("name") or ""
                    if name.startswith(f"{OWN_PREFIX}uq_"):
                        self._replica.drop_index(connection, self._tables.table(full_name), name)
        with connection.begin():
            self._tables.refresh(connection)

    def _make_index(self, connection: Connection, full_name: str, index: sa.Index) -> bool:
        assert index.table is not None
        try:
            with connection.begin():
                there = {i["name"] for i in sa.inspect(connection).get_indexes(index.table.name, index.table.schema)}
                if index.name not in there:
                    connection.execute(CreateIndex(index))
        except exc.DBAPIError as error:
            columns = ", ".join(c.name for c in index.columns)
            return self._explain(error, full_name, f"{'unique key' if index.unique else 'index'} ({columns})")
        return True

    def _make_foreign_key(self, connection: Connection, full_name: str, key: sa.ForeignKeyConstraint) -> bool:
        try:
            with connection.begin():
                there = sa.inspect(connection).get_foreign_keys(key.table.name, key.table.schema)
                if key.name not in {k["name"] for k in there}:
                    connection.execute(AddConstraint(key, isolate_from_table=False))
        except exc.DBAPIError as error:
            what = f"foreign key ({', '.join(key.column_keys)}) to {key.referred_table.fullname}"
            return self._explain(error, full_name, what)
        return True

    def _explain(self, error: exc.DBAPIError, table: str, what: str) -> bool:
        if self._replica.fault(error) in (Fault.LOST, Fault.PASSING):
            raise error
        reason = str(error.orig).strip().splitlines()[0]
        if self._replica.rows_stand_in_the_way(error):
            _log.warning(
                "table %s: %s cannot be made, so the replica is still loading: %s. "
                "Are there rows from before the capture, which are not in the topics?", table, what, reason,
            )  # fmt: skip
            return False
        _log.warning("table %s: %s is left out, this engine cannot have it: %s", table, what, reason)
        return True
