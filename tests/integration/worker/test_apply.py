"""Whole transactions reach every engine, unchanged, and in an order that its constraints allow."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.events.change import Change
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.reading import partial_transaction, reader_thread
from rowcast.consumer.replica import applier, held_back
from rowcast.consumer.replica.pieces import pieces
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape
from servers import Broker
from support.direct_replica import direct_replica
from support.kafka_source import Source, column, shape
from support.worker_runs import CUSTOMER, ORDERS, Database, RunningWorker, running_worker, settings_for, work_once

pytestmark = pytest.mark.shared_dialect


class Pipeline:
    """Hold a source's topics, and a replica that is consistent from the start."""

    def __init__(self, kafka: Broker, source_name: str, replica_url: str) -> None:
        bootstrap = kafka.bootstrap_servers
        self.source = Source(bootstrap, source_name)
        self.replica = Database(replica_url)
        self.settings = settings_for(source_name, bootstrap, replica_url)

    def begin(self, *shapes: TableShape) -> None:
        """Publish the shapes and make the empty replica consistent."""
        self.source.add(*shapes)
        self.apply()
        assert self.replica.state() == "consistent"

    def apply(self) -> WorkerProgress:
        return work_once(self.settings)

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        return self.replica.rows(table, *columns)


@pytest.fixture
def pipeline(kafka: Broker, source_name: str, replica_url: str) -> Pipeline:
    return Pipeline(kafka, source_name, replica_url)


SHORT = PortableType("string", length=20)
NODE = shape("node", column("parent_id"), refers=[("parent_id", "node")])
HEN = shape("hen", column("egg_id"), refers=[("egg_id", "egg")])
EGG = shape("egg", column("hen_id"), refers=[("hen_id", "hen")])
TAG = shape("tag", column("b", SHORT), column("a", SHORT), key=("a", "b"))
SEAT = shape("seat", column("row", SHORT), column("number"), column("who", "text"), key=("row", "number"))
ODD = shape("Order %s", column('the "best" `of` 50% :x', "text"), column("select"))


class LivePipeline(Pipeline):
    """Apply by a worker that is running. The transactions before an `apply` may reach the worker in several runs."""

    worker: RunningWorker

    def apply(self) -> WorkerProgress:
        return self.worker.until(lambda progress: progress.lsn == self.source.lsn)


@pytest.fixture(scope="module", params=ENGINES)
def live_pipeline(
    request: pytest.FixtureRequest, kafka: Broker, new_lasting_database: NewDatabase
) -> Iterator[LivePipeline]:
    """Share a consistent replica of many tables and its worker, because they take more time than most tests."""
    pipeline = LivePipeline(kafka, f"apply-{uuid.uuid4().hex[:8]}", new_lasting_database(request.param))
    pipeline.source.add(CUSTOMER, ORDERS, NODE, HEN, EGG, TAG, SEAT, ODD)
    # Until something has been published, the worker says that it waits.
    pipeline.source.transaction()
    with running_worker(pipeline.settings) as pipeline.worker:
        # The worker's progress says "waiting" until something is published.
        pipeline.worker.until(lambda progress: progress.active and pipeline.replica.state() == "consistent")
        yield pipeline


@pytest.fixture
def shop(live_pipeline: LivePipeline) -> Iterator[LivePipeline]:
    """Return the shared replica, and empty the tables that several tests use.

    The test must publish only transactions that the replica accepts.
    """
    yield live_pipeline
    live_pipeline.replica.execute("DELETE FROM orders", "DELETE FROM customer")


def customer(id: int, email: str | None = None) -> dict[str, Any]:
    return {"id": id, "email": email}


def order(id: int, customer_id: int | None, note: str | None = None, amount: str | None = None) -> dict[str, Any]:
    return {"id": id, "customer_id": customer_id, "note": note, "amount": amount}


def test_a_child_that_comes_before_its_parent(shop: LivePipeline) -> None:
    shop.source.transaction(("c", "orders", order(10, 1)), ("c", "customer", customer(1)))
    shop.apply()
    assert shop.rows("orders", "id", "customer_id") == [(10, 1)]


