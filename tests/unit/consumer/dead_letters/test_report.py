"""Letters are listed without values, and shown with the original bytes."""

from __future__ import annotations

import orjson
import pytest

from rowcast.consumer.dead_letters.letters import Letter
from rowcast.consumer.dead_letters.report import report_letters, report_messages
from rowcast.consumer.events.dead_letter import LetterEvent, SetAside
from support.memory_topics import Message

EVENT = SetAside(
    "751", ("shop.public.item", 0), 7, 12, "751", "public.item", b'{"id":4711}', "the value is too long", "x.DataError",
    "TASK_PUT", is_cause=True,
)  # fmt: skip
STORED = LetterEvent(EVENT, ("shop.copy.dlq", 0), 3, 1_000)
LETTER = Letter("751", [STORED])
MESSAGE = Message("shop.copy.dlq", 0, 3, b'{"id":4711}', b"\xff\x00", 1, [("own", b"1")])


def test_a_list_has_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_letters([LETTER], as_json=False) == 1
    text = capsys.readouterr().out
    assert "751 refused since 1970-01-01 00:00:01 UTC, 1 events of public.item\n    the value is too long" in text
    assert report_letters([LETTER], as_json=True) == 1
    [document] = orjson.loads(capsys.readouterr().out)
    assert (document["id"], document["reason"], document["follows"]) == ("751", "the value is too long", False)
    assert document["events"][0]["dlq_offset"] == 3
    assert "4711" not in text + str(document)
    assert report_letters([], as_json=False) == 0


def test_a_letter_is_shown_with_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    report_messages([LETTER], {STORED: MESSAGE}, as_json=True)
    [document] = orjson.loads(capsys.readouterr().out)
    expected = {"key": '{"id":4711}', "value": "base64:/wA=", "headers": {"own": "1"}}
    assert document["events"][0]["message"] == expected
    report_messages([LETTER], {}, as_json=False)
    assert "not in the dead letter topic any more" in capsys.readouterr().out
