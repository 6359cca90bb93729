"""Record the statements that an engine or a connection sends to the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection


@contextmanager
def sent_statements(target: sa.Engine | Connection) -> Iterator[list[str]]:
    """Yield a list to which each statement of the block adds its SQL text."""
    sent: list[str] = []

    def note(_connection: Connection, _cursor: Any, sql: str, *_: Any) -> None:
        sent.append(sql)

    sa.event.listen(target, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(target, "before_cursor_execute", note)
