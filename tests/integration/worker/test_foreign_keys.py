"""A consistent replica takes no row without its parent, whatever the order in which a transaction must be written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.databases import ENGINES, NewDatabase
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import ForeignKeyShape, PortableType, TableShape
from support.direct_replica import DirectReplica, direct_replica
from support.kafka_source import Line, column, shape

pytestmark = pytest.mark.shared_dialect

CODE = PortableType("string", length=20)
CUSTOMER = shape("customer", column("email", CODE), unique=[("email",)])
ORDERS = shape("orders", column("customer_id"), refers=[("customer_id", "customer")])
HEN = shape("hen", column("egg_id"), refers=[("egg_id", "egg")])
EGG = shape("egg", column("hen_id"), refers=[("hen_id", "hen")])
NODE = shape("node", column("parent_id"), column("rank"), unique=[("rank",)], refers=[("parent_id", "node")])


def refers_to_email() -> TableShape:
    note = shape("note", column("email", CODE))
    key = ForeignKeyShape(("email",), "public", "customer", ("email",))
    return TableShape(note.schema, note.name, note.engine, note.columns, note.primary_key, foreign_keys=(key,))


NOTE = refers_to_email()
SEAT = shape("seat", column("row", CODE, nullable=False), column("nr", nullable=False), key=("row", "nr"))
TICKET = TableShape(
    "public", "ticket", "elsewhere",
    (column("id", nullable=False), column("row", CODE), column("nr")), ("id",),
    foreign_keys=(ForeignKeyShape(("row", "nr"), "public", "seat", ("row", "nr")),),
)  # fmt: skip

START: list[Line] = [
    ("c", "customer", {"id": 1, "email": "a"}), ("c", "customer", {"id": 2, "email": "b"}),
    ("c", "orders", {"id": 1, "customer_id": 1}),
    ("c", "note", {"id": 1, "email": "a"}),
    ("c", "hen", {"id": 1, "egg_id": 1}), ("c", "egg", {"id": 1, "hen_id": 1}),
    ("c", "node", {"id": 1, "parent_id": None, "rank": 1}), ("c", "node", {"id": 2, "parent_id": 1, "rank": 2}),
    ("c", "seat", {"row": "r", "nr": 1}), ("c", "ticket", {"id": 1, "row": "r", "nr": 1}),
]  # fmt: skip

SWAP: list[Line] = [("u", "customer", {"id": 1, "email": "b"}), ("u", "customer", {"id": 2, "email": "a"})]

# Every transaction has an orphan at its end, and most of them can be written in no order without suspending the checks.
BROKEN: dict[str, list[Line]] = {
    "a new child": [("c", "orders", {"id": 2, "customer_id": 99})],
    "a parent deleted": [("d", "customer", {"id": 1})],
    "a child beside a swap": [*SWAP, ("c", "orders", {"id": 2, "customer_id": 99})],
    "a parent deleted beside a swap": [
        ("u", "customer", {"id": 2, "email": "c"}), ("c", "customer", {"id": 3, "email": "b"}),
        ("d", "customer", {"id": 1}),
    ],
    "a referred unique value changed": [
        ("u", "customer", {"id": 1, "email": "b"}), ("u", "customer", {"id": 2, "email": "c"}),
    ],
    "beside a cycle": [
        ("c", "hen", {"id": 2, "egg_id": 2}), ("c", "egg", {"id": 2, "hen_id": 2}),
        ("c", "orders", {"id": 2, "customer_id": 99}),
    ],
    "half of a cycle deleted": [("c", "hen", {"id": 2, "egg_id": 2}), ("d", "egg", {"id": 1})],
    "a node without its parent": [
        ("u", "node", {"id": 1, "parent_id": None, "rank": 2}), ("u", "node", {"id": 2, "parent_id": 7, "rank": 1}),
    ],
    "two columns": [
        ("c", "hen", {"id": 2, "egg_id": 2}), ("c", "egg", {"id": 2, "hen_id": 2}),
        ("u", "ticket", {"id": 1, "row": "r", "nr": 2}),
    ],
    "a parent of two columns deleted": [
        ("c", "hen", {"id": 2, "egg_id": 2}), ("c", "egg", {"id": 2, "hen_id": 2}),
        ("d", "seat", {"row": "r", "nr": 1}),
    ],
}  # fmt: skip

SHAPES = (CUSTOMER, ORDERS, NOTE, HEN, EGG, NODE, SEAT, TICKET)


def stored(replica: DirectReplica) -> dict[str, list[tuple[object, ...]]]:
    return {shape.name: replica.rows(shape.name) for shape in SHAPES}


@pytest.fixture(scope="module", params=ENGINES)
def replica(request: pytest.FixtureRequest, new_lasting_database: NewDatabase) -> Iterator[DirectReplica]:
    """Share a replica, because a refused transaction changes nothing."""
    with direct_replica(new_lasting_database(request.param), *SHAPES) as replica:
        replica.apply(*START)
        yield replica


@pytest.mark.parametrize("broken", BROKEN)
def test_a_transaction_that_leaves_an_orphan_is_refused(replica: DirectReplica, broken: str) -> None:
    before = stored(replica)
    with pytest.raises(DataError, match=r"transaction \d+ \(lsn \d+\): .*constraint of the replica refuses the change"):
        replica.apply(*BROKEN[broken])
    assert stored(replica) == before


@pytest.mark.parametrize("replica_url", ["mariadb", "mysql"], indirect=True)
def test_a_foreign_key_of_the_users_is_checked_too(replica_url: str) -> None:
    """Only the replica has this foreign key, so the worker's own tables say nothing about it."""
    with direct_replica(replica_url, CUSTOMER, NODE) as replica:
        replica.database.execute(
            "CREATE TABLE visit (id INT PRIMARY KEY, customer BIGINT, FOREIGN KEY (customer) REFERENCES customer (id))"
        )
        replica.apply(*START[:2], ("c", "node", {"id": 1, "parent_id": None, "rank": 1}))
        replica.database.execute("INSERT INTO visit VALUES (1, 1)")
        with pytest.raises(
            DataError, match=r"foreign key visit_ibfk_1: a row of visit would refer to a row of customer"
        ):
            replica.apply(*BROKEN["a parent deleted beside a swap"])
        assert replica.rows("customer") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("replica_url", ["mariadb", "mysql"], indirect=True)
def test_what_needs_suspended_checks_is_still_applied(replica_url: str) -> None:
    with direct_replica(replica_url, *SHAPES) as replica:
        replica.apply(*START)
        replica.apply(
            *SWAP, ("c", "hen", {"id": 2, "egg_id": 2}), ("c", "egg", {"id": 2, "hen_id": 2}),
            ("u", "note", {"id": 1, "email": "b"}),
        )  # fmt: skip
        assert replica.rows("customer") == [(1, "b"), (2, "a")]
        assert replica.rows("hen") == replica.rows("egg") == [(1, 1), (2, 2)]
        # The server checks foreign keys again afterwards.
        with pytest.raises(DataError, match="would refer to a row of customer that does not exist"):
            replica.apply(("c", "orders", {"id": 9, "customer_id": 99}))
