"""Compare the ids of the topics with the topic ids of the replica's positions.

A topic deleted and created again keeps the name and has another id. Offsets mean nothing in the new topic: a reader
would go on in the middle, and skip everything before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from rowcast.consumer.events.rebuild_hint import REBUILD_WITH_SNAPSHOT
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, retry_transient
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.client_errors import reason_of

_log = logging.getLogger("rowcast.worker")

# An id is 16 bytes of zeros if the broker has no ids.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
_COMPARISON_S = 1.0


class AskTopicIds(Protocol):
    """Ask for the ids of topics. ``start`` does not wait for the answer. ``brokers``: for messages."""

    brokers: str

    def start(self, topics: Collection[str]) -> Mapping[str, Future[Any]]:
        """Return the future description of each topic."""


class KafkaTopicIds:
    """Ask a Kafka cluster for the ids of topics. ``admin``: from ``new_admin``."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self.brokers: str = admin.brokers

    def start(self, topics: Collection[str]) -> Mapping[str, Future[Any]]:
        """Return the future description of each topic."""
        from confluent_kafka import TopicCollection

        found: Mapping[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection(list(topics)), request_timeout=KAFKA_TIMEOUT_S
        )
        return found


class TopicIds:
    """Know the id of each topic, and notice a topic created again.

    ``known``: the ids stored with the replica's positions. Ids of new topics are added when first seen, and the replica
    stores all ids with the positions. ``ask``: None for a Kafka without ids. Nothing is compared then.
    """

    def __init__(self, known: dict[str, str], ask: AskTopicIds | None) -> None:
        self._known = known
        self._ask = ask
        self._asked: Mapping[str, Future[Any]] = {}
        self._next_comparison = 0.0
        self._answered_at = time.monotonic()
        self._silence_is_logged = False

    @property
    def unanswered_s(self) -> float:
        """Return for how long Kafka has not answered. 0 for a Kafka without ids, which is not asked."""
        return 0.0 if self._ask is None else time.monotonic() - self._answered_at

    def compare(self, topics: Collection[str]) -> None:
        """Ask for the ids of topics, and wait for the answer.

        A topic that does not exist has no id. Raise DataError if a topic has another id than before. Raise
        UnreachableError if Kafka does not answer.
        """
        ask = self._ask
        if ask is None or not topics:
            return
        self._include(retry_transient(ask, lambda: _ids(ask.start(topics))))

    def compare_sometimes(self, topics: Collection[str]) -> None:
        """Compare the ids once a second without waiting. Raise DataError if a topic has another id than before.

        While Kafka does not answer, no messages of another topic arrive either, and the comparison is repeated later.
        """
        from confluent_kafka import KafkaException

        if self._ask is None:
            return
        if self._asked and all(future.done() for future in self._asked.values()):
            asked, self._asked = self._asked, {}
            try:
                ids = _ids(asked)
            except KafkaException as error:
                self._log_silence(error)
                return
            self._note_answer()
            self._include(ids)
        now = time.monotonic()
        if not self._asked and topics and now >= self._next_comparison:
            self._next_comparison = now + _COMPARISON_S
            self._asked = self._ask.start(topics)

    def _log_silence(self, error: Exception) -> None:
        if not self._silence_is_logged:
            _log.warning("Kafka does not answer, and nothing is read until it does: %s", reason_of(error))
            self._silence_is_logged = True

    def _note_answer(self) -> None:
        self._answered_at = time.monotonic()
        if self._silence_is_logged:
            _log.info("Kafka answers again")
            self._silence_is_logged = False

    def is_known(self, topic: str) -> bool:
        """Return whether the topic's id is known."""
        return topic in self._known

    def _include(self, ids: Mapping[str, str]) -> None:
        for topic, id_ in ids.items():
            before = self._known.setdefault(topic, id_)
            if before != id_:
                raise DataError(
                    f"topic {topic} was deleted and created again: the replica's positions belong to the topic with "
                    f"the id {before}, and the topic has the id {id_} now. {REBUILD_WITH_SNAPSHOT}"
                )


def _ids(descriptions: Mapping[str, Future[Any]]) -> dict[str, str]:
    """Return the ids of the topics that exist. Raise KafkaException."""
    from confluent_kafka import KafkaException

    ids = {}
    for topic, future in descriptions.items():
        try:
            id_ = str(future.result(KAFKA_TIMEOUT_S).topic_id)
        except KafkaException as error:
            if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                raise
        else:
            if id_ != _NO_ID:
                ids[topic] = id_
    return ids
