"""A worker stops at a table with another type or key, and the rebuild that its error names leads on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import DataError
from servers import Broker
from support.relay.threads import running_thread
from support.worker_runs import NAME, Database, settings_for, work_once


def models(amount: Any, *, key: bool = False) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table("shop", metadata, sa.Column("id", sa.Integer, primary_key=True))
    sa.Table(
        "item",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("amount", amount, primary_key=key),
        sa.Column("shop_id", sa.ForeignKey("shop.id")),
    )
    return metadata


@pytest.mark.parametrize(
    ("kind", "engine"), [("type", "postgresql"), pytest.param("key", "sqlite", marks=pytest.mark.only_in_campaigns)]
)
def test_the_rebuild_that_the_error_names_leads_on(
    engine: str, kind: str, kafka: Broker, source_name: str, new_database: NewDatabase
) -> None:
    url, replica_url = new_database("postgresql"), new_database(engine)
    settings = settings_for(source_name, kafka.bootstrap_servers, replica_url, url)
    settings = settings.model_copy(update={"relay": RelaySettings(poll_max_ms=10)})
    primary, replica = open_engine(url, "primary", pooled=False), Database(replica_url)

    def write(metadata: sa.MetaData, number: int, amount: object) -> None:
        engine = open_engine(url, "application", pooled=False)
        Capture(metadata, source=source_name).install(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(metadata.tables["shop"]), {"id": number})
            row = {"id": number, "amount": amount, "shop_id": number}
            connection.execute(sa.insert(metadata.tables["item"]), row)

    before = models(sa.Integer())
    Capture(before, source=source_name).create_outbox(primary)
    before.create_all(primary)
    write(before, 1, 1)
    Relay(settings, primary).run_once()
    work_once(settings)
    after = models(sa.String(20)) if kind == "type" else models(sa.Integer(), key=True)
    with primary.begin() as connection:
        if kind == "type":
            connection.exec_driver_sql("ALTER TABLE item ALTER amount TYPE varchar(20) USING '#' || amount")
        else:
            connection.exec_driver_sql("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id, amount)")
    write(after, 2, "x" if kind == "type" else 2)
    Relay(settings, primary).run_once()
    with pytest.raises(DataError, match=rf"rowcast rebuild {NAME} --snapshot"):
        work_once(settings)
    with running_thread(Relay(settings, primary)):
        rebuild(settings, NAME, RebuildOptions(with_snapshot=True), stop=threading.Event())
        work_once(settings)
    assert replica.state() == "consistent"
    assert replica.rows("item", "amount") == ([("#1",), ("x",)] if kind == "type" else [(1,), (2,)])
    assert replica.rows("shop", "id") == [(1,), (2,)]
