"""Splitting outbox lines by bytes alone: row images are never parsed.

A line is ``{"t":"public.orders","v":"1f3a5c7e9b0d","op":"u","k":{"id":1},"a":{"id":1,"amount":"12.50"}}``, with
``"b":{…}``, the old row, before ``a`` if it is known. Quotes inside a JSON string are escaped and a row's values are
never objects, so ``,"k":{``, ``,"b":{`` and ``,"a":{`` occur first where they are meant.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias

import orjson

from rowcast.shared.errors import DataError


class LineHead(NamedTuple):
    """What many lines have in common: the table (``schema.table``), its shape's version, and the op."""

    table: str
    version: str
    op: str


Change: TypeAlias = tuple[LineHead, bytes, bytes | None, bytes | None]
"""A line split: its head, the message key (compact JSON), the row image as the database wrote it (None: deleted), and
that of the old row (None: not known)."""


# Nearly all lines: a key that is compact JSON already, of texts that need no escapes and of integers, and no old row.
# What is within quotes here holds no quote, so each part ends where it is looked for.
_TEXT = rb'"[^"\\\x00-\x1f\x7f]*"'
_MEMBER = rb"%b:(?:%b|0|-?[1-9][0-9]{0,17})" % (_TEXT, _TEXT)
_PLAIN = re.compile(
    rb'(\{"t":%b,"v":%b,"op":"[cud]"),"k":(\{%b(?:,%b)*\})(?:,"a":(\{[^\n]*\}))?\}\n' % (_TEXT, _TEXT, _MEMBER, _MEMBER)
)
_PLAIN_KEY = re.compile(rb"\{%b(?:,%b)*\}" % (_MEMBER, _MEMBER))
# What the expression matches outside its groups.
_AROUND = len(b',"k":}\n')
_BEFORE_AFTER = len(b',"a":')


def canonical_key(document: bytes) -> bytes:
    """As compact JSON: the database's white space and escapes must not make two keys of one. Raises JSONDecodeError."""
    return document if _PLAIN_KEY.fullmatch(document) else orjson.dumps(orjson.loads(document))


class LineSplitter:
    """Remembers the heads it has seen: there are few."""

    def __init__(self) -> None:
        self._heads: dict[bytes, LineHead] = {}

    def split(self, changes: str) -> list[Change]:
        """An outbox row's lines. Raises DataError with the reason if one is damaged."""
        text = changes.encode()
        return self._plain(text) or self._any(text)

    def _plain(self, text: bytes) -> list[Change] | None:
        """All lines at a third of the cost, if all are such; else None."""
        heads = self._heads
        result: list[Change] = []
        last, head = b"", None
        size = 0
        for prefix, key, after in _PLAIN.findall(text):
            if prefix != last:
                last, head = prefix, heads.get(prefix)
            if head is None or (head.op == "d") is not (after == b""):
                return None
            size += len(prefix) + len(key) + len(after) + (_AROUND + _BEFORE_AFTER if after else _AROUND)
            result.append((head, key, after or None, None))
        # Otherwise there is something between the lines, or behind them.
        return result if size == len(text) else None

    def _any(self, text: bytes) -> list[Change]:
        lines = text.split(b"\n")
        if lines.pop() != b"" or not lines:
            raise DataError("the last line does not end with a line break")
        heads = self._heads
        result: list[Change] = []
        for line in lines:
            k = line.find(b',"k":{')
            head = heads.get(line[:k]) or self._new_head(line, k)
            a = line.find(b',"a":{', k)
            end = len(line) - 1 if a < 0 else a
            after = None if a < 0 else line[a + 5 : -1]
            b = line.find(b',"b":{', k, end)
            before = None if b < 0 else line[b + 5 : end]
            end = end if b < 0 else b
            if line[-1:] != b"}" or line[end - 1 : end] != b"}" or not (_ends(after) and _ends(before)):
                raise DataError(f"a line is cut off: {shown(line)}")
            if (after is None) is not (head.op == "d"):
                raise DataError(f"op {head.op!r} {'without' if after is None else 'with'} a row image: {shown(line)}")
            try:
                key = canonical_key(line[k + 5 : end])
            except orjson.JSONDecodeError as error:
                raise DataError(f"the key is no JSON ({error}): {shown(line)}") from error
            if key == b"{}":
                raise DataError(f"the key is empty: {shown(line)}")
            result.append((head, key, after, before))
        return result

    def _new_head(self, line: bytes, k: int) -> LineHead:
        try:
            data: Any = orjson.loads(line[:k] + b"}") if k > 0 else None
            head = LineHead(data["t"], data["v"], data["op"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"not an outbox line: {shown(line)}") from error
        if head.op not in ("c", "u", "d") or not isinstance(head.table, str) or not isinstance(head.version, str):
            raise DataError(f"not an outbox line: {shown(line)}")
        self._heads[line[:k]] = head
        return head


def _ends(image: bytes | None) -> bool:
    return image is None or image[-1:] == b"}"


def shown(line: bytes) -> str:
    """For an error's text."""
    text = line.decode(errors="replace")
    return repr(text if len(text) <= 120 else text[:117] + "...")