def test_a_child_changes_parents_and_the_old_one_goes(shop: LivePipeline) -> None:
    shop.source.transaction(("c", "customer", customer(1)), ("c", "orders", order(10, 1)))
    shop.apply()
    shop.source.transaction(
        ("d", "customer", customer(1)), ("c", "customer", customer(2)), ("u", "orders", order(10, 2))
    )
    shop.apply()
    assert shop.rows("customer", "id") == [(2,)]
    assert shop.rows("orders", "id", "customer_id") == [(10, 2)]


def test_a_parent_and_its_children_go(shop: LivePipeline) -> None:
    shop.source.transaction(("c", "customer", customer(1)), ("c", "orders", order(10, 1)))
    shop.apply()
    shop.source.transaction(("d", "customer", customer(1)), ("d", "orders", order(10, 1)))
    shop.apply()
    assert shop.rows("customer") == shop.rows("orders") == []


def test_a_table_that_refers_to_itself(shop: LivePipeline) -> None:
    rows = [{"id": i, "parent_id": i + 1 if i < 9 else None} for i in range(10)]
    shop.source.transaction(*(("c", "node", row) for row in rows))
    shop.apply()
    assert len(shop.rows("node")) == 10
    # Reverse the chain in an order that is impossible row by row, and delete its middle.
    turned = [{"id": i, "parent_id": i - 1 if i not in (0, 6) else None} for i in range(10) if i != 5]
    shop.source.transaction(("d", "node", {"id": 5}), *(("u", "node", row) for row in turned))
    shop.apply()
    assert shop.rows("node", "id", "parent_id") == sorted(((r["id"], r["parent_id"]) for r in turned), key=repr)
    shop.source.transaction(*(("d", "node", row) for row in turned))
    shop.apply()
    assert shop.rows("node") == []


def test_tables_that_refer_to_each_other(shop: LivePipeline) -> None:
    shop.source.transaction(("c", "hen", {"id": 1, "egg_id": 1}), ("c", "egg", {"id": 1, "hen_id": 1}))
    shop.apply()
    assert shop.rows("hen") == shop.rows("egg") == [(1, 1)]
    shop.source.transaction(("d", "hen", {"id": 1}), ("d", "egg", {"id": 1}))
    shop.apply()
    assert shop.rows("hen") == shop.rows("egg") == []


def test_a_swapped_unique_value(pipeline: Pipeline) -> None:
    pipeline.begin(CUSTOMER, ORDERS)
    pipeline.source.transaction(
        ("c", "customer", customer(1, "a")), ("c", "customer", customer(2, "b")), ("c", "customer", customer(3, "c")),
        ("c", "orders", order(10, 1)), ("c", "orders", order(11, 2)),
    )  # fmt: skip
    pipeline.apply()
    pipeline.source.transaction(("u", "customer", customer(1, "b")), ("u", "customer", customer(2, "a")))
    pipeline.source.transaction(
        ("u", "customer", customer(1, "c")), ("u", "customer", customer(2, "b")), ("u", "customer", customer(3, "a"))
    )
    pipeline.apply()
    assert pipeline.rows("customer", "id", "email") == [(1, "c"), (2, "b"), (3, "a")]
    assert pipeline.rows("orders", "id", "customer_id") == [(10, 1), (11, 2)]


