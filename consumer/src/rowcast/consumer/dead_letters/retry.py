"""Apply letters in order, and find out which are still refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

from rowcast.consumer.dead_letters.letters import Letter
from rowcast.consumer.events.dead_letter import RowKey, RowMap
from rowcast.shared.errors import DataError

Settle = Callable[[Sequence[Letter]], None]
"""Apply letters in one transaction of the replica and remove their records, or raise DataError."""


@dataclass(frozen=True, slots=True)
class Result:
    """The settled letters, and the remaining letters with the reasons."""

    settled: Sequence[Letter]
    left: Sequence[tuple[Letter, str]]


def retry(letters: Sequence[Letter], wanted: Sequence[Letter], settle: Settle) -> Result:
    """Settle the wanted letters. ``letters``: all letters of the replica, in order.

    A letter after an unsettled letter of the same row is not tried by itself. Afterwards, the remaining letters with
    common rows are tried together: a later event may correct the value of an earlier event, and only the last event of
    a row is written then. All letters are tried again after each success, because a letter may refer to another
    letter's row.
    """
    reasons: dict[str, str] = {}
    wanted_ids = {letter.id for letter in wanted}
    settled: dict[str, Letter] = {}
    rest = list(letters)
    while True:
        before = len(settled)
        settled |= {letter.id: letter for letter in _settle_alone(rest, wanted_ids, settle, reasons)}
        rest = [letter for letter in rest if letter.id not in settled]
        settled |= {letter.id: letter for letter in _settle_together(rest, wanted_ids, settle)}
        rest = [letter for letter in rest if letter.id not in settled]
        if len(settled) == before:
            left = [(letter, reasons[letter.id]) for letter in rest if letter.id in wanted_ids]
            return Result(list(settled.values()), left)


def _settle_alone(
    letters: Sequence[Letter], wanted: Set[str], settle: Settle, reasons: dict[str, str]
) -> Iterator[Letter]:
    blocked = RowMap[Letter]()
    for letter in letters:
        earlier = next(filter(None, map(blocked.find, letter.rows)), None)
        if letter.id in wanted and earlier is None:
            try:
                settle([letter])
            except DataError as error:
                reasons[letter.id] = str(error)
            else:
                yield letter
                continue
        elif earlier is not None:
            reasons[letter.id] = f"it follows letter {earlier.id}, which comes first"
        for row in letter.rows:
            blocked.add(row, letter)


def _settle_together(letters: Sequence[Letter], wanted: Set[str], settle: Settle) -> Iterator[Letter]:
    for group in _groups(letters):
        if len(group) > 1 and all(letter.id in wanted for letter in group):
            try:
                settle(group)
            except DataError:
                continue
            yield from group


def _groups(letters: Sequence[Letter]) -> list[list[Letter]]:
    """Return the letters in groups without common rows."""
    emptied = {table for letter in letters for table, key in letter.rows if not key}
    groups: list[tuple[set[RowKey], list[Letter]]] = []
    for letter in letters:
        rows, members = {(table, b"" if table in emptied else key) for table, key in letter.rows}, [letter]
        apart = []
        for known_rows, known in groups:
            if known_rows & rows:
                rows |= known_rows
                members = [*known, *members]
            else:
                apart.append((known_rows, known))
        groups = [*apart, (rows, members)]
    return [sorted(members, key=lambda letter: letter.lsn) for _, members in groups]
