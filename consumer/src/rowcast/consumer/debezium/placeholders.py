"""Recognize the values left out by Debezium, because PostgreSQL's log has no unchanged large values."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from typing import Any


class Placeholders:
    """Know the placeholder in the form of each column type. ``text``: the connector's setting."""

    def __init__(self, text: str) -> None:
        data = text.encode()
        encoded = base64.b64encode(data).decode()
        self._texts = frozenset((text, encoded, base64.urlsafe_b64encode(data).decode(), data.hex()))
        self._texts |= {f'{{"{text}":"{text}"}}'}
        identity = str(uuid.UUID(bytes=hashlib.md5(data, usedforsecurity=False).digest(), version=3))
        self._others: tuple[Any, ...] = ([text], [encoded], list(data), [identity], {text: text})

    def left_out(self, row: Mapping[str, Any]) -> list[str]:
        """Return the columns with values left out of the event."""
        return [
            name
            for name, value in row.items()
            if (value in self._texts if isinstance(value, str) else isinstance(value, list | dict) and self._is(value))
        ]

    def _is(self, value: Any) -> bool:
        return value in self._others
