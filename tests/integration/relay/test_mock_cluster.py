"""Run the relay with the embedded Kafka, as the demonstration does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.producer import Capture
from rowcast.producer.relay import Relay, running
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from support.relay.primary import ORDERS, Primary, line, primary_at
from support.relay.topic_reader import assert_whole_transactions, notes_by_key, read_topics


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


def test_the_embedded_kafka_takes_the_events_and_the_relay_warns(
    primary: Primary, caplog: pytest.LogCaptureFixture
) -> None:
    primary.add_shapes(ORDERS)
    with embedded_kafka() as bootstrap_servers, caplog.at_level(logging.WARNING):
        settings = Settings(source="shop", kafka={"bootstrap.servers": bootstrap_servers}, primary={"url": "sqlite://"})
        for n in range(1, 4):
            primary.add(str(n), line(ORDERS, "u", 1, str(n)))
            assert Relay(settings, primary.engine).run_once() == 1
        published = read_topics(bootstrap_servers, "shop", "read_uncommitted")
    assert_whole_transactions(published.stream)
    assert notes_by_key(published.stream) == {1: [1, 2, 3]}
    assert {m.partition for m in published.messages if not m.topic.endswith(".orders")} == {0}
    assert primary.ids() == []
    assert "does not fence a second relay, and shows uncommitted events" in caplog.text


def test_a_capture_of_another_source_is_an_error(
    tmp_path: Path, primary: Primary, caplog: pytest.LogCaptureFixture
) -> None:
    """The configuration names the topics. Without the error, a user would look for missing topics."""
    url = f"sqlite:///{tmp_path}/primary.db"
    with embedded_kafka() as bootstrap_servers:
        settings = Settings(source="shop", kafka={"bootstrap.servers": bootstrap_servers}, primary={"url": url})
        with caplog.at_level(logging.WARNING), running(settings, Capture(sa.MetaData(), source="shop")):
            pass
        assert "the capture has the source" not in caplog.text
        with caplog.at_level(logging.WARNING), running(settings, Capture(sa.MetaData(), source="stock")):
            pass
        assert "the capture has the source 'stock', and the relay's configuration has the source 'shop'" in caplog.text
