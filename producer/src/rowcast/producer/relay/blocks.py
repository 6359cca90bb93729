"""Reading the outbox's blocks (see ``outbox_blocks``): keys and images are put together, and no value is parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import orjson

from rowcast.producer.relay.lines import Change, LineHead, LineSplitter, canonical_key, shown
from rowcast.shared.errors import DataError

# None is an array or an object.
_VALUE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[-+.0-9eE]+|null|true|false')

# A moment of a year of four digits with its microseconds, as nearly all are; one before Christ has `BC` behind them.
_USUAL_LENGTH = len('"2026-11-22T10:46:19.467668"')
_POINT = len('"2026-11-22T10:46:19')
_SECONDS = re.compile(rb'"([^". ]+)(?:\.(\d+))?( BC)?"')


class ChangeSplitter:
    """Splits what the outbox has, lines or a block."""

    def __init__(self) -> None:
        self._lines = LineSplitter()

    def split(self, changes: str) -> list[Change]:
        """An outbox row's changes. Raises DataError with the reason if it is damaged."""
        return _split_block(changes.encode()) if changes.startswith('{"rows":') else self._lines.split(changes)


def _split_block(text: bytes) -> list[Change]:
    first, *lines = text.split(b"\n")
    if not lines or lines.pop() != b"":
        raise DataError("the last line does not end with a line break")
    try:
        header: Any = orjson.loads(first)
        head = LineHead(header["t"], header["v"], header["op"])
        rows, key, names, moments = header["rows"], header["k"], header["a"], set(header["utc"])
        if head.op not in ("c", "u") or not key or len(lines) != len(names):
            raise ValueError
        if not isinstance(head.table, str) or not isinstance(head.version, str):
            raise TypeError
        columns = {name: _values(line, rows, moment=name in moments) for name, line in zip(names, lines, strict=True)}
        keys = map(canonical_key, _objects(key, columns))
        return list(zip(repeat(head), keys, _objects(names, columns), repeat(None)))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a block of the outbox: {shown(first)}") from error


def _objects(names: Sequence[str], columns: dict[str, Sequence[bytes]]) -> Iterable[bytes]:
    """Each row's JSON object of these columns."""
    template = b"{%b}" % b",".join(b"%b:%%b" % orjson.dumps(name).replace(b"%", b"%%") for name in names)
    return map(template.__mod__, zip(*(columns[name] for name in names), strict=True))


def _values(line: bytes, rows: int, *, moment: bool) -> Sequence[bytes]:
    """An array's elements as they are written. Raises ValueError unless they are so many."""
    values = _VALUE.findall(line)
    if len(values) != rows or b"[%b]" % b",".join(values) != line:
        raise ValueError
    return [_with_zone(value) for value in values] if moment else values


def _with_zone(moment: bytes) -> bytes:
    """As row images have it: in UTC, with all six digits of a second's fraction; infinities are left as they are."""
    if len(moment) == _USUAL_LENGTH and moment[_POINT] == ord(".") and moment[-2] != ord("C"):
        return moment[:-1] + b'Z"'
    if (seconds := _SECONDS.fullmatch(moment)) is None or b":" not in moment:
        return moment
    whole, fraction, before_christ = seconds.groups(b"")
    if before_christ:
        return b'"%b%b+00 BC"' % (whole, b"." + fraction if fraction else b"")
    return b'"%b.%bZ"' % (whole, fraction.ljust(6, b"0"))
