"""The tables that a rebuild has replaced, and the fresh tables of an unfinished rebuild."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.rebuild.first_pass.share_rows import discard_shares
from rowcast.consumer.rebuild.scope import RebuildScope
from rowcast.consumer.rebuild.swap import TableSwap
from rowcast.consumer.rebuild.swapped_table import named, recorded_shapes
from rowcast.consumer.replica.dialects import TableNaming
from rowcast.consumer.replica.dialects.naming import (
    FRESH_PREFIX,
    OLD,
    fresh_source,
    kept_source,
    old_source,
    part_source,
)
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.table_swap import settle_swap
from rowcast.consumer.replica.worker_tables import ROWCAST_POSITION, ROWCAST_REPLICA, ROWCAST_TABLE
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError

_log = logging.getLogger("rowcast.rebuild")


class OldTables:
    """Find tables by their shapes in ``rowcast_table``, where a swap notes the replaced tables."""

    def __init__(self, engine: Engine, source: str, swap: TableSwap) -> None:
        self._engine = engine
        self._source = source
        self._swap = swap

    def finish(self, *, keep: bool) -> bool:
        """Drop the tables just replaced by a swap, or note to keep the tables. Return whether any exist."""
        if not self._swap.replica_dialect.has_transactional_ddl:
            with self._swap.connected() as connection:
                settle_swap(connection, self._source)
        if keep:
            with self._engine.begin() as connection:
                rows = sa.update(ROWCAST_TABLE).where(ROWCAST_TABLE.c.source == old_source(self._source))
                return connection.execute(rows.values(source=kept_source(self._source))).rowcount > 0
        return bool(self._drop(old_source(self._source), OLD))

    def require_none(self, replica: str) -> None:
        """Raise ConfigurationError if tables of an earlier rebuild are kept."""
        with self._engine.connect() as connection:
            kept = recorded_shapes(connection, kept_source(self._source))
        if kept:
            raise ConfigurationError(
                f"replica {replica!r} still has the old tables of its last rebuild: {', '.join(sorted(kept))}. "
                f"Drop them: rowcast rebuild {replica} --drop-old"
            )

    def drop_kept(self) -> list[str]:
        """Drop the tables that an earlier rebuild has kept. Return the names."""
        return self._drop(kept_source(self._source), OLD) + self._drop(old_source(self._source), OLD)

    def require_no_other_fresh(self, replica: str, scope: RebuildScope) -> None:
        """Raise ConfigurationError for an unfinished rebuild of other tables, because the names are the same."""
        for source in (fresh_source(self._source), part_source(self._source)):
            with self._engine.connect() as connection:
                names = recorded_shapes(connection, source).keys()
                exists = bool(names) or read_row(connection, source) is not None
            if exists and (source != scope.fresh_source or (scope.chosen is not None and names - scope.chosen)):
                is_part = source == part_source(self._source)
                option = f" --tables {','.join(sorted(names))}" if is_part and names else ""
                raise ConfigurationError(
                    f"replica {replica!r} has an unfinished rebuild of other tables. Go on with it: "
                    f"rowcast rebuild {replica}{option}. Or discard it: repeat this command with --restart"
                )

    def discard_incomplete_fresh(self, source: str) -> None:
        """Drop an unfinished rebuild's fresh tables if a table is gone, because the positions count the lost table."""
        with self._engine.connect() as connection:
            shapes = recorded_shapes(connection, source).values()
            inspector = sa.inspect(connection)
            places = [named(shape, self._swap.replica_dialect, TableNaming(FRESH_PREFIX)) for shape in shapes]
            gone = [name for schema, name in places if not inspector.has_table(name, schema)]
        if gone:
            _log.warning("table %s of an unfinished rebuild is gone, so the rebuild begins again", ", ".join(gone))
            self.discard_fresh(source)

    def discard_fresh(self, source: str) -> None:
        """Drop the fresh tables of an unfinished rebuild, and their positions. ``source``: see ``RebuildScope``."""
        with self._engine.begin() as connection:
            # First, so that a worker of the fresh tables is fenced.
            discard_shares(connection, source)
            connection.execute(sa.delete(ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == source))
            connection.execute(sa.delete(ROWCAST_POSITION).where(ROWCAST_POSITION.c.source == source))
        self._drop(source, TableNaming(FRESH_PREFIX))

    def _drop(self, source: str, naming: TableNaming) -> list[str]:
        """Drop the tables of a value of ``source``, and then forget them, so that an interrupted drop is repeated."""
        with self._engine.connect() as connection:
            shapes = recorded_shapes(connection, source)
        if not shapes:
            return []
        names: Iterable[tuple[str | None, str]] = [
            named(shape, self._swap.replica_dialect, naming) for shape in shapes.values()
        ]
        self._swap.drop(list(names))
        with self._engine.begin() as connection:
            connection.execute(sa.delete(ROWCAST_TABLE).where(ROWCAST_TABLE.c.source == source))
        return [name for _, name in names]


def drop_old_tables(settings: Settings, replica: str) -> list[str]:
    """Drop the tables that an earlier rebuild of the replica has kept. Return the names."""
    label = f"replica {replica!r}"
    engine = open_engine(settings.replica(replica).sqlalchemy_url, label, pooled=False)
    reach(engine, label)
    swap = TableSwap(engine, settings.source, fresh_source(settings.source), label)
    return OldTables(engine, settings.source, swap).drop_kept()
