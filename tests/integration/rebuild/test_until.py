"""A copy at a point in time is the state after a transaction, or is refused."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic

from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.rebuild_elsewhere import rebuild_into
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from support.kafka_admin import create_topics
from support.kafka_source import Line, Source, column, shape
from support.worker_runs import CUSTOMER, NAME, ORDERS, Database, settings_for, work_once

ENGINES = ["postgresql", "mariadb", "mysql", "sqlite"]
ITEM = shape("item", column("v", "text"))
State = set[tuple[Any, ...]]
NewDatabase = Callable[[str], str]


def copied(settings: Settings, url: str, until: str) -> RebuildResult:
    options = RebuildOptions(is_verified=False, until=until)
    return rebuild_into(settings, NAME, url, options, stop=threading.Event())


def refusal(settings: Settings, url: str, until: str) -> str | None:
    """Copy, and return the reason of a refusal."""
    try:
        copied(settings, url, until)
    except DataError as error:
        return f"{error}"
    return None


class History:
    """Publish random transactions of customers and orders, and keep the state after each."""

    def __init__(self, source: Source, seed: int = 1) -> None:
        self.source = source
        self._choose = random.Random(seed)
        self._notes: dict[int, str] = {}
        self.states: dict[str, State] = {}
        self.lsns: dict[str, int] = {}
        source.add(CUSTOMER, ORDERS)

    def grow(self, transactions: int) -> None:
        for _ in range(transactions):
            lines: list[Line] = []
            for key in self._choose.sample(range(1, 30), 3):
                if key not in self._notes:
                    lines.append(("c", "customer", {"id": key, "email": f"{key}@{len(self.states)}"}))
                    lines.append(("c", "orders", self._order(key, "new")))
                elif self._choose.random() < 0.3:
                    lines.append(("d", "orders", {"id": key}))
                    lines.append(("d", "customer", {"id": key}))
                    del self._notes[key]
                else:
                    lines.append(("u", "orders", self._order(key, f"changed {len(self.states)}")))
            transaction = self.source.transaction(*lines)
            self.states[transaction] = set(self._notes.items())
            self.lsns[transaction] = self.source.lsn

    def _order(self, key: int, note: str) -> dict[str, Any]:
        self._notes[key] = note
        return {"id": key, "customer_id": key, "note": note, "amount": "1.00"}


def orders(url: str) -> State:
    return set(Database(url).rows("orders", "id", "note"))


def settings_of(source: Source) -> Settings:
    return settings_for(source.name, source.bootstrap, "sqlite:////nowhere/replica.db")


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_is_the_state_after_the_named_transaction_and_a_worker_goes_on_from_there(
    engine: str, new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    history = History(Source(kafka.bootstrap_servers, source_name, partitions=3))
    history.grow(40)
    settings = settings_of(history.source)
    for number in (0, 17, 39):
        transaction = list(history.states)[number]
        url = new_database(engine)
        result = copied(settings, url, transaction)
        assert result.moment is not None
        assert (result.moment.transaction, result.moment.lsn) == (transaction, history.lsns[transaction])
        assert orders(url) == history.states[transaction]
        assert Database(url).state() == "consistent"
    history.grow(5)
    replica = settings_for(source_name, kafka.bootstrap_servers, url)
    assert work_once(replica).state == "consistent"
    assert orders(url) == list(history.states.values())[-1]


def test_a_time_and_an_lsn_name_the_last_transaction_before(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    history = History(Source(kafka.bootstrap_servers, source_name, partitions=2))
    settings = settings_of(history.source)
    history.grow(10)
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    last = list(history.states)[-1]
    url = new_database("sqlite")
    with pytest.raises(ConfigurationError, match=f"may still be on their way.* --until {last}"):
        copied(settings, url, moment.isoformat())
    history.grow(3)
    url = new_database("sqlite")
    copied(settings, url, moment.isoformat())
    assert orders(url) == history.states[last]
    url = new_database("sqlite")
    # Between the END of the last transaction and the next one.
    copied(settings, url, f"lsn:{history.lsns[last] + 1}")
    assert orders(url) == history.states[last]


def test_an_interrupted_copy_goes_forward_and_never_back(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    history = History(Source(kafka.bootstrap_servers, source_name, partitions=2))
    history.grow(20)
    settings, url, transactions = settings_of(history.source), new_database("sqlite"), list(history.states)
    for number in (5, 5, 12):
        copied(settings, url, transactions[number])
        assert orders(url) == history.states[transactions[number]]
    with pytest.raises(ConfigurationError, match="has later transactions than transaction"):
        copied(settings, url, transactions[3])


@pytest.mark.parametrize(
    ("until", "reason"),
    [
        ("2100-01-01", "is in the future"),
        ("2001-01-01T00:00", "does not show it. Its first transaction is"),
        ("no-such", "does not show it"),
        ("lsn:99999", "the last lsn in the topics is"),
    ],
)
def test_a_moment_that_the_topics_do_not_show_is_refused(
    new_database: NewDatabase, kafka: Broker, source_name: str, until: str, reason: str
) -> None:
    history = History(Source(kafka.bootstrap_servers, source_name))
    history.grow(1)
    with pytest.raises(ConfigurationError, match=reason):
        copied(settings_of(history.source), new_database("sqlite"), until)


def compacted(source: Source, **more: str) -> None:
    """Create the topic of items, for which Kafka may compact everything at once."""
    topic = table_topic(source.name, "public", "item")
    config = {"cleanup.policy": "compact", "min.compaction.lag.ms": "0", **more}
    create_topics(source.bootstrap, NewTopic(topic, 1, 1, config=config))
    source._made.add(topic)
    source.add(ITEM)


def test_events_that_compaction_has_left_alone_show_that_the_copy_is_whole(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    """The settings would have allowed the compaction."""
    source = Source(kafka.bootstrap_servers, source_name)
    compacted(source)
    source.transaction(("c", "item", {"id": 1, "v": "a"}), ("c", "item", {"id": 2, "v": "a"}))
    moment = source.transaction(("d", "item", {"id": 2}))
    source.transaction(("u", "item", {"id": 1, "v": "b"}), ("c", "item", {"id": 3, "v": "b"}))
    source.transaction(("d", "item", {"id": 3}), ("c", "item", {"id": 2, "v": "b"}))
    url = new_database("sqlite")
    copied(settings_of(source), url, moment)
    assert Database(url).rows("item") == [(1, "a")]


def test_a_copy_is_refused_after_compaction_has_removed_states(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    fast = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "100"}
    compacted(source, **fast)
    moment = source.transaction(("c", "item", {"id": 1, "v": "a"}), ("c", "item", {"id": 2, "v": "a"}))
    source.transaction(("u", "item", {"id": 1, "v": "b"}))
    deadline = time.monotonic() + 60
    while (reason := refusal(settings_of(source), url := new_database("sqlite"), moment)) is None:
        # Until then, the copy is right.
        assert Database(url).rows("item") == [(1, "a"), (2, "a")]
        assert time.monotonic() < deadline
        # A new segment makes the segments before it ready for compaction.
        source.transaction(("c", "item", {"id": source.lsn + 10, "v": "c"}))
        time.sleep(0.3)
    assert "compaction has removed" in reason.lower()
    assert Database(url).state() == "suspect"


def test_a_copy_is_refused_if_a_snapshot_has_published_rows_only_later(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    moment = source.transaction(("c", "item", {"id": 1, "v": "a"}))
    source.transaction(("c", "item", {"id": 2, "v": "a"}))

    def read(key: int) -> None:
        source.lsn += 1
        source.event("r", "public.item", {"id": key, "v": "a"}, source.lsn, None)
        source.transaction(id=f"snapshot-1-{source.lsn}")

    read(1)
    read(2)
    url = new_database("sqlite")
    copied(settings_of(source), url, moment)
    assert Database(url).rows("item") == [(1, "a")]
    read(3)
    with pytest.raises(DataError, match="A snapshot has published the row later"):
        copied(settings_of(source), new_database("sqlite"), moment)
