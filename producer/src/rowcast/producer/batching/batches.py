"""Process the rows of a SELECT batch by batch: ``batches`` and ``async_batches``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rowcast.producer.batching.keyset import Key, Keyset
from rowcast.producer.batching.positions import NamedPosition
from rowcast.producer.outbox.schema import outbox_tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_log = logging.getLogger("rowcast.batches")

_LOG_EVERY_S = 10.0
_PAUSE_S = 0.5

_OUTBOX = outbox_tables(sa.MetaData()).outbox


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far the batches have come. ``rows``: committed rows, including earlier runs of the name.

    ``paused``: the next batch waits because the outbox or a replica is behind.
    """

    batches: int = 0
    rows: int = 0
    paused: bool = False


PauseWhenBehind = int | Callable[[], bool]
OnProgress = Callable[[BatchProgress], None]


def batches(
    session: Session,
    select: sa.Select[*tuple[Any, ...]],
    size: int,
    *,
    name: str | None = None,
    pause_when_behind: PauseWhenBehind | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[Sequence[Any]]:
    """Yield the rows of a SELECT, ``size`` at a time, and commit the session after each batch.

        for orders in batches(session, select(Order).where(Order.total.is_(None)), 1_000, name="totals"):
            for order in orders:
                order.total = order.price * order.count

    The batches follow the primary key of the first entity or table of ``select``, so the SELECT may have conditions and
    joins, but neither ORDER BY nor LIMIT. Rows are entities or values if the SELECT has a single one. An exception in
    the loop commits nothing of its batch.

    ``name``: keep the position in ``rowcast_batch``, in the transaction of each batch, so that a run under the same
    name goes on after the last committed batch. The position is forgotten when the last row is done.
    ``pause_when_behind``: before each batch, wait while the outbox has more than this many rows, or while the function
    returns True. ``on_progress``: is called after each batch, and when a pause begins.

    Raise ConfigurationError for a SELECT that cannot be cut into batches. Raise RetriableError if another process runs
    batches of the same name.
    """
    run = _Run(select, size, name, pause_when_behind, on_progress)
    while True:
        while run.is_behind(session):
            time.sleep(_PAUSE_S)
        rows = run.read(session)
        if rows:
            yield rows
        if run.commit(session, rows):
            return


async def async_batches(
    session: AsyncSession,
    select: sa.Select[*tuple[Any, ...]],
    size: int,
    *,
    name: str | None = None,
    pause_when_behind: PauseWhenBehind | None = None,
    on_progress: OnProgress | None = None,
) -> AsyncIterator[Sequence[Any]]:
    """Yield the rows of a SELECT as ``batches`` does, for an AsyncSession."""
    run = _Run(select, size, name, pause_when_behind, on_progress)
    while True:
        while await session.run_sync(run.is_behind):  # noqa: ASYNC110  # the outbox sends no event
            await asyncio.sleep(_PAUSE_S)
        rows = await session.run_sync(run.read)
        if rows:
            yield rows
        if await session.run_sync(run.commit, rows):
            return


class _Run:
    """The steps of a run, each with a synchronous session."""

    def __init__(
        self,
        select: sa.Select[*tuple[Any, ...]],
        size: int,
        name: str | None,
        pause_when_behind: PauseWhenBehind | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._keyset = Keyset(select, size)
        self._bind: dict[str, Any] = {} if self._keyset.entity is None else {"mapper": self._keyset.entity}
        self._name = name
        self._position = None if name is None else NamedPosition(name, self._bind)
        self._limit = pause_when_behind
        self._on_progress = on_progress or (lambda _progress: None)
        self._after: Key | None = None
        self._last: Key | None = None
        self._progress = BatchProgress()
        self._begun = False
        self._logged = time.monotonic()

    def is_behind(self, session: Session) -> bool:
        """Return whether the next batch has to wait."""
        if self._limit is None:
            return False
        behind = self._limit() if callable(self._limit) else self._outbox_rows(session, self._limit) > self._limit
        if behind != self._progress.paused:
            self._move(BatchProgress(self._progress.batches, self._progress.rows, behind))
        return behind

    def _outbox_rows(self, session: Session, most: int) -> int:
        """Count the rows of the outbox up to one more than ``most``, because a count of all takes long."""
        counted = sa.select(_OUTBOX.c.id).limit(most + 1).subquery()
        statement = sa.select(sa.func.count()).select_from(counted)
        rows = int(session.execute(statement, bind_arguments=self._bind).scalar_one())
        # No transaction stays open during a pause, and what the session held before the first batch is not lost.
        session.commit()
        return rows

    def read(self, session: Session) -> Sequence[Any]:
        """Return the rows of the next batch."""
        if not self._begun and self._position is not None:
            self._after = self._position.read(session)
            self._progress = BatchProgress(0, self._position.rows, self._progress.paused)
        self._begun = True
        rows, self._last = self._keyset.read(session, self._after)
        return rows

    def commit(self, session: Session, rows: Sequence[Any]) -> bool:
        """Commit the batch and its position. Return whether the batch was the last."""
        is_last = self._keyset.is_last(rows)
        if self._position is not None:
            if self._last is not None:
                self._position.write(session, self._last, len(rows))
            if is_last:
                self._position.forget(session)
        session.commit()
        self._after = self._last
        if rows:
            self._move(BatchProgress(self._progress.batches + 1, self._progress.rows + len(rows)))
        return is_last

    def _move(self, progress: BatchProgress) -> None:
        self._progress = progress
        self._on_progress(progress)
        if time.monotonic() - self._logged > _LOG_EVERY_S:
            self._logged = time.monotonic()
            _log.info(
                "batches%s: %d rows in %d batches%s",
                "" if self._name is None else f" {self._name!r}",
                progress.rows,
                progress.batches,
                ", waiting because the outbox or a replica is behind" if progress.paused else "",
            )
