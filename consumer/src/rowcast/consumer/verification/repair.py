"""``rowcast verify --repair``: send the primary's rows again for differing rows, and see that all arrive.

The rows go through the outbox and the topics. Therefore every replica gets the rows in the order of all changes, and a
row changed meanwhile is not set back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from rowcast.consumer.verification.catching_up import CatchingUp
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.verification.comparison import WAIT_S, ComparedPair, table_result
from rowcast.consumer.verification.results import TableResult, VerifyResult
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.cli.contributions import REPAIR, load_contributions
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import written_shapes
from rowcast.shared.tables.table_order import parents_first

_EQUAL_FORMS = frozenset(
    ("boolean", "int16", "int32", "int64", "uint64", "string", "text", "bytes", "date", "uuid", "enum")
)
"""The types whose values every engine writes in one form. A delete needs the key as the primary would write it."""

_log = logging.getLogger("rowcast.verify")

_SendRows = Callable[[Settings, Sequence[tuple[str, Sequence[bytes]]]], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The rows to send: deletes of extra rows, children first, then the primary's rows, parents first.

    ``refused``: the tables whose extra rows cannot be deleted, each with the reason.
    """

    deletes: tuple[tuple[str, tuple[bytes, ...]], ...]
    rows: tuple[tuple[str, tuple[bytes, ...]], ...]
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def delete_count(self) -> int:
        """Return the number of deletes."""
        return sum(len(keys) for _, keys in self.deletes)

    @property
    def row_count(self) -> int:
        """Return the number of rows."""
        return sum(len(keys) for _, keys in self.rows)


def repair_differences(
    settings: Settings, replica: str, result: VerifyResult, *, dry_run: bool, wait_s: float = WAIT_S
) -> VerifyResult:
    """Repair the differences of a comparison, and return the remaining differences. ``dry_run``: only log the plan.

    Raise as ``repair``.
    """
    plan = plan_repair(settings, replica, result)
    for table, reason in plan.refused:
        _log.warning("%s: extra rows stay, because %s. Rebuild the replica, or delete them there", table, reason)
    if dry_run or not (plan.row_count or plan.delete_count):
        _log.info("would send", extra={"rows": plan.row_count, "deletes": plan.delete_count})
        return result
    (rows, deletes), repaired = repair(settings, replica, result, plan, wait_s=wait_s)
    left = sum(table.differing + table.behind for table in repaired.tables)
    _log.info("sent", extra={"rows": rows, "deletes": deletes, "not_equal_yet": left})
    if any(table.stopped for table in repaired.tables):
        _log.warning("a comparison stopped before the table's end, because too many rows differ. Run the command again")
    return repaired


def plan_repair(settings: Settings, replica: str, result: VerifyResult) -> RepairPlan:
    """Return what would be sent for the differences of a comparison. Raise UnreachableError."""
    primary = ComparedDatabase(settings.require_primary(), "primary")
    other = ComparedDatabase(settings.replica(replica), f"replica {replica!r}")
    try:
        shapes = {shape.full_name: shape for shape in written_shapes(primary.engine)}
        are_alike = primary.is_like(other)
    finally:
        primary.close()
        other.close()
    tables = {table.table: table for table in result.tables if table.differing and table.table in shapes}
    order = parents_first(shapes[name] for name in tables)
    refused = []
    deletes = []
    for name in reversed(order):
        extra = _keys(tables[name], "extra")
        if extra and not are_alike and (types := _other_forms(shapes[name])):
            refused.append((name, f"its key has the type {types}, which the engines write in different forms"))
        elif extra:
            deletes.append((name, extra))
    rows = [(name, keys) for name in order if (keys := _keys(tables[name], "missing", "different"))]
    return RepairPlan(tuple(deletes), tuple(rows), tuple(refused))


def repair(
    settings: Settings, replica: str, result: VerifyResult, plan: RepairPlan, *, wait_s: float = WAIT_S
) -> tuple[tuple[int, int], VerifyResult]:
    """Send the rows of the plan, wait for the replica, and compare them again at one position.

    Return the numbers of sent rows and of sent deletes, and the result with what differs still. Raise UnreachableError,
    ConfigurationError, DataError and RetriableError.
    """
    sent = _send_rows()(settings, [*plan.deletes, *plan.rows])
    primary = ComparedDatabase(settings.require_primary(), "primary")
    other = ComparedDatabase(settings.replica(replica), f"replica {replica!r}")
    try:
        shapes = {shape.full_name: shape for shape in written_shapes(primary.engine)}
        catching_up = CatchingUp(primary, other, settings.source, wait_s)
        view = ReplicaView(settings.replica(replica), shapes.get)
        tables, reason = [], result.reason
        for table in result.tables:
            if table.differing and table.table in shapes:
                pair = ComparedPair.of(primary, other, shapes[table.table], settings, view)
                settlement = pair.settlement(settings, catching_up)
                settled = settlement.settle(difference.key for difference in table.differences)
                reason = reason or settlement.reason
                found = table_result(table.table, table.rows, settled.differences, settled.behind, table.stopped)
                tables.append(replace(found, behind=found.behind + table.behind, view=table.view))
            else:
                tables.append(table)
        return sent, VerifyResult(tuple(tables), reason)
    finally:
        primary.close()
        other.close()


def _send_rows() -> _SendRows:
    for _, send_rows in load_contributions(REPAIR):
        found: _SendRows = send_rows
        return found
    raise ConfigurationError("no installed package can send rows of the primary. Install rowcast again.")


def _keys(table: TableResult, *kinds: str) -> tuple[bytes, ...]:
    return tuple(orjson.dumps(difference.key) for difference in table.differences if difference.kind in kinds)


def _other_forms(shape: TableShape) -> str:
    """Return the types of the key that engines write in different forms, for a message."""
    types = (shape.column(name).type.name for name in shape.primary_key)
    return ", ".join(sorted({type_ for type_ in types if type_ not in _EQUAL_FORMS}))
