"""A worker with keys believes no schema and no transaction that the relay has not signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from rowcast.producer.relay import Relay
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import schema_topic, transaction_topic
from servers import Broker
from support.kafka_source import Source
from support.relay.primary import ORDERS, line, primary_at
from support.relay.settings import settings_of
from support.worker_runs import NAME, Database, work_once

OLD, NEW, OTHER = (SecretStr(letter * 16) for letter in "onx")


def test_a_relay_signs_and_a_worker_stops_at_what_is_not_signed(
    kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/copy.db"
    with primary_at(tmp_path / "primary.db") as primary:
        own = settings_of(kafka, source_name, primary)
        replicas = {NAME: ReplicaSettings(url=SecretStr(url))}

        def with_keys(*keys: SecretStr) -> Settings:
            return own.model_copy(update={"signature_keys": keys, "replicas": replicas})

        primary.add_shapes(ORDERS)
        primary.add("a", line(ORDERS, "c", 1, "x"))
        Relay(with_keys(OLD), primary.engine).run_once()
        work_once(with_keys(OLD, NEW))
        # The key changes: workers accept both, and then the relay signs with the new key.
        primary.add("b", line(ORDERS, "c", 2, "x"))
        Relay(with_keys(NEW, OLD), primary.engine).run_once()
        work_once(with_keys(OLD, NEW))
    assert Database(url).rows("orders", "id") == [(1,), (2,)]
    with pytest.raises(DataError, match=rf"{schema_topic(source_name)}, partition 0, .*signature of another key"):
        work_once(with_keys(OTHER))
    forger = Source(kafka.bootstrap_servers, source_name, lsn=1_000)
    forger.shapes[ORDERS.full_name] = ORDERS
    forger.transaction(("c", "orders", {"id": 3, "note": "forged"}))
    with pytest.raises(DataError, match=rf"{transaction_topic(source_name)}, partition 0, .*has no signature"):
        work_once(with_keys(OLD, NEW))
    assert Database(url).rows("orders", "id") == [(1,), (2,)]
    work_once(with_keys())
    assert len(Database(url).rows("orders", "id")) == 3
