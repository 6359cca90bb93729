"""An idle relay asks Kafka for the brokers, one question at a time, and knows since when Kafka has not answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka import idle_contact as module
from rowcast.producer.relay.kafka.idle_contact import IdleContact


class FakeKafka:
    """Answer the questions of a contact. ``answer``: cleared while Kafka holds the answer back."""

    def __init__(self) -> None:
        self.questions = 0
        self.is_away = False
        self.answer = threading.Event()
        self.answer.set()

    def ask(self, timeout: float) -> None:
        self.questions += 1
        assert self.answer.wait(30)
        if self.is_away:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def contact(kafka: FakeKafka, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> IdleContact:
    monkeypatch.setattr(module, "_EVERY_S", 0.0)
    return IdleContact(executor, kafka.ask)


def ask(contact: IdleContact, executor: ThreadPoolExecutor) -> None:
    contact.ask_if_due()
    executor.submit(lambda: None).result(30)


def test_an_answer_leaves_nothing_unanswered(
    contact: IdleContact, kafka: FakeKafka, executor: ThreadPoolExecutor
) -> None:
    for n in (1, 2):
        ask(contact, executor)
        assert (kafka.questions, contact.unanswered_since) == (n, None)


def test_kafka_is_not_asked_soon_after_an_answer(
    contact: IdleContact, kafka: FakeKafka, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 3_600.0)
    ask(contact, executor)
    assert (kafka.questions, contact.unanswered_since) == (0, None)


def test_the_silence_begins_with_the_first_unanswered_question_and_ends_with_an_answer(
    contact: IdleContact, kafka: FakeKafka, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.is_away = True
    ask(contact, executor)
    since = contact.unanswered_since
    assert since is not None
    # Without an answer the contact asks again at once.
    monkeypatch.setattr(module, "_EVERY_S", 3_600.0)
    ask(contact, executor)
    assert (kafka.questions, contact.unanswered_since) == (2, since)
    kafka.is_away = False
    ask(contact, executor)
    assert (kafka.questions, contact.unanswered_since) == (3, None)


def test_there_is_one_question_at_a_time(contact: IdleContact, kafka: FakeKafka, executor: ThreadPoolExecutor) -> None:
    kafka.answer.clear()
    contact.ask_if_due()
    contact.ask_if_due()
    assert contact.unanswered_since
    kafka.answer.set()
    executor.submit(lambda: None).result(30)
    assert kafka.questions == 1
