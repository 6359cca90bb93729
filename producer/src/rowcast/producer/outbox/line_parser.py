"""Split outbox lines into keys and row images by their bytes, without parsing the images.

A line is ``{"t":"public.orders","v":"1f3a5c7e9b0d","op":"u","k":{"id":1},"a":{"id":1,"amount":"12.50"}}``. If the
before image is known, it stands before ``a`` as ``"b":{…}``. Quotes in JSON strings are escaped, and a row's values are
never objects. Therefore the first ``,"k":{``, ``,"b":{`` and ``,"a":{`` are the members of the line itself.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias

import orjson

from rowcast.shared import row_values
from rowcast.shared.errors import DataError


class LineHead(NamedTuple):
    """Hold the common part of many lines: the table (``schema.table``), the version of its shape, and the op."""

    table: str
    version: str
    op: str


Change: TypeAlias = tuple[LineHead, bytes, bytes | None, bytes | None]
"""A split line: the head, the message key (compact JSON), the row image as the database wrote it (None: the row was
deleted), and the before image (None: not known)."""


# The fast path takes nearly all lines: a key in compact JSON of integers and of texts without escapes, and no before
# image. The texts contain no quote, so that each part ends where the expression expects the end.
_TEXT = rb'"[^"\\\x00-\x1f\x7f]*"'
_MEMBER = rb"%b:(?:%b|0|-?[1-9][0-9]{0,17})" % (_TEXT, _TEXT)
_FAST_LINE = re.compile(
    rb'(\{"t":%b,"v":%b,"op":"[cud]"),"k":(\{%b(?:,%b)*\})(?:,"a":(\{[^\n]*\}))?\}\n' % (_TEXT, _TEXT, _MEMBER, _MEMBER)
)
_COMPACT_KEY = re.compile(rb"\{%b(?:,%b)*\}" % (_MEMBER, _MEMBER))
# The matched bytes outside of the groups.
_AROUND_KEY = len(b',"k":}\n')
_AROUND_IMAGE = len(b',"a":')

_MAX_QUOTED = 120


def canonical_key(document: bytes) -> bytes:
    """Return the key as compact JSON, because the database's white space and escapes would make two keys of one.

    Raises JSONDecodeError.
    """
    return document if _COMPACT_KEY.fullmatch(document) else canonical_key_full(document)


def canonical_key_full(document: bytes) -> bytes:
    """Return the key as compact JSON: the full path of ``canonical_key``."""
    return orjson.dumps(orjson.loads(document))


class LineSplitter:
    """Split outbox rows into changes. Caches the heads of lines, because few heads differ."""

    def __init__(self) -> None:
        self._heads: dict[bytes, LineHead] = {}

    def split(self, changes: str) -> list[Change]:
        """Return the changes in one outbox row. Raises DataError with the reason if a line is damaged."""
        text = changes.encode()
        return self.split_fast(text) or self.split_full(text)

    def split_fast(self, text: bytes) -> list[Change] | None:
        """Return the changes at a third of the cost of ``split_full``.

        Return None if a line does not match the fast expression or has an uncached head.
        """
        heads = self._heads
        result: list[Change] = []
        last, head = b"", None
        size = 0
        for prefix, key, after in _FAST_LINE.findall(text):
            if prefix != last:
                last, head = prefix, heads.get(prefix)
            if head is None or (head.op == "d") is not (after == b""):
                return None
            size += len(prefix) + len(key) + len(after) + (_AROUND_KEY + _AROUND_IMAGE if after else _AROUND_KEY)
            result.append((head, key, after or None, None))
        # A smaller size means that the expression skipped text between or after the lines.
        return result if size == len(text) else None

    def split_full(self, text: bytes) -> list[Change]:
        """Return the changes of any valid lines. Raises DataError with the reason if a line is damaged."""
        lines = text.split(b"\n")
        if lines.pop() != b"" or not lines:
            raise DataError("the last line does not end with a line break")
        return [self._split_line(line) for line in lines]

    def _split_line(self, line: bytes) -> Change:
        k = line.find(b',"k":{')
        head = self._heads.get(line[:k]) or self._read_head(line, k)
        a = line.find(b',"a":{', k)
        end = len(line) - 1 if a < 0 else a
        after = None if a < 0 else line[a + 5 : -1]
        b = line.find(b',"b":{', k, end)
        before = None if b < 0 else line[b + 5 : end]
        end = end if b < 0 else b
        if line[-1:] != b"}" or line[end - 1 : end] != b"}" or not (_is_closed(after) and _is_closed(before)):
            raise DataError(f"a line is cut off{quoted_line(line)}")
        if after is None and head.op != "d":
            raise DataError(f"op {head.op!r} without a row image{quoted_line(line)}")
        if after is not None and head.op == "d":
            raise DataError(f"op {head.op!r} with a row image{quoted_line(line)}")
        try:
            key = canonical_key(line[k + 5 : end])
        except orjson.JSONDecodeError as error:
            raise DataError(f"the key is no JSON ({error}){quoted_line(line)}") from error
        if key == b"{}":
            raise DataError(f"the key is empty{quoted_line(line)}")
        return head, key, after, before

    def _read_head(self, line: bytes, k: int) -> LineHead:
        """Parse and cache the head of a line. ``k`` is the place of the key."""
        try:
            data: Any = orjson.loads(line[:k] + b"}") if k > 0 else None
            head = LineHead(data["t"], data["v"], data["op"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"not an outbox line{quoted_line(line)}") from error
        if head.op not in ("c", "u", "d") or not isinstance(head.table, str) or not isinstance(head.version, str):
            raise DataError(f"not an outbox line{quoted_line(line)}")
        self._heads[line[:k]] = head
        return head


def _is_closed(image: bytes | None) -> bool:
    return image is None or image[-1:] == b"}"


def quoted_line(line: bytes) -> str:
    """Return a colon and the beginning of a line, for the end of an error's text. Empty if values are hidden."""
    return row_values.value_suffix(line.decode(errors="replace"), _MAX_QUOTED)
