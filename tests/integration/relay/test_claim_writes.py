"""PostgreSQL's fast path, which writes claims in a single statement, does the work of the step-by-step full path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.databases import NewDatabase
from rowcast.producer.relay.claims.claim_table import Claims
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from support.relay.epochs import new_lease_row
from support.relay.primary import ORDERS, Primary, line, primary_at

OUTBOX_ROWS = 12
PARTIAL = PartialTransaction("t", 3, 9, {"public.orders": 2})

steps = st.one_of(
    st.tuples(st.just("record"), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("commit"), st.integers(0, 30), st.just(False)),
    st.tuples(st.just("settle"), st.just(0), st.just(False)),
    st.tuples(st.just("start above"), st.integers(40, 50), st.just(False)),
)


@pytest.fixture
def primary(new_database: NewDatabase) -> Iterator[Primary]:
    with primary_at(new_database("postgresql")) as primary:
        yield primary


def play(primary: Primary, plan: list[tuple[str, int, bool]], *, fast: bool) -> dict[str, Any]:
    """Write by the plan into empty tables. Return the contents of the tables and of the memory."""
    tables = primary.tables
    with primary.engine.begin() as connection:
        for table in (tables.outbox, tables.claim, tables.lease):
            connection.execute(sa.delete(table))
        sound = {"ts_ms": 1, "complete": True}
        ids = range(1, OUTBOX_ROWS + 1)
        rows = [{"id": id_, "tx": f"t{id_}", "changes": line(ORDERS, "c", id_), **sound} for id_ in ids]
        connection.execute(sa.insert(tables.outbox), rows)
    with Connections(primary.engine) as connections:
        row = new_lease_row(connections, primary)
        epoch = row.take()
        assert epoch is not None
        claims = Claims(connections, tables, row, OutboxReader(connections, tables), row.read(epoch))
        assert claims._fast_write is not None
        if not fast:
            claims._fast_write = None
        free = list(range(1, OUTBOX_ROWS + 1))
        for what, number, partial in plan:
            if what == "record":
                taken, free = free[:number], free[number:]
                claims.record(taken, number + 2, PARTIAL if partial else None)
            elif what == "commit":
                claims.mark_committed(number)
            elif what == "settle":
                claims.settle()
            elif number >= claims.lease.next_lsn:
                claims.begin_timeline(claims.lease.timeline + 1, number + 1, claims.lease.published_lsn)
        in_memory = (claims.lease, list(claims.pending), set(claims.claimed), claims.partial)
    with primary.engine.connect() as connection:
        lease = tables.lease.c
        return {
            "memory": in_memory,
            "claims": connection.execute(sa.select(tables.claim).order_by(tables.claim.c.first_lsn)).all(),
            "outbox": primary.ids(),
            "lease": connection.execute(
                sa.select(lease.epoch, lease.next_lsn, lease.published_lsn, lease.carried)
            ).all(),
        }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(steps, max_size=8))
def test_fast_and_full_path_write_equal_claims(primary: Primary, plan: list[tuple[str, int, bool]]) -> None:
    assert play(primary, plan, fast=True) == play(primary, plan, fast=False)
