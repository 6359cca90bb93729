"""The protocol of a sink, and the data for a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

from rowcast.shared.tables.shape import TableShape

SinkState = Literal["loading", "consistent"]

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class RowChange:
    """The state of one row after its change.

    ``table``: ``schema.table``. ``key``: the columns of the primary key. ``row``: all columns, or None if the row was
    deleted. ``truncates``: all rows of the table were deleted, and ``key`` is empty. Values are Python values: int,
    float, Decimal, str, bytes, bool, date, time, datetime, UUID, parsed JSON, lists.
    """

    table: str
    key: dict[str, Any]
    row: dict[str, Any] | None
    truncates: bool = False

    def as_model(self, model: type[Model]) -> Model | None:
        """Return the row as an object of a data class, from the columns of its fields.

        Return None for a deleted row.
        """
        if self.row is None:
            return None
        return model(**{field.name: self.row[field.name] for field in fields(model)})  # type: ignore[arg-type]


class Changes:
    """The changes of a transaction, in order. Each iteration reads the changes again."""

    def __init__(self, count: int, read: Callable[[], Iterator[RowChange]]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RowChange]:
        return self._read()


@dataclass(frozen=True, slots=True)
class SinkTransaction:
    """A transaction of the source, whole and in the order of commits.

    ``id``: the source's id of the transaction. None while the sink loads: the changes are then the newest states of
    rows, in the order of each key, and no transaction. ``lsn``: grows with every transaction. ``ts_ms``: the time of
    the commit, in milliseconds since 1970. A transaction may be larger than memory, so iterate over ``changes``.
    """

    id: str | None
    lsn: int
    ts_ms: int
    changes: Changes


@dataclass(frozen=True, slots=True)
class SinkBatch:
    """Transactions to apply in order, and the checkpoint after them. ``transactions`` may be empty.

    ``state``: ``loading`` until the sink has every row, ``consistent`` from then on.
    """

    transactions: Sequence[SinkTransaction]
    state: SinkState
    checkpoint: bytes

    def changes(self) -> Iterator[RowChange]:
        """Return the changes of all transactions, in order."""
        for transaction in self.transactions:
            yield from transaction.changes


class Sink(Protocol):
    """A target for whole transactions.

    A sink that writes checkpoint and changes together, all or nothing, has each change exactly once in effect. A sink
    that writes the checkpoint afterwards gets the last batch again after a crash. Every change has the newest state of
    a row, so a second write does no harm.
    """

    def checkpoint(self) -> bytes | None:
        """Return the checkpoint of the last applied batch, or None before the first."""

    def prepare(self, shapes: Iterable[TableShape]) -> None:
        """Hear of the tables: before the first change, and whenever a table is new or has changed."""

    def apply(self, batch: SinkBatch) -> None:
        """Apply a batch. Raise RetriableError for a passing fault, and any other error to end."""
