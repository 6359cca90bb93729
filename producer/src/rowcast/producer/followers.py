"""The rows that follow from a statement by the foreign keys' actions, as captured tables and keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.announcements import Announcer
from rowcast.producer.cascades import Cascades, into_key
from rowcast.producer.pending import TRANSLATE, CapturedOf, Pending
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Key


class Followers:
    """One engine's."""

    def __init__(self, metadata: sa.MetaData, captured: CapturedOf, announcer: Announcer) -> None:
        self._metadata = metadata
        self._captured = captured
        self._announcer = announcer
        self._cascades = Cascades(metadata)
        self._count = len(metadata.tables)

    @property
    def cascades(self) -> Cascades:
        """What the foreign keys of the metadata, as it is now, do."""
        if self._count != len(self._metadata.tables):
            self._count = len(self._metadata.tables)
            self._cascades = Cascades(self._metadata)
        return self._cascades

    def see(
        self,
        connection: Connection,
        pending: Pending,
        constraints: Sequence[sa.ForeignKeyConstraint],
        keys: Sequence[Key],
        *,
        delete: bool,
    ) -> None:
        """Reads, and locks, the rows that the statement changes through ``constraints``, beside ``keys``."""
        for constraint in constraints:
            action = (constraint.ondelete if delete else constraint.onupdate) or ""
            child = self._captured(connection, constraint.table, pending.options[TRANSLATE])
            if child is not None and action.upper() == "SET DEFAULT" and into_key(constraint):
                self._announcer.unseen(child.full_name, "SET DEFAULT into its primary key", str(pending.statement))
        followers = self.of(connection, pending, constraints, keys, delete=delete)
        pending.reached = [*pending.reached, *followers]

    def of(
        self,
        connection: Connection,
        pending: Pending,
        constraints: Sequence[sa.ForeignKeyConstraint],
        keys: Sequence[Key],
        *,
        delete: bool,
    ) -> Iterator[tuple[CapturedTable, Sequence[Key]]]:
        """The rows that refer to ``keys`` through ``constraints``, and those that follow from them."""
        reached = self.cascades.reach(connection, constraints, keys, pending.options, delete=delete)
        for table, found in reached:
            captured = self._captured(connection, table, pending.options[TRANSLATE])
            if captured is not None:
                yield captured, found
