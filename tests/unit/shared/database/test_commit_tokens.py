"""A token includes every commit before it, wherever its changes are by then."""

from __future__ import annotations

import time
from collections.abc import Iterator

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from rowcast.producer.outbox.schema import OutboxTables, outbox_tables
from rowcast.shared.database.commit_tokens import CommitToken, lsn_of_token, take_token
from rowcast.shared.errors import ConfigurationError


class Primary:
    def __init__(self) -> None:
        metadata = sa.MetaData()
        self.tables: OutboxTables = outbox_tables(metadata)
        self.engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        metadata.create_all(self.engine)

    def write(self, *statements: sa.Executable) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    def commit(self, *ids: int) -> None:
        for id_ in ids:
            self.write(sa.insert(self.tables.outbox).values(id=id_, tx=f"t{id_}", ts_ms=1, changes="x"))

    def lease(self, next_lsn: int, published_lsn: int) -> None:
        values = {"epoch": 1, "expires_ms": 0, "next_lsn": next_lsn, "published_lsn": published_lsn}
        self.write(sa.delete(self.tables.lease), sa.insert(self.tables.lease).values(source="shop", **values))

    def claim(self, last_lsn: int, *ids: int) -> None:
        values = {"last_lsn": last_lsn, "outbox_ids": orjson.dumps(ids).decode()}
        self.write(sa.insert(self.tables.claim).values(first_lsn=last_lsn, **values))

    def publish(self, *ids: int) -> None:
        self.write(sa.delete(self.tables.outbox).where(self.tables.outbox.c.id.in_(ids)))

    def park(self, id_: int, at_ms: int) -> None:
        values = {"tx": "t", "ts_ms": 1, "changes": "x", "reason": "too large", "parked_ms": at_ms}
        self.publish(id_)
        self.write(sa.insert(self.tables.parked).values(id=id_, **values))

    def token(self) -> CommitToken:
        with self.engine.connect() as connection:
            return take_token(connection, "shop")

    def lsn(self, token: CommitToken) -> int | None:
        with self.engine.connect() as connection:
            return lsn_of_token(connection, "shop", token)


@pytest.fixture
def primary() -> Iterator[Primary]:
    primary = Primary()
    yield primary
    primary.engine.dispose()


def test_a_token_is_a_short_text() -> None:
    token = CommitToken(12, 7, 1_790_000_000_000)
    assert CommitToken.parse(str(token)) == token
    for text in ("", "1.2", "1.2.3.4", "-1.2.3", "1.2.x", "1.2.3\n", "9" * 99 + ".1.1", "１.2.3"):
        with pytest.raises(ValueError, match="no token"):
            CommitToken.parse(text)


def test_a_token_has_its_lsn_when_all_its_rows_are_claimed(primary: Primary) -> None:
    assert primary.lsn(primary.token()) == 0  # No relay has ever run, and nothing was committed.
    primary.commit(1, 2)
    token = primary.token()
    assert primary.lsn(token) is None
    primary.lease(next_lsn=21, published_lsn=0)
    primary.claim(10, 2)
    assert primary.lsn(token) is None
    primary.commit(3)  # Later rows do not count.
    primary.claim(20, 1)
    assert primary.lsn(token) == 20
    primary.publish(1, 2)
    primary.lease(next_lsn=31, published_lsn=20)
    assert primary.lsn(token) == 20
    later = primary.token()
    assert (later.claimed_lsn, later.last_id) == (30, 3)


def test_a_published_transaction_is_included_by_the_lsns_given_so_far(primary: Primary) -> None:
    primary.lease(next_lsn=41, published_lsn=30)
    token = primary.token()
    assert (token.claimed_lsn, token.last_id) == (40, 0)
    assert primary.lsn(token) == 40


def test_a_parked_transaction_never_has_an_lsn(primary: Primary) -> None:
    now = time.time_ns() // 1_000_000
    primary.lease(next_lsn=41, published_lsn=40)
    primary.commit(5)
    before = primary.token()
    primary.park(5, now)
    assert primary.lsn(before) is None
    # The transaction may have been parked between its commit and its token.
    assert primary.lsn(primary.token()) is None
    # A transaction that was parked long ago is no transaction of this token.
    primary.write(sa.update(primary.tables.parked).values(parked_ms=now - 3_600_000))
    assert primary.lsn(primary.token()) == 40


def test_a_primary_without_the_outbox_tables_is_an_error_that_names_them() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(ConfigurationError, match="right to SELECT from rowcast_outbox"):
        take_token(connection, "shop")
    engine.dispose()
