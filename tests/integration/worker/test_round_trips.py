"""A small transaction takes three round trips to PostgreSQL, and its errors are those of single statements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.databases import NewDatabase
from rowcast.consumer.replica.dialects import postgresql, postgresql_round_trips
from rowcast.consumer.replica.refusals import ConflictError
from rowcast.shared.database import pipelines
from rowcast.shared.errors import FencedError, RetriableError, RowcastError
from support.direct_replica import DirectReplica, direct_replica
from support.kafka_source import column, shape
from support.sent_statements import sent_statements

ITEM = shape("item", column("n", "int32"))


@pytest.fixture
def replica(new_database: NewDatabase) -> Iterator[DirectReplica]:
    with direct_replica(new_database("postgresql"), ITEM) as replica:
        yield replica


def test_a_transaction_of_one_event_takes_three_round_trips(
    replica: DirectReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first transaction also reads what the replica knows of bad rows.
    replica.apply(("c", "item", {"id": 1, "n": 1}))
    exchanges: list[int] = []
    original = pipelines.send_at_once

    def send_at_once(*arguments: object) -> object:
        results = original(*arguments)  # type: ignore[arg-type]
        exchanges.append(len(results))
        return results

    monkeypatch.setattr(postgresql_round_trips, "send_at_once", send_at_once)
    with sent_statements(replica.replica._engine) as single:
        replica.apply(("u", "item", {"id": 1, "n": 2}))
    assert exchanges == [3, 2]
    assert [sql.partition(" ")[0] for sql in single] == ["INSERT"]
    assert replica.rows("item", "id", "n") == [(1, 2)]


def positions(replica: DirectReplica) -> list[tuple[object, ...]]:
    return replica.rows("rowcast_position", "topic", "next_offset")


def cut(replica: DirectReplica) -> None:
    """End the worker's session, as a server does that restarts."""
    replica.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def refuse_at_commit(replica: DirectReplica) -> None:
    """Let the server refuse COMMIT, as it does for a deferred constraint."""
    replica.database.execute(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'late' USING ERRCODE = '23514'; END $$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    )


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_a_fault_of_any_statement_changes_nothing(
    replica: DirectReplica, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not together:
        monkeypatch.setattr(postgresql, "begin_with", lambda *_, **__: None)
        monkeypatch.setattr(postgresql, "commit_with", lambda *_, **__: False)
    database = replica.database
    replica.apply(("c", "item", {"id": 1, "n": 1}))
    before = positions(replica)

    def refused(number: int) -> type[BaseException]:
        with pytest.raises(RowcastError) as failed:
            replica.apply(("c", "item", {"id": number, "n": 1}))
        assert replica.rows("item", "id") == [(1,)]
        assert positions(replica) == before
        return failed.type

    cut(replica)
    assert refused(2) is RetriableError
    database.execute("ALTER TABLE rowcast_position ADD CONSTRAINT no CHECK (next_offset < 0) NOT VALID")
    assert refused(3) is ConflictError
    database.execute("ALTER TABLE rowcast_position DROP CONSTRAINT no")
    refuse_at_commit(replica)
    assert refused(4) is ConflictError
    database.execute("DROP TRIGGER late ON item")
    replica.apply(("c", "item", {"id": 9, "n": 1}))
    assert replica.rows("item", "id") == [(1,), (9,)]

    database.execute("UPDATE rowcast_replica SET epoch = epoch + 1")
    with pytest.raises(FencedError):
        replica.apply(("c", "item", {"id": 10, "n": 1}))
    assert replica.rows("item", "id") == [(1,), (9,)]
