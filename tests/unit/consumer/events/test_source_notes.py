"""The notes of the schema topic: the timeline of the source, and the tables that lack rows."""

from __future__ import annotations

import pytest

from rowcast.consumer.events.source_notes import ShapeNotes, SourceNotes, other_timeline, parse_notes
from rowcast.shared.errors import DataError


def test_a_message_of_an_earlier_version_has_no_notes() -> None:
    assert parse_notes(b'{"schema":"public","name":"a","lsn":3}') == ShapeNotes()


@pytest.mark.parametrize("members", ['"timeline":"2"', '"timeline":-1', '"timeline_lsn":1e3', '"snapshot":"done"'])
def test_a_note_of_another_form_is_refused(members: str) -> None:
    with pytest.raises(DataError, match="not a table's shape"):
        parse_notes(b"{%b}" % members.encode())


def test_the_latest_note_of_a_table_counts() -> None:
    notes = SourceNotes()
    notes.add("a", ShapeNotes(snapshot="pending"), 3, wanted=True)
    notes.add("b", ShapeNotes(snapshot="pending"), 4, wanted=False)
    assert notes.tables_lacking_rows() == ["a"]
    notes.add("a", ShapeNotes(), 5, wanted=True)
    # A part of the topic may be read twice.
    notes.add("a", ShapeNotes(snapshot="pending"), 3, wanted=True)
    assert notes.tables_lacking_rows() == []


def test_a_table_of_an_earlier_timeline_is_not_present() -> None:
    notes = SourceNotes()
    notes.add("lost", ShapeNotes(snapshot="pending"), 1, wanted=True)
    notes.add("a", ShapeNotes(timeline=2, timeline_lsn=50), 2, wanted=True)
    notes.add("unwanted", ShapeNotes(timeline=3, timeline_lsn=90), 3, wanted=False)
    assert (notes.timeline, notes.first_lsn) == (3, 90)
    assert not notes.is_present("lost")
    assert not notes.is_present("a")
    assert notes.is_present("new")
    assert notes.tables_lacking_rows() == []


def test_the_error_about_timelines_names_both_and_the_next_step() -> None:
    assert "timeline 2, and the replica on timeline 1" in str(other_timeline(1, 2))
    assert "rowcast rebuild REPLICA" in str(other_timeline(1, 2))
