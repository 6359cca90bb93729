"""Publish from a primary of each engine to a replica of each engine, and compare rows and constraints."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from fixtures.databases import ENGINES, NewDatabase, replicas_of
from servers import Broker, DatabaseServer
from support.pipeline.database_diff import assert_same_foreign_keys, assert_same_rows
from support.pipeline.pipeline import Pipeline
from support.pipeline.workload import Application

TABLES = {
    "accounts", "transfers", "customers", "orders", "notes", "tags", "order_tags", "readings", "tokens", "people",
    "engineers",
}  # fmt: skip


@pytest.mark.parametrize("primary", ENGINES)
def test_rows_of_every_engine_arrive_in_every_engine(
    tmp_path: Path,
    kafka: Broker,
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    mysql: DatabaseServer,
    primary: str,
    new_database: NewDatabase,
    source_name: str,
    campaign: bool,
) -> None:
    """The workers start in the middle of the work, so that half of the rows comes by key and half by transaction."""
    primary_url = new_database(primary)
    replicas = {engine: new_database(engine) for engine in replicas_of(primary, campaign=campaign)}
    application = Application(primary_url, source_name)
    with Pipeline(
        tmp_path,
        source=source_name,
        kafka=kafka.bootstrap_servers,
        primary=primary_url,
        replicas=replicas,
        topics={"partitions": 3},
    ) as pipeline:
        application.run_each_operation(times=1)
        pipeline.start("relay")
        for name in replicas:
            pipeline.start("worker", name)
        application.run_each_operation(times=1)
        pipeline.wait_until_caught_up()
        # From here on every replica is consistent. Therefore the constraints are enforced for all further changes.
        application.run_each_operation(times=2)
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
    """Check that the application's models find equal rows on primary and replica. Keys, enums and decorated values
    serve as parameters."""
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