def test_transactions_too_large_for_memory(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parents and children, their deletes, swapped unique values, and a refused value, in pieces of two events."""
    monkeypatch.setattr(reader_thread, "_MAX_MESSAGES", 2)
    monkeypatch.setattr(partial_transaction, "SPILL_EVENTS", 2)
    monkeypatch.setattr(partial_transaction, "MIN_MEASURED", 1)
    monkeypatch.setattr(applier, "_PIECE_EVENTS", 2)
    sizes: list[int] = []

    def noting_pieces(changes: SpilledChanges, parents_first: Sequence[str], events: int) -> Iterator[list[Change]]:
        sizes.append(len(changes))
        return pieces(changes, parents_first, events)

    monkeypatch.setattr(applier, "pieces", noting_pieces)
    pipeline.source.partitions = 2
    pipeline.begin(CUSTOMER, ORDERS)
    keys = range(1, 6)
    pipeline.source.transaction(
        *(("c", "orders", order(key, key)) for key in keys),
        *(("c", "customer", customer(key, f"{key}")) for key in keys),
    )
    pipeline.apply()
    assert pipeline.rows("customer", "id", "email") == [(key, f"{key}") for key in keys]
    assert pipeline.rows("orders", "id", "customer_id") == [(key, key) for key in keys]
    pipeline.source.transaction(*(("u", "customer", customer(key, f"{6 - key}")) for key in keys))
    pipeline.apply()
    assert pipeline.rows("customer", "id", "email") == [(key, f"{6 - key}") for key in keys]
    pipeline.source.transaction(
        *(("d", "customer", {"id": key}) for key in keys), *(("d", "orders", {"id": key}) for key in keys)
    )
    pipeline.apply()
    assert pipeline.rows("customer") == pipeline.rows("orders") == []
    assert {5, 10} <= set(sizes)
    amount = "NaN" if pipeline.replica.engine.dialect.name != "postgresql" else None
    note = None if amount else "\0"
    pipeline.source.transaction(
        *(("c", "orders", order(key, None, note if key == 4 else None, amount if key == 4 else None)) for key in keys)
    )
    with pytest.raises(DataError, match=r"table public\.orders \(topic .*offset \d+\)"):
        pipeline.apply()
    assert pipeline.rows("orders") == []


def test_a_unique_value_that_a_new_row_takes_over(pipeline: Pipeline) -> None:
    pipeline.begin(CUSTOMER, ORDERS)
    pipeline.source.transaction(("c", "customer", customer(1, "a")), ("c", "orders", order(10, 1)))
    pipeline.apply()
    pipeline.source.transaction(
        ("c", "customer", customer(2, "a")), ("u", "orders", order(10, 2)), ("d", "customer", customer(1))
    )
    pipeline.source.transaction(("u", "customer", customer(2, "b")))
    pipeline.source.transaction(("c", "customer", customer(3, "a")))
    pipeline.apply()
    assert pipeline.rows("customer", "id", "email") == [(2, "b"), (3, "a")]


def test_no_other_row_changes_when_a_unique_value_is_taken(pipeline: Pipeline) -> None:
    """No source publishes such a transaction. The worker must raise an error and change no row of another customer."""
    pipeline.begin(CUSTOMER, ORDERS)
    pipeline.source.transaction(("c", "customer", customer(1, "a")))
    pipeline.source.transaction(("c", "customer", customer(2, "a")))
    with pytest.raises(DataError, match=r"table public\.customer \(topic .*constraint of the replica"):
        pipeline.apply()
    assert pipeline.rows("customer", "id", "email") == [(1, "a")]


def test_inserts_and_deletes_of_one_row_in_turn(pipeline: Pipeline) -> None:
    pipeline.begin(CUSTOMER, ORDERS)
    for n in range(20):
        pipeline.source.put(("c", "customer", customer(1, f"a{n}")), ("c", "orders", order(n, 1)))
        if n < 19:
            pipeline.source.put(("d", "orders", order(n, 1)), ("d", "customer", customer(1)))
    pipeline.source.flush()
    assert pipeline.apply().transactions == 39
    assert pipeline.rows("customer", "id", "email") == [(1, "a19")]
    assert pipeline.rows("orders", "id", "customer_id") == [(19, 1)]


def test_null_stays_null_and_replaces_values(pipeline: Pipeline) -> None:
    pipeline.replica.execute(
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer_id BIGINT DEFAULT 5, note VARCHAR(20) DEFAULT 'none', "
        "amount DECIMAL(10, 2) DEFAULT 9)"
    )
    pipeline.begin(shape("orders", column("customer_id"), column("note", SHORT), ORDERS.column("amount")))
    pipeline.source.transaction(("c", "orders", order(1, None)), ("c", "orders", order(2, 7, "x", "1.50")))
    pipeline.apply()
    pipeline.source.transaction(("u", "orders", order(2, None)))
    pipeline.apply()
    assert pipeline.rows("orders", "id", "customer_id", "note", "amount") == [
        (1, None, None, None),
        (2, None, None, None),
    ]


def test_a_changed_primary_key(shop: LivePipeline) -> None:
    shop.source.transaction(("c", "customer", customer(1, "a")), ("c", "orders", order(10, 1)))
    shop.apply()
    shop.source.transaction(
        ("d", "customer", customer(1)), ("c", "customer", customer(2, "a")), ("u", "orders", order(10, 2))
    )
    shop.apply()
    assert shop.rows("customer", "id", "email") == [(2, "a")]
    assert shop.rows("orders", "id", "customer_id") == [(10, 2)]


def test_keys_of_several_columns_and_rows_of_nothing_else(shop: LivePipeline) -> None:
    shop.source.transaction(
        *(("c", "tag", {"a": a, "b": b}) for a in "xX" for b in ("y", "y ", "Y")),
        *(("c", "seat", {"row": "r", "number": n, "who": str(n)}) for n in range(3)),
    )
    shop.apply()
    shop.source.transaction(
        ("u", "tag", {"a": "x", "b": "y"}), ("d", "tag", {"a": "x", "b": "Y"}), ("d", "seat", {"row": "r", "number": 1})
    )
    shop.apply()
    assert shop.rows("tag", "a", "b") == [("X", "Y"), ("X", "y "), ("X", "y"), ("x", "y "), ("x", "y")]
    assert shop.rows("seat", "row", "number", "who") == [("r", 0, "0"), ("r", 2, "2")]


@pytest.mark.parametrize("lengths", [(1500, 1500), (250, 250, 250, 512), (None, None, None, None)])
def test_a_key_that_may_be_longer_than_an_engine_indexes(pipeline: Pipeline, lengths: tuple[int | None, ...]) -> None:
    names = [f"k{position}" for position in range(len(lengths))]
    columns = [
        ColumnShape(name, PortableType("string" if length else "text", length=length))
        for name, length in zip(names, lengths, strict=True)
    ]
    key = ("id", *names)
    pipeline.begin(shape("thing", *columns, column("note", "text"), key=key, unique=[tuple(names)]))
    texts = dict.fromkeys(names, "ä😀" * 60)
    pipeline.source.transaction(*(("c", "thing", {"id": n, **texts, names[0]: str(n), "note": "a"}) for n in range(3)))
    pipeline.apply()
    pipeline.source.transaction(
        ("u", "thing", {"id": 1, **texts, names[0]: "1", "note": "b"}),
        ("d", "thing", {"id": 2, **texts, names[0]: "2"}),
    )
    pipeline.apply()
    assert pipeline.rows("thing", "id", names[1], "note") == [(0, texts[names[1]], "a"), (1, texts[names[1]], "b")]


def test_names_that_need_quotes(shop: LivePipeline) -> None:
    row = {"id": 1, 'the "best" `of` 50% :x': "v", "select": 2}
    shop.source.transaction(("c", "public.Order %s", row))
    shop.source.transaction(("c", "public.Order %s", row | {"id": 2}), ("d", "public.Order %s", {"id": 1}))
    shop.apply()
    assert shop.rows("Order %s") == [(2, "v", 2)]


def test_a_users_own_table_that_does_not_fit(pipeline: Pipeline) -> None:
    pipeline.replica.execute("CREATE TABLE customer (id BIGINT PRIMARY KEY)")
    pipeline.source.add(CUSTOMER)
    with pytest.raises(ConfigurationError, match=r"table customer has no column email"):
        pipeline.apply()
    pipeline.replica.execute("DROP TABLE customer", "CREATE TABLE customer (id BIGINT, email VARCHAR(9) PRIMARY KEY)")
    with pytest.raises(ConfigurationError, match=r"primary key of the replica's table customer is \(email\)"):
        pipeline.apply()


def test_a_users_own_table_with_a_computed_column_and_more_columns(pipeline: Pipeline) -> None:
    computed = "GENERATED ALWAYS AS (n + 1) STORED"
    pipeline.replica.execute(
        f"CREATE TABLE thing (id BIGINT PRIMARY KEY, n BIGINT, next BIGINT {computed}, own VARCHAR(9) DEFAULT 'mine')"
    )
    thing = shape("thing", column("n"), ColumnShape("next", PortableType("int64"), generated=True))
    pipeline.begin(thing)
    rows = [{"id": 1, "n": 1, "next": 2}, {"id": 2, "n": 5, "next": 6}]
    pipeline.source.transaction(*(("c", "thing", row) for row in rows))
    pipeline.apply()
    pipeline.replica.execute("UPDATE thing SET own = 'kept' WHERE id = 1")
    pipeline.source.transaction(("u", "thing", {"id": 1, "n": 3, "next": 4}))
    pipeline.apply()
    assert pipeline.rows("thing", "id", "n", "next", "own") == [(1, 3, 4, "kept"), (2, 5, 6, "mine")]


@pytest.mark.parametrize("replica_url", [engine for engine in ENGINES if engine != "sqlite"], indirect=True)
def test_a_lost_connection(pipeline: Pipeline) -> None:
    """The positions show whether the current transaction was committed."""
    pipeline.begin(CUSTOMER, ORDERS)
    with running_worker(pipeline.settings) as worker:
        # Wait until the worker is active, because a worker without a connection to its replica ends at the start.
        worker.until(lambda p: p.active)
        for n in range(100):
            pipeline.source.transaction(("c", "customer", customer(n, str(n))), ("c", "orders", order(n, n)))
            if n % 25 == 24:
                _cut_connections(pipeline.replica)
        worker.until(lambda p: p.lsn == pipeline.source.lsn)
    assert len(pipeline.rows("customer")) == len(pipeline.rows("orders")) == 100


def _cut_connections(replica: Database) -> None:
    """Cut all connections to the replica except the test's own."""
    with replica.engine.connect() as connection:
        if replica.engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        others = connection.exec_driver_sql(
            "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
        ).scalars()
        for id in others.all():
            connection.exec_driver_sql(f"KILL {id}")


@pytest.mark.parametrize("most_events", [20_000, 1], ids=["in memory", "in files"])
def test_a_users_own_constraints_are_met_while_loading(
    most_events: int, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By key, a child may come before its parent, and a unique value before its old row has lost the value."""
    monkeypatch.setattr(held_back, "_MOST_EVENTS", most_events)
    pipeline.replica.execute(
        "CREATE TABLE customer (id BIGINT PRIMARY KEY, email VARCHAR(20) UNIQUE)",
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer_id BIGINT, note VARCHAR(20), amount DECIMAL(10, 2), "
        "FOREIGN KEY (customer_id) REFERENCES customer (id))",
    )
    orders = shape(
        "orders",
        column("customer_id"),
        column("note", SHORT),
        ORDERS.column("amount"),
        refers=[("customer_id", "customer")],
    )
    pipeline.source.add(shape("customer", column("email", SHORT), unique=[("email",)]), orders)
    pipeline.source.transaction(("c", "customer", customer(1, "a")), ("c", "customer", customer(2, "b")))
    pipeline.source.transaction(("u", "customer", customer(1, "b")), ("u", "customer", customer(2, "a")))
    pipeline.source.transaction(("c", "orders", order(10, 3)), ("c", "customer", customer(3, "c")))
    pipeline.apply()
    assert pipeline.replica.state() == "consistent"
    assert pipeline.rows("customer", "id", "email") == [(1, "b"), (2, "a"), (3, "c")]
    assert pipeline.rows("orders", "id", "customer_id") == [(10, 3)]


def test_a_new_column(pipeline: Pipeline) -> None:
    pipeline.begin(CUSTOMER)
    pipeline.source.transaction(("c", "customer", customer(1, "a")))
    pipeline.apply()
    pipeline.source.add(shape("customer", column("email", "text"), column("born", "date"), unique=[("email",)]))
    pipeline.source.transaction(("c", "customer", customer(2, "b") | {"born": "1969-07-20"}))
    pipeline.apply()
    rows = [(i, e, None if b is None else str(b)) for i, e, b in pipeline.rows("customer", "id", "email", "born")]
    assert rows == [(1, "a", None), (2, "b", "1969-07-20")]


# The worker compares the shapes before it writes to the replica.
@pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)
def test_a_changed_type_is_refused(pipeline: Pipeline) -> None:
    pipeline.begin(CUSTOMER)
    pipeline.source.add(shape("customer", column("email", "int64"), unique=[("email",)]))
    with pytest.raises(DataError, match=r"column email of table public\.customer has changed from text to int64"):
        pipeline.apply()


def test_a_value_that_the_replica_cannot_hold(pipeline: Pipeline) -> None:
    pipeline.begin(CUSTOMER, ORDERS)
    pipeline.source.transaction(("c", "customer", customer(1, "a")))
    bad = order(10, 1, amount="NaN") if pipeline.replica.engine.dialect.name != "postgresql" else order(10, 1, "\0")
    pipeline.source.transaction(("c", "orders", order(9, 1)), ("c", "orders", bad))
    for _ in range(2):
        with pytest.raises(DataError, match=r"table public\.orders \(topic .*partition 0, offset 1"):
            pipeline.apply()
        # The transaction before is applied. The transaction with the bad row is not.
        assert pipeline.rows("customer", "id") == [(1,)]
        assert pipeline.rows("orders") == []


def test_foreign_keys_that_rows_from_before_the_capture_violate(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.source.add(CUSTOMER, ORDERS)
    pipeline.source.transaction(("c", "orders", order(10, 1)))
    pipeline.apply()
    assert pipeline.replica.state() == "loading"
    assert "table public.orders: foreign key" in caplog.text or "rows refer to rows of customer" in caplog.text
    pipeline.source.transaction(("u", "orders", order(10, 1, "still applied")))
    pipeline.source.transaction(("c", "customer", customer(1)))
    pipeline.apply()
    assert pipeline.rows("orders", "id", "note") == [(10, "still applied")]
    assert pipeline.replica.state() == "consistent"


def test_another_schema_than_the_default_one(pipeline: Pipeline) -> None:
    pipeline.begin(shape("item", column("n"), schema="stock", default_schema=False), shape("item", column("n")))
    pipeline.source.transaction(("c", "stock.item", {"id": 1, "n": 1}), ("c", "public.item", {"id": 2, "n": 2}))
    pipeline.apply()
    if pipeline.replica.engine.dialect.name == "postgresql":
        with pipeline.replica.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT id FROM stock.item")).scalars().all() == [1]
            assert connection.execute(sa.text("SELECT id FROM public.item")).scalars().all() == [2]
            connection.execute(sa.text("DROP SCHEMA stock CASCADE"))
    else:
        assert pipeline.rows("stock_item", "id") == [(1,)]
        assert pipeline.rows("item", "id") == [(2,)]


@pytest.mark.parametrize(
    ("engine", "pair"),
    [("mariadb", "schemas"), ("sqlite", "schemas"), ("sqlite", "case"), ("mariadb", "neither"), ("postgresql", "both")],
)
def test_two_tables_with_one_name_on_the_replica_are_refused(engine: str, pair: str, new_database: NewDatabase) -> None:
    of_schema = (shape("stock_item"), shape("item", schema="stock", default_schema=False))
    of_case = (shape("Users"), shape("users"))
    shapes = {"schemas": of_schema, "case": of_case, "neither": of_case, "both": of_schema + of_case}[pair]
    with direct_replica(new_database(engine)) as replica:
        replica.add(*shapes)
        if pair in ("neither", "both"):
            replica.replica.prepare()
        else:
            names = " and ".join(one.full_name for one in shapes)
            with pytest.raises(ConfigurationError, match=f"the source's tables {names} would both be the table"):
                replica.replica.prepare()


@pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)
def test_only_the_tables_that_the_replica_includes(pipeline: Pipeline, replica_url: str) -> None:
    source = pipeline.source
    pipeline.settings = settings_for(source.name, source.bootstrap, replica_url, tables=("*.ord*",))
    pipeline.begin(CUSTOMER, ORDERS)
    source.transaction(("c", "customer", customer(1)), ("c", "orders", order(10, 1)))
    source.transaction(("u", "customer", customer(1)))
    assert pipeline.apply().transactions == 2
    assert pipeline.rows("orders", "id") == [(10,)]
    assert not sa.inspect(pipeline.replica.engine).has_table("customer")
