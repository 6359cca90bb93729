"""Split the blocks of the outbox into keys and row images, without parsing a value. See ``block_writer``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import orjson

from rowcast.producer.outbox.line_parser import Change, LineHead, LineSplitter, canonical_key, quoted_line
from rowcast.shared.errors import DataError

# A block has no column with arrays or objects.
_VALUE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[-+.0-9eE]+|null|true|false')

# The fast path takes moments with a year of four digits and all six digits of microseconds. Nearly all are such. Years
# before Christ have ``BC`` at the end.
_USUAL_LENGTH = len('"2026-11-22T10:46:19.467668"')
_POINT = len('"2026-11-22T10:46:19')
_SECONDS = re.compile(rb'"([^". ]+)(?:\.(\d+))?( BC)?"')


class ChangeSplitter:
    """Split outbox rows of lines or blocks into changes."""

    def __init__(self) -> None:
        self._lines = LineSplitter()

    def split(self, changes: str) -> list[Change]:
        """Return the changes in one outbox row. Raises DataError with the reason if the row is damaged."""
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
        raise DataError(f"not a block of the outbox{quoted_line(first)}") from error


def _objects(names: Sequence[str], columns: dict[str, Sequence[bytes]]) -> Iterable[bytes]:
    """Yield a JSON object of these columns for each row."""
    template = b"{%b}" % b",".join(b"%b:%%b" % orjson.dumps(name).replace(b"%", b"%%") for name in names)
    return map(template.__mod__, zip(*(columns[name] for name in names), strict=True))


def _values(line: bytes, rows: int, *, moment: bool) -> Sequence[bytes]:
    """Return the elements of a JSON array unchanged. Raises ValueError unless their number is ``rows``."""
    values = _VALUE.findall(line)
    if len(values) != rows or b"[%b]" % b",".join(values) != line:
        raise ValueError
    return [with_zone(value) for value in values] if moment else values


def with_zone(moment: bytes) -> bytes:
    """Return a moment in the form of row images: in UTC, with six digits of a second's fraction.

    Infinity and NULL stay unchanged.
    """
    if len(moment) == _USUAL_LENGTH and moment[_POINT] == ord(".") and moment[-2] != ord("C"):
        return moment[:-1] + b'Z"'
    return with_zone_full(moment)


def with_zone_full(moment: bytes) -> bytes:
    """Return a moment in the form of row images: the full path of ``with_zone``."""
    if (seconds := _SECONDS.fullmatch(moment)) is None or b":" not in moment:
        return moment
    whole, fraction, before_christ = seconds.groups(b"")
    if before_christ:
        return b'"%b%b+00 BC"' % (whole, b"." + fraction if fraction else b"")
    return b'"%b.%bZ"' % (whole, fraction.ljust(6, b"0"))
