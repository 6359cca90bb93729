"""Put the fresh tables of a rebuild in the place of the replica's: the worker's own rows, and a swap without rollback.

A rebuild of all tables replaces all rows of the source. A rebuild of chosen tables has rows under another source, and
replaces only the shapes of these tables and the positions of their topics.

MariaDB and MySQL commit a RENAME at once. Therefore the rows follow in a separate transaction. Two tables without rows
show the progress of a swap. The *token* exists before the RENAME. The RENAME also renames the token, to the *mark*. A
worker that takes the replica over drops the token, and the waiting RENAME of a killed rebuild fails in the server. If
the mark exists, the tables are swapped, and the worker moves the rows before reading the positions.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects.naming import fresh_source, old_source, part_source
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.worker_tables import (
    ROWCAST_DEAD_LETTER,
    ROWCAST_POSITION,
    ROWCAST_REPLICA,
    ROWCAST_TABLE,
)
from rowcast.shared.kafka.topic_names import transaction_topic

_log = logging.getLogger("rowcast.worker")

# The last comparison was of the replaced tables.
_NOT_VERIFIED: dict[str, Any] = {"verified_ms": 0, "verified": None, "verified_rows": 0, "verified_differing": 0}


def swap_token(source: str) -> str:
    """Return the name of the table that exists before the RENAME of a swap."""
    return f"rowcast_swap_{_hash(source)}"


def swap_mark(source: str) -> str:
    """Return the name of the table that exists after the RENAME of a swap."""
    return f"rowcast_swapped_{_hash(source)}"


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def move_rows(connection: Connection, source: str) -> None:
    """Make the rows of the fresh tables the rows of the replica, in the caller's transaction.

    The shapes of the replaced tables are kept under a separate source, to find and drop the tables.
    """
    if read_row(connection, part_source(source)) is not None:
        _move_part(connection, source, part_source(source))
        return
    fresh_name, shapes, places = fresh_source(source), ROWCAST_TABLE.c, ROWCAST_POSITION.c
    connection.execute(
        sa.update(ROWCAST_TABLE).where(shapes.source == source, shapes.created).values(source=old_source(source))
    )
    connection.execute(sa.update(ROWCAST_TABLE).where(shapes.source == fresh_name).values(source=source))
    # The fresh tables have all rows, also the rows refused by the replaced tables.
    connection.execute(sa.delete(ROWCAST_DEAD_LETTER).where(ROWCAST_DEAD_LETTER.c.source == source))
    connection.execute(sa.delete(ROWCAST_POSITION).where(places.source == source))
    connection.execute(sa.update(ROWCAST_POSITION).where(places.source == fresh_name).values(source=source))
    _replace_row(connection, source, fresh_name)


def _move_part(connection: Connection, source: str, fresh_name: str) -> None:
    """Replace the shapes of some tables, and the positions of their topics. The replica stays at its lsn.

    The fresh tables are at this lsn, so the position in the transaction topic stays too.
    """
    shapes, places, row = ROWCAST_TABLE.c, ROWCAST_POSITION.c, ROWCAST_REPLICA.c
    names = connection.scalars(sa.select(shapes.table_name).where(shapes.source == fresh_name)).all()
    is_replaced = (shapes.source == source) & shapes.created & shapes.table_name.in_(names)
    connection.execute(sa.update(ROWCAST_TABLE).where(is_replaced).values(source=old_source(source)))
    connection.execute(sa.update(ROWCAST_TABLE).where(shapes.source == fresh_name).values(source=source))
    letters = ROWCAST_DEAD_LETTER.c
    is_settled = (letters.source == source) & letters.table_name.in_(names)
    connection.execute(sa.delete(ROWCAST_DEAD_LETTER).where(is_settled))
    is_shared = places.topic == transaction_topic(source)
    connection.execute(sa.delete(ROWCAST_POSITION).where(places.source == fresh_name, is_shared))
    topics = connection.scalars(sa.select(places.topic).where(places.source == fresh_name).distinct()).all()
    connection.execute(sa.delete(ROWCAST_POSITION).where(places.source == source, places.topic.in_(topics)))
    connection.execute(sa.update(ROWCAST_POSITION).where(places.source == fresh_name).values(source=source))
    values = {"epoch": row.epoch + 1, "stamp": secrets.randbelow(2**62), "reason": None, "since_ms": 0, **_NOT_VERIFIED}
    connection.execute(sa.update(ROWCAST_REPLICA).where(row.source == source).values(values))
    connection.execute(sa.delete(ROWCAST_REPLICA).where(row.source == fresh_name))


def _replace_row(connection: Connection, source: str, fresh_name: str) -> None:
    """Give the replica's row the values of the fresh row. The epoch fences every worker of the replaced tables."""
    fresh, live = read_row(connection, fresh_name), read_row(connection, source)
    assert fresh is not None
    values = {
        "owner": fresh.owner,
        "epoch": 1 if live is None else live.epoch + 1,
        "state": fresh.state,
        "lsn": fresh.lsn,
        "tx": fresh.tx,
        "ts_ms": fresh.ts_ms,
        "reason": None,
        "since_ms": 0,
        "timeline": fresh.timeline,
        "stamp": secrets.randbelow(2**62),
        "deletes_known_ms": fresh.deletes_known_ms,
        "first_lsn": fresh.first_lsn,
        **_NOT_VERIFIED,
    }
    is_row = ROWCAST_REPLICA.c.source == source
    if live is None:
        connection.execute(sa.insert(ROWCAST_REPLICA).values(source=source, **values))
    else:
        connection.execute(sa.update(ROWCAST_REPLICA).where(is_row).values(values))
    connection.execute(sa.delete(ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == fresh_name))


def settle_swap(connection: Connection, source: str) -> bool:
    """Finish an interrupted swap on MariaDB or MySQL, or prevent the swap for good.

    Return whether the swap had happened.
    """
    with connection.begin():
        found = _existing(connection, source)
    if swap_token(source) in found:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {swap_token(source)}")
        connection.commit()
        with connection.begin():
            # A RENAME under way has ended by now, successful or not.
            found = _existing(connection, source)
    if swap_mark(source) not in found:
        return False
    with connection.begin():
        row = ROWCAST_REPLICA.c.source == source
        connection.execute(sa.select(ROWCAST_REPLICA.c.epoch).where(row).with_for_update())
        # Another process may have moved the rows meanwhile. The mark is read last: while it exists, the fresh row
        # belongs to the swap, because the next rebuild begins without a mark.
        is_waiting = any(read_row(connection, of(source)) is not None for of in (fresh_source, part_source))
        if is_waiting and swap_mark(source) in _existing(connection, source):
            move_rows(connection, source)
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {swap_mark(source)}")
    connection.commit()
    _log.info("the rebuilt tables of source %s are in place", source)
    return True


def _existing(connection: Connection, source: str) -> set[str]:
    query = sa.text(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = database() AND table_name IN (:a, :b)"
    )
    return set(connection.scalars(query, {"a": swap_token(source), "b": swap_mark(source)}))
