"""Compare rows that seem to differ at one position of the source, while both sides are live.

Rows equal at a second look are done. For the rest, in this order:

1. Note the ends of the table's topic.
2. Read the rows on the primary.
3. Wait until the transactions in the outbox are published, and the replica has applied them.
4. Read the rows on the replica, and its positions, in one snapshot.
5. Read the topic from the noted ends up to these positions.

A row without an event in this part has not changed since step 1 up to the replica's position. So the replica must hold
the row of step 2. A row with events must be as in the last event. Both are comparisons at the replica's position,
however often the row changes.

Without Kafka, rows that differ for some seconds count as different, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.replica import positions
from rowcast.consumer.verification.catching_up import BehindError, CatchingUp
from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.verification.results import Difference, VerifyStoppedError
from rowcast.consumer.verification.row_forms import CanonicalKey, RowForms
from rowcast.consumer.verification.topic_events import TopicEvents, topic_events
from rowcast.consumer.views.conditions import Row
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import UnreachableError

_log = logging.getLogger("rowcast.verify")

_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_KEYS = 5_000
"""The greatest number of rows that are settled at once, because their images are in memory."""

Rows = dict[CanonicalKey, Mapping[str, Any]]


@dataclass
class Settled:
    """The rows that differ at one position, and the number of undecided rows."""

    differences: list[Difference] = field(default_factory=list)
    behind: int = 0


class Settlement:
    """Settle the rows of one table.

    ``reason``: set when the replica does not catch up. From then on nothing waits.
    """

    def __init__(
        self,
        primary: ComparedTable,
        replica: ComparedTable,
        forms: RowForms,
        view: ReplicaView,
        settings: Settings,
        catching_up: CatchingUp,
    ) -> None:
        self._primary = primary
        self._replica = replica
        self._forms = forms
        self._view = view
        self._settings = settings
        self._catching_up = catching_up
        self.reason: str | None = None

    def settle(self, suspects: Iterable[dict[str, Any]]) -> Settled:
        """Return the differences of the rows with these keys. Raise UnreachableError and ConfigurationError."""
        settled = Settled()
        # The sides may have written one key in two forms, and the primary's come last.
        keys = list({self._forms.key(key): key for key in suspects}.values())
        for start in range(0, len(keys), _KEYS):
            if remaining := self._differ_twice(keys[start : start + _KEYS]):
                self._settle_exactly(remaining, settled)
        return settled

    def _differ_twice(self, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the keys whose rows differ at a second look, too."""
        ours, theirs = self._read_primary(keys), self._read_replica(keys)
        return [key for key in keys if self._difference(key, ours, theirs) is not None]

    def _settle_exactly(self, keys: list[dict[str, Any]], settled: Settled) -> None:
        if self.reason is not None:
            settled.behind += len(keys)
            return
        with ExitStack() as stack:
            try:
                topic = stack.enter_context(topic_events(self._settings, self._primary.shape))
                since = topic.ends()
            except UnreachableError as error:
                self._settle_without_topics(keys, settled, error)
                return
            ours = self._read_primary(keys)
            try:
                self._catching_up.wait_for_relay()
                ends = topic.ends()
                self._catching_up.wait_for_worker(lambda applied: topic.are_applied(ends, applied))
            except BehindError as behind:
                self.reason = str(behind)
                settled.behind += len(keys)
                return
            theirs, applied = self._read_replica_with_positions(keys)
            ours = self._with_events(ours, keys, topic, since, applied)
        differences = (self._difference(key, ours, theirs) for key in keys)
        settled.differences += [difference for difference in differences if difference is not None]

    def _settle_without_topics(self, keys: list[dict[str, Any]], settled: Settled, error: UnreachableError) -> None:
        """Compare again and again for some seconds. Without Kafka nobody knows the replica's place among the events."""
        for pause_s in _PAUSES_S:
            if self._catching_up.stop.wait(pause_s):
                raise VerifyStoppedError
            keys = self._differ_twice(keys)
            if not keys:
                return
        if self._catching_up.has_outbox_rows():
            self.reason = f"the relay has not published all transactions of the outbox, and {error}"
            settled.behind += len(keys)
            return
        _log.warning(
            "%d rows of %s differ for %.0f s, and count as different, although they may be late. %s",
            len(keys),
            self._primary.shape.full_name,
            sum(_PAUSES_S),
            error,
        )
        ours, theirs = self._read_primary(keys), self._read_replica(keys)
        found = (self._difference(key, ours, theirs) for key in keys)
        settled.differences += [difference for difference in found if difference is not None]

    def _with_events(
        self,
        rows: Rows,
        keys: list[dict[str, Any]],
        topic: TopicEvents,
        since: Mapping[Partition, int],
        applied: Mapping[Partition, Position],
    ) -> Rows:
        """Return the primary's rows as they were at the replica's position."""
        wanted = {self._forms.key(key) for key in keys}
        last: dict[CanonicalKey, Change] = {}
        for change in topic.changes(since, applied):
            key = self._forms.key(orjson.loads(change.key))
            # A relay may have sent an event twice, and the second time has the same lsn.
            if key in wanted and (key not in last or change.lsn > last[key].lsn):
                last[key] = change
        for key, change in last.items():
            if (row := self._row_of(change)) is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        return rows

    def _row_of(self, change: Change) -> Row | None:
        """Return the row that the replica is to have after an event, or None."""
        row = None if change.after is None else orjson.loads(change.after)
        view = self._view.rows(change.layout)
        return row if row is None or view is None else view.row(row)

    def _read_primary(self, keys: list[dict[str, Any]]) -> Rows:
        with self._primary.database.connect() as connection:
            found = self._rows(self._primary.find(connection, keys))
        return {key: seen for key, row in found.items() if (seen := self._primary.seen(row)) is not None}

    def _read_replica(self, keys: list[dict[str, Any]]) -> Rows:
        with self._replica.database.connect() as connection:
            return self._rows(self._replica.find(connection, keys))

    def _read_replica_with_positions(self, keys: list[dict[str, Any]]) -> tuple[Rows, dict[Partition, Position]]:
        """Return the rows and the positions of one moment."""
        with self._replica.database.snapshot() as connection:
            rows = self._rows(self._replica.find(connection, keys))
            return rows, positions.read_positions(connection, self._catching_up.source)

    def _rows(self, images: Iterable[tuple[str, str]]) -> Rows:
        return {self._forms.key(orjson.loads(key)): orjson.loads(image) for key, image in images}

    def _difference(self, key: dict[str, Any], ours: Rows, theirs: Rows) -> Difference | None:
        identity = self._forms.key(key)
        one, other = ours.get(identity), theirs.get(identity)
        if one is None:
            return None if other is None else Difference("extra", key)
        if other is None:
            return Difference("missing", key)
        columns = self._forms.different_columns(one, other)
        return Difference("different", key, columns) if columns else None
