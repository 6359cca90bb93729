"""Objects that depend on a replica's tables follow the swap, or prevent the rebuild by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowcast.shared.errors import ConfigurationError
from servers import Broker
from support.kafka_source import Source
from support.rebuilds import rebuilt
from support.worker_runs import CUSTOMER, ORDERS, Database, settings_for, work_once


class Rebuilt:
    """A replica of customers and orders, and its settings."""

    def __init__(self, url: str, kafka: Broker, source_name: str) -> None:
        self.source = Source(kafka.bootstrap_servers, source_name)
        self.replica = Database(url)
        self.settings = settings_for(source_name, kafka.bootstrap_servers, url)
        self.source.add(CUSTOMER, ORDERS)
        self.source.transaction(
            ("c", "customer", {"id": 1, "email": "a@example.com"}),
            ("c", "orders", {"id": 10, "customer_id": 1, "note": "first", "amount": "1.50"}),
        )
        work_once(self.settings)

    def scalar(self, query: str) -> object:
        with self.replica.engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar()


NewRebuilt = Callable[[str], Rebuilt]


@pytest.fixture
def new(new_database: Callable[[str], str], kafka: Broker, source_name: str) -> NewRebuilt:
    return lambda engine: Rebuilt(new_database(engine), kafka, source_name)


def test_objects_of_postgresql_follow_the_swap(new: NewRebuilt) -> None:
    place = new("postgresql")
    place.replica.execute(
        "CREATE INDEX by_note ON orders (lower(note)) WHERE note LIKE 'f%%'",
        'CREATE UNIQUE INDEX "By Amount" ON orders (amount, id)',
        "CREATE VIEW notes AS SELECT o.note, c.email FROM orders o JOIN customer c ON c.id = o.customer_id",
        "CREATE VIEW first_notes AS SELECT note FROM notes WHERE note LIKE 'f%%'",
        "GRANT SELECT ON orders TO PUBLIC",
        "GRANT SELECT (email) ON customer TO PUBLIC",
        "GRANT SELECT ON notes TO PUBLIC",
        "COMMENT ON TABLE orders IS 'the orders'",
        "COMMENT ON COLUMN orders.note IS 'a % note'".replace("%", "%%"),
        "ALTER TABLE orders SET (fillfactor = 70)",
        "ALTER TABLE orders REPLICA IDENTITY FULL",
        "CREATE PUBLICATION mine FOR TABLE orders",
        "CREATE TABLE seen (note text)",
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO seen VALUES (NEW.note); RETURN NEW; END'",
        "CREATE TRIGGER see AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION see()",
        "ALTER TABLE orders ENABLE ALWAYS TRIGGER see",
    )
    before = place.scalar("SELECT 'orders'::regclass::oid")
    rebuilt(place.settings)
    assert place.scalar("SELECT 'orders'::regclass::oid") != before
    place.source.transaction(("c", "orders", {"id": 11, "customer_id": 1, "note": "fourth", "amount": "2.50"}))
    work_once(place.settings)
    assert place.replica.rows("first_notes") == [("first",), ("fourth",)]
    assert place.replica.rows("seen") == [("fourth",)]
    names = "SELECT string_agg(indexname, ',' ORDER BY indexname) FROM pg_indexes WHERE tablename = 'orders'"
    assert [n for n in str(place.scalar(names)).split(",") if "rowcast" not in n] == [
        "By Amount",
        "by_note",
        "orders_pkey",
    ]
    assert place.scalar("SELECT obj_description('orders'::regclass)") == "the orders"
    assert place.scalar("SELECT col_description('orders'::regclass, 3)") == "a % note"
    assert place.scalar("SELECT reloptions::text FROM pg_class WHERE relname = 'orders'") == "{fillfactor=70}"
    assert place.scalar("SELECT relreplident FROM pg_class WHERE relname = 'orders'") == "f"
    assert place.scalar("SELECT tablename FROM pg_publication_tables WHERE pubname = 'mine'") == "orders"
    assert place.scalar("SELECT tgenabled FROM pg_trigger WHERE tgname = 'see'") == "A"
    for right in (
        "has_table_privilege('public', 'orders', 'SELECT')",
        "has_table_privilege('public', 'notes', 'SELECT')",
    ):
        assert place.scalar(f"SELECT {right}") is True
    assert place.scalar("SELECT has_column_privilege('public', 'customer', 'email', 'SELECT')") is True
    assert place.scalar("SELECT has_table_privilege('public', 'customer', 'SELECT')") is False


# Statements on PostgreSQL that make an object which cannot follow a swap, and how the refusal names it.
PREVENTING = {
    "CREATE MATERIALIZED VIEW totals AS SELECT sum(amount) FROM orders": "materialized view totals",
    "CREATE TABLE extra (orders_id bigint REFERENCES orders)": "extra_orders_id_fkey on table extra",
    "ALTER TABLE orders ADD COLUMN mine text": "orders has columns that the source does not have: mine",
    "ALTER TABLE orders ADD CHECK (amount > 0)": "orders_amount_check",
    "ALTER TABLE orders ENABLE ROW LEVEL SECURITY": "has row-level security",
    "CREATE POLICY p ON orders": "has row-level security",
    "CREATE TABLE part () INHERITS (orders)": "table part",
    "CREATE FUNCTION f(o orders) RETURNS text LANGUAGE sql AS 'SELECT o.note'": "function f(orders)",
    "CREATE STATISTICS s ON customer_id, note FROM orders": "statistics object s",
}


def test_each_object_of_postgresql_that_cannot_follow_is_named_and_prevents_the_rebuild(new: NewRebuilt) -> None:
    """All objects are named at once, each in a line of its own."""
    place = new("postgresql")
    place.replica.execute(*PREVENTING)
    with pytest.raises(ConfigurationError, match="nothing was changed") as refused:
        rebuilt(place.settings)
    lines = f"{refused.value}".splitlines()
    for named in PREVENTING.values():
        assert [line for line in lines if named in line], (named, lines)
    assert not [table for table in place.replica.tables() if table.startswith("rowcast_new_")]


def test_objects_of_sqlite_follow_the_swap(new: NewRebuilt) -> None:
    place = new("sqlite")
    place.replica.execute(
        "CREATE INDEX by_note ON orders (note)",
        "CREATE VIEW notes AS SELECT o.note, c.email FROM orders o JOIN customer c ON c.id = o.customer_id",
        "CREATE TABLE seen (note text)",
        "CREATE TRIGGER see AFTER INSERT ON orders BEGIN INSERT INTO seen VALUES (NEW.note); END",
    )
    rebuilt(place.settings)
    place.source.transaction(("c", "orders", {"id": 11, "customer_id": 1, "note": "second", "amount": "2.50"}))
    work_once(place.settings)
    assert place.replica.rows("notes", "note") == [("first",), ("second",)]
    assert place.replica.rows("seen") == [("second",)]
    assert place.scalar("SELECT tbl_name FROM sqlite_master WHERE name = 'by_note'") == "orders"
    place.replica.execute("CREATE TABLE extra (orders_id bigint REFERENCES orders)")
    with pytest.raises(ConfigurationError, match="table extra refers to orders"):
        rebuilt(place.settings)


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_objects_of_mariadb_and_mysql_follow_the_swap_or_prevent_it(new: NewRebuilt, engine: str) -> None:
    place = new(engine)
    place.replica.execute(
        "CREATE INDEX by_note ON orders (note(5), amount DESC)",
        "CREATE VIEW notes AS SELECT o.note, c.email FROM orders o JOIN customer c ON c.id = o.customer_id",
    )
    rebuilt(place.settings)
    place.source.transaction(("c", "orders", {"id": 11, "customer_id": 1, "note": "second", "amount": "2.50"}))
    work_once(place.settings)
    assert place.replica.rows("notes", "note") == [("first",), ("second",)]
    index = "SELECT sub_part FROM information_schema.statistics WHERE index_name = 'by_note' AND table_name = 'orders'"
    assert place.scalar(f"{index} AND table_schema = database() AND seq_in_index = 1") == 5
    place.replica.execute("CREATE TRIGGER see BEFORE INSERT ON orders FOR EACH ROW SET NEW.note = 'x'")
    place.replica.execute("CREATE TABLE extra (id INT PRIMARY KEY, o BIGINT, FOREIGN KEY (o) REFERENCES orders (id))")
    with pytest.raises(ConfigurationError, match=r"trigger see belongs to table orders(?s:.*)of table extra refers to"):
        rebuilt(place.settings)
