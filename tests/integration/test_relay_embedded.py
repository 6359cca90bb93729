"""The relay against the embedded Kafka, as the demonstration runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from integration.relay_topics import assert_whole_transactions, notes_by_key, read_topics
from rowcast.producer import Capture
from rowcast.producer.relay import Relay, running
from rowcast.shared.config import Settings
from rowcast.shared.embedded import embedded_kafka
from unit.relay_database import ORDERS, Primary, line, primary_at


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


def test_it_publishes_there_and_says_what_that_is(primary: Primary, caplog: pytest.LogCaptureFixture) -> None:
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
    assert "neither fences a second relay nor hides what is not committed" in caplog.text


def test_a_capture_of_another_source_is_told(
    tmp_path: Path, primary: Primary, caplog: pytest.LogCaptureFixture
) -> None:
    """Topics are named by the configuration: somebody would look for them in vain."""
    url = f"sqlite:///{tmp_path}/primary.db"
    with embedded_kafka() as bootstrap_servers:
        settings = Settings(source="shop", kafka={"bootstrap.servers": bootstrap_servers}, primary={"url": url})
        with caplog.at_level(logging.WARNING), running(settings, Capture(sa.MetaData(), source="shop")):
            pass
        assert "the capture is of the source" not in caplog.text
        with caplog.at_level(logging.WARNING), running(settings, Capture(sa.MetaData(), source="stock")):
            pass
        assert "the capture is of the source 'stock', the relay's configuration of 'shop'" in caplog.text
