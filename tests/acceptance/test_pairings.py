"""From a primary of each engine to a replica of each engine, at once: the rows are equal, the constraints are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from acceptance.comparison import assert_same_foreign_keys, assert_same_rows
from acceptance.pipeline import Pipeline
from acceptance.workload import Application
from fix_databases import ENGINES, NewDatabase
from servers import Broker, DatabaseServer

TABLES = {
    "accounts", "transfers", "customers", "orders", "notes", "tags", "order_tags", "readings", "tokens", "people",
    "engineers",
}  # fmt: skip


def test_rows_of_every_engine_arrive_in_every_engine(
    tmp_path: Path,
    kafka: Broker,
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    primary_url: str,
    new_database: NewDatabase,
    source_name: str,
) -> None:
    """The workers of three replicas start in the middle of the work: half of it comes by key, half by transaction."""
    replicas = {engine: new_database(engine) for engine in ENGINES}
    application = Application(primary_url, source_name)
    with Pipeline(
        tmp_path,
        source=source_name,
        kafka=kafka.bootstrap_servers,
        primary=primary_url,
        replicas=replicas,
        topics={"partitions": 3},
    ) as pipeline:
        application.run_each_operation(times=2)
        pipeline.start("relay")
        for name in replicas:
            pipeline.start("worker", name)
        application.run_each_operation(times=2)
        pipeline.wait_until_caught_up()
        # From here on every replica is consistent, so that what follows is applied with its constraints on.
        application.run_each_operation(times=4)
        pipeline.wait_until_caught_up()
        application.close()
        for name, replica in pipeline.replicas.items():
            rows = assert_same_rows(pipeline.primary, replica, application.metadata)
            assert {table for table, _ in rows} == TABLES, "the workload leaves tables empty"
            assert_same_foreign_keys(application.metadata, replica)
            assert_foreign_keys_are_enforced(replica, application)
            assert_found_by_key(pipeline.primary, replica, application)
            pipeline.verify(name)


def assert_foreign_keys_are_enforced(replica: sa.Engine, application: Application) -> None:
    stray = sa.insert(application.ledger.transfers).values(writer=99, number=1, giver_id=-1, taker_id=-1, amount=1)
    with replica.connect() as connection:
        application.ledger.must_balance(connection)
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(stray)


def assert_found_by_key(primary: sa.Engine, replica: sa.Engine, application: Application) -> None:
    """The application's own models find on the replica what they find on the primary, also where a key, an enum or a
    decorated value is a parameter."""
    m = application.models
    with Session(primary) as here, Session(replica) as there:
        for token in here.scalars(sa.select(m.Token)):
            assert there.get_one(m.Token, token.id).used == token.used
        for customer in here.scalars(sa.select(m.Customer)):
            same = (m.Customer.id == customer.id, m.Customer.colour.is_not_distinct_from(customer.colour))
            found = there.scalars(
                sa.select(m.Customer).where(*same, m.Customer.secret.is_not_distinct_from(customer.secret))
            ).one()
            assert [order.amount for order in sorted(found.orders, key=lambda o: o.id)] == [
                order.amount for order in sorted(customer.orders, key=lambda o: o.id)
            ]
        for engineer in here.scalars(sa.select(m.Engineer)):
            assert there.get_one(m.Engineer, engineer.id).name == engineer.name
