"""Letters are tried in order, then together, and chosen by their ids, transactions and events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rowcast.consumer.dead_letters.letters import Letter, chosen, to_letters
from rowcast.consumer.dead_letters.retry import retry
from rowcast.consumer.events.dead_letter import LetterEvent, RowKey, SetAside
from rowcast.shared.errors import ConfigurationError, DataError


def event(letter: str, lsn: int, row: RowKey | None, *, is_cause: bool = True) -> LetterEvent:
    table, key = row or (None, None)
    place = ("shop.public.item", 0)
    aside = SetAside(letter, place, lsn, lsn, letter, table, key, "refused", "", "TASK_PUT", is_cause=is_cause)
    return LetterEvent(aside, ("shop.copy.dlq", 0), lsn, 1)


def letters(*rows: RowKey | None) -> list[Letter]:
    """Return a letter for each row, with the ids a, b, c."""
    return to_letters([event("abcdef"[place], place + 1, row) for place, row in enumerate(rows)])


class Settled:
    """Refuse letters, and groups of letters, by the ids of their members."""

    def __init__(self, *refused: str) -> None:
        self._refused = set(refused)
        self.tried: list[str] = []

    def __call__(self, group: Sequence[Letter]) -> None:
        name = "".join(letter.id for letter in group)
        self.tried.append(name)
        if name in self._refused:
            raise DataError(f"{name} is refused")


ONE, TWO = ("item", b"1"), ("item", b"2")
ALL = ("item", b"")


def test_a_letter_waits_for_an_earlier_letter_of_its_row() -> None:
    waiting = letters(ONE, TWO, ONE)
    settle = Settled("a", "ac")
    result = retry(waiting, waiting, settle)
    assert [letter.id for letter in result.settled] == ["b"]
    assert [(letter.id, reason) for letter, reason in result.left] == [
        ("a", "a is refused"),
        ("c", "it follows letter a, which comes first"),
    ]
    assert settle.tried[:3] == ["a", "b", "ac"]


def test_letters_of_a_row_are_tried_together() -> None:
    waiting = letters(ONE, TWO, ONE)
    result = retry(waiting, waiting, Settled("a"))
    assert sorted(letter.id for letter in result.settled) == ["a", "b", "c"]
    assert result.left == []


def test_all_rows_of_a_truncated_table_are_one() -> None:
    waiting = letters(ONE, ALL, TWO)
    settle = Settled("a", "abc")
    assert [letter.id for letter, _ in retry(waiting, waiting, settle).left] == ["a", "b", "c"]
    assert "b" not in settle.tried
    assert "c" not in settle.tried


def test_only_wanted_letters_are_tried() -> None:
    waiting = letters(ONE, TWO, ONE)
    settle = Settled()
    [(left, reason)] = retry(waiting, [waiting[1], waiting[2]], settle).left
    assert (left.id, reason) == ("c", "it follows letter a, which comes first")
    assert settle.tried == ["b"]


def test_a_letter_has_several_names() -> None:
    waiting = to_letters([event("a", 1, ONE), event("a", 2, TWO), event("b", 3, None)])
    assert [letter.id for letter in chosen(waiting, ["shop.public.item:0:2"])] == ["a"]
    assert chosen(waiting, []) == waiting
    assert waiting[1].rows == set()
    with pytest.raises(ConfigurationError, match=r"no letter 'c' waits \(waiting: a, b\)"):
        chosen(waiting, ["a", "c"])
