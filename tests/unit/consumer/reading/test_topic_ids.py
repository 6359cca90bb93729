"""A topic that was created again is noticed by its id, and the ids of other topics are learned."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Uuid

from rowcast.consumer.reading import topic_ids, topic_metadata
from rowcast.consumer.reading.topic_ids import TopicIds
from rowcast.shared.errors import DataError, UnreachableError

FIRST, SECOND, NONE = Uuid(1, 1), Uuid(1, 2), Uuid(0, 0)


class Cluster:
    """Answer with the ids of topics, at once or later."""

    brokers = "here:9092"

    def __init__(self, **ids: Uuid) -> None:
        self.ids = ids
        self.answers = True
        self.fault: int | None = None
        self.open: dict[str, Future[Any]] = {}
        self.requests = 0

    def start(self, topics: Collection[str]) -> dict[str, Future[Any]]:
        self.requests += 1
        self.open = {topic: Future() for topic in topics}
        if self.answers:
            self.answer()
        return self.open

    def answer(self) -> None:
        for topic, future in self.open.items():
            code = self.fault or KafkaError.UNKNOWN_TOPIC_OR_PART
            if self.fault is not None or topic not in self.ids:
                future.set_exception(KafkaException(KafkaError(code)))
            else:
                future.set_result(SimpleNamespace(topic_id=self.ids[topic]))


def test_ids_are_learned_and_another_id_is_an_error() -> None:
    known: dict[str, str] = {}
    cluster = Cluster(a=FIRST, b=FIRST)
    ids = TopicIds(known, cluster)
    ids.compare(["a", "missing"])
    assert known == {"a": str(FIRST)}
    assert ids.is_known("a")
    cluster.ids["a"] = SECOND
    ids.compare(["b"])
    with pytest.raises(DataError, match=rf"topic a was deleted.*{FIRST}.*{SECOND} now.*Rebuild the replica"):
        ids.compare(["a", "b"])
    assert known == {"a": str(FIRST), "b": str(FIRST)}


def test_a_stored_id_is_compared_at_once() -> None:
    with pytest.raises(DataError, match="topic a was deleted and created again"):
        TopicIds({"a": str(FIRST)}, Cluster(a=SECOND)).compare(["a"])


def test_without_ids_nothing_is_compared() -> None:
    known: dict[str, str] = {}
    TopicIds(known, Cluster(a=NONE)).compare(["a"])
    without = TopicIds(known, None)
    without.compare(["a"])
    without.compare_sometimes(["a"])
    assert known == {}


def test_a_comparison_does_not_wait_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(topic_ids, "time", SimpleNamespace(monotonic=lambda: now))
    cluster = Cluster(a=SECOND)
    cluster.answers = False
    ids = TopicIds({"a": str(FIRST)}, cluster)
    for _ in range(3):
        ids.compare_sometimes(["a"])
        now += 5
    assert cluster.requests == 1
    cluster.answer()
    with pytest.raises(DataError, match="topic a was deleted and created again"):
        ids.compare_sometimes(["a"])


def test_ids_are_asked_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(topic_ids, "time", SimpleNamespace(monotonic=lambda: now))
    cluster = Cluster(a=FIRST)
    ids = TopicIds({}, cluster)
    for _ in range(40):
        ids.compare_sometimes(["a"])
        now += 0.25
    assert cluster.requests == 10


def test_a_server_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(topic_ids, "time", SimpleNamespace(monotonic=lambda: now))
    cluster = Cluster(a=SECOND)
    cluster.fault = KafkaError._TIMED_OUT
    ids = TopicIds({"a": str(FIRST)}, cluster)
    for _ in range(3):
        ids.compare_sometimes(["a"])
        now += 2
    assert ids.unanswered_s == 6
    assert caplog.text.count("Kafka does not answer, and nothing is read until it does: ") == 1
    cluster.fault = None
    ids.compare_sometimes(["a"])
    ids.compare_sometimes(["a"])
    with pytest.raises(DataError):
        ids.compare_sometimes(["a"])
    assert ids.unanswered_s == 0


def test_a_refused_question_is_an_error() -> None:
    cluster = Cluster(a=FIRST)
    cluster.fault = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(UnreachableError):
        TopicIds({}, cluster).compare(["a"])


def test_a_server_that_never_answers_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library's own timeout may come later than the wait for its answer."""
    for module in (topic_ids, topic_metadata):
        monkeypatch.setattr(module, "KAFKA_TIMEOUT_S", 0.01)
    cluster = Cluster(a=FIRST)
    cluster.answers = False
    with pytest.raises(UnreachableError, match="cannot reach Kafka at here:9092: no answer within"):
        TopicIds({}, cluster).compare(["a"])
    assert cluster.requests >= 1
