"""Many new rows reach PostgreSQL by COPY, and the replica holds what it would hold without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.replica.dialects.postgresql_copy import COPIED_ROWS, RowCopy
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import PortableType
from support.direct_replica import DirectReplica, direct_replica
from support.kafka_source import column, shape

ITEM = shape(
    "item", column("text", "text"), column("price", PortableType("decimal", precision=8, scale=2)), column("n"),
    unique=[("n",)],
)  # fmt: skip
TEXTS = (
    "plain", "", None, "null", '"', 'say "yes"', "a,b", "],[", "\\", "\\.", "\\N", "line\nline", "tab\t", "\r", "\x01",
    "Grüße", "𝄞", "'", "%s", "{}", " spaces ", "\u2028",
)  # fmt: skip


@pytest.fixture
def replica(new_database: NewDatabase) -> Iterator[DirectReplica]:
    with direct_replica(new_database("postgresql"), ITEM) as replica:
        yield replica


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Return a list that gets the number of rows of each COPY, and whether all rows were new."""
    found: list[tuple[int, bool]] = []
    copy = RowCopy._copy

    def note(self: RowCopy, connection: sa.Connection, text: bytes, rows: int) -> bool:
        found.append((rows, copy(self, connection, text, rows)))
        return found[-1][1]

    monkeypatch.setattr(RowCopy, "_copy", note)
    return found


def item(id: int, text: str | None = "x", price: str | None = "1.50", n: int | None = None) -> dict[str, Any]:
    return {"id": id, "text": text, "price": price, "n": id if n is None else n}


def create(replica: DirectReplica, *rows: dict[str, Any], op: str = "c") -> None:
    replica.apply(*((op, "item", row) for row in rows))


def held(replica: DirectReplica) -> list[tuple[int, str | None, str | None, int]]:
    rows = replica.rows("item", "id", "text", "price", "n")
    return [(id, text, None if price is None else f"{price:.2f}", n) for id, text, price, n in sorted(rows)]


def values(*rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in rows)


def test_every_text_arrives(replica: DirectReplica, copied: list[tuple[int, bool]]) -> None:
    rows = [item(n, TEXTS[n % len(TEXTS)], None if n % 7 == 0 else f"-{n}.05") for n in range(20 * COPIED_ROWS)]
    create(replica, *rows)
    assert [is_copied for _, is_copied in copied] == [True]
    # Rows with a backslash in their JSON go another way.
    assert len(rows) / 2 < copied[0][0] < len(rows)
    assert held(replica) == values(*rows)


def test_few_rows_are_not_copied(replica: DirectReplica, copied: list[tuple[int, bool]]) -> None:
    create(replica, *map(item, range(COPIED_ROWS - 1)))
    assert len(held(replica)) == COPIED_ROWS - 1
    assert not copied


def test_rows_that_exist_are_written_by_their_key(replica: DirectReplica, copied: list[tuple[int, bool]]) -> None:
    create(replica, item(COPIED_ROWS, "old"))
    # A snapshot of an existing table, or a repetition.
    rows = [item(n, "new") for n in range(2 * COPIED_ROWS)]
    create(replica, *rows, op="r")
    assert held(replica) == values(*rows)
    create(replica, *rows, op="r")
    later = [item(n) for n in range(2 * COPIED_ROWS, 4 * COPIED_ROWS)]
    create(replica, *later)
    # One attempt is left out after the first that failed.
    assert copied == [(len(rows), False), (len(later), True)]
    assert held(replica) == values(*rows, *later)


def test_a_unique_value_moves_to_a_new_row(replica: DirectReplica, copied: list[tuple[int, bool]]) -> None:
    create(replica, item(-1, n=5_000))
    rows = [item(-1, n=-1), *(item(n) for n in range(COPIED_ROWS)), item(5_000)]
    replica.apply(*(("u" if row["id"] == -1 else "c", "item", row) for row in rows))
    assert copied[0] == (COPIED_ROWS + 1, False)
    assert held(replica) == values(*rows)


@pytest.mark.parametrize("price", ["1.505", "1e-3", "x", "1.5\u0000"])
def test_a_refused_value_is_named_and_nothing_of_its_transaction_stays(replica: DirectReplica, price: str) -> None:
    rows = [item(n) for n in range(2 * COPIED_ROWS)]
    rows[COPIED_ROWS]["price"] = price
    with pytest.raises(DataError, match=r"^table public\.item \(topic .*the replica refuses a value"):
        create(replica, *rows)
    assert not held(replica)


def test_a_trigger_that_drops_rows_is_noticed(replica: DirectReplica, copied: list[tuple[int, bool]]) -> None:
    replica.database.execute(
        "CREATE FUNCTION drop_some() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.id = 7 THEN RETURN NULL; END IF; RETURN NEW; END'",
        "CREATE TRIGGER drop_some BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION drop_some()",
    )
    with pytest.raises(DataError, match="has written 399 of 400 rows"):
        create(replica, *(item(n) for n in range(400)))
    assert not held(replica)
