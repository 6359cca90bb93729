"""Listeners that are added to a class of sessions reach the sessions that exist already.

Without such sessions, nothing is searched.
"""

from __future__ import annotations

import gc
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy.orm import Session, sessionmaker

from rowcast.producer.database.live_listeners import listen_to_class, remove_from_class


@pytest.mark.parametrize("has_instance", [False, True])
def test_only_a_class_with_instances_is_searched_for_references(has_instance: bool) -> None:
    sessions = sessionmaker()
    session_class: type[Session] = sessions.class_
    instances = [sessions()] if has_instance else []
    for session in instances:
        assert not session.dispatch.after_begin
    called: list[Any] = []
    note = called.append
    with patch("gc.get_referrers", side_effect=gc.get_referrers) as search:
        listen_to_class(session_class, "after_begin", note)
    assert search.called is has_instance
    for session in [*instances, sessions()]:
        session.dispatch.after_begin(session)
        assert called.pop() is session
    remove_from_class(session_class, "after_begin", note)


def test_instances_that_the_application_has_frozen_call_later_listeners() -> None:
    sessions = sessionmaker()
    session_class: type[Session] = sessions.class_
    session = sessions()
    assert not session.dispatch.after_begin
    called: list[Any] = []
    note = called.append
    gc.freeze()
    listen_to_class(session_class, "after_begin", note)
    assert gc.get_freeze_count() > 0
    session.dispatch.after_begin(session)
    assert called == [session]
    remove_from_class(session_class, "after_begin", note)
