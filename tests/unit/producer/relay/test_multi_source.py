"""The relay of one source among several knows why it is not at work."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from rowcast.producer.relay.multi_source import _Source
from rowcast.producer.relay.progress import RelayProgress
from rowcast.shared.cli.exit_codes import Failure
from rowcast.shared.config.settings import Settings


def test_a_failure_stays_if_the_relay_is_asked_to_stop_while_it_tries_again() -> None:
    stop, failure = threading.Event(), Failure("the outbox is damaged", 1)
    settings = Settings(source="shop", kafka={"bootstrap.servers": "127.0.0.1:1"}, primary={"url": "sqlite://"})
    source = _Source(settings, sa.create_engine("sqlite://"), False, stop, lambda _: None)
    leading = RelayProgress("shop", state="leading")
    source.work.failure = failure
    stop.set()
    source._moved(leading)
    assert source.work.failure is failure
    stop.clear()
    source._moved(leading)
    assert source.work.failure is None
