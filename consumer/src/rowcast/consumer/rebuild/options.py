"""Define the options and the result of a rebuild."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rowcast.consumer.rebuild.moment import Moment


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """How to rebuild.

    ``keep_old``: keep the replaced tables. ``restart``: begin again instead of going on. ``is_verified``: compare the
    fresh tables with the primary before the swap. ``skip``: the messages and transactions to leave out.
    ``with_snapshot``: first publish all rows again, and leave out all earlier events. ``tables``: patterns of the
    tables to rebuild, and empty for all tables. ``is_ahead``: swap chosen tables although the other tables cannot go on
    without them. The replica is loading afterwards, until all tables are at one lsn. ``until``: the last transaction of
    a copy elsewhere, as ``find_moment`` takes it, or None for everything in the topics. ``processes``: the number of
    processes that first fill the tables, or None for one for each processor where this saves time.
    """

    keep_old: bool = False
    restart: bool = False
    is_verified: bool = True
    skip: Sequence[str] = ()
    with_snapshot: bool = False
    tables: Sequence[str] = ()
    is_ahead: bool = False
    until: str | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """The tables of the rebuilt replica, the read records, and the compared rows, if any.

    ``moment``: the last transaction of a copy that ends before the topics do.
    """

    tables: tuple[str, ...]
    records: int
    verified_rows: int | None
    moment: Moment | None = None
