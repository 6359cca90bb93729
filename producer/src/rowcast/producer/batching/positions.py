"""Keep the positions of named batches, in the transaction of each batch."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from datetime import time as clock
from decimal import Decimal
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from rowcast.producer.batching.keyset import Key
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.errors import ConfigurationError, RetriableError

_TABLE = outbox_tables(sa.MetaData()).batch

# A datetime is a date too, so the datetime comes first.
_TEXT_FORMS: dict[str, tuple[type, Any]] = {
    "uuid": (uuid.UUID, uuid.UUID),
    "decimal": (Decimal, Decimal),
    "datetime": (datetime, datetime.fromisoformat),
    "date": (date, date.fromisoformat),
    "time": (clock, clock.fromisoformat),
    "bytes": (bytes, bytes.fromhex),
}


class NamedPosition:
    """How far the batches of a name have come. ``bind``: SQLAlchemy's bind arguments for the session."""

    def __init__(self, name: str, bind: dict[str, Any]) -> None:
        self._name = name
        self._bind = bind
        self._batches = 0
        self.rows = 0

    def read(self, session: Session) -> Key | None:
        """Return the last key of the last committed batch, or None to begin with the first row.

        Commit the session for a new name, because a rollback of the first batch would remove the name. Raise
        RetriableError if another process begins with the name at the same time.
        """
        row = _TABLE.c
        statement = sa.select(row.last_key, row.batches, row.rows_done).where(row.name == self._name)
        found = session.execute(statement, bind_arguments=self._bind).one_or_none()
        if found is None:
            values = {"name": self._name, "batches": 0, "rows_done": 0, "changed_ms": self._now(session)}
            try:
                session.execute(sa.insert(_TABLE).values(values), bind_arguments=self._bind)
                session.commit()
            except IntegrityError as error:
                session.rollback()
                raise self._other_process() from error
            return None
        text, self._batches, self.rows = found
        return None if text is None else parse_key(text)

    def write(self, session: Session, key: Key, rows: int) -> None:
        """Record a batch of ``rows`` rows up to ``key``. The caller commits.

        Raise RetriableError if another process has recorded a batch of this name meanwhile.
        """
        row = _TABLE.c
        statement = (
            sa.update(_TABLE)
            .where(row.name == self._name, row.batches == self._batches)
            .values(
                last_key=key_text(key),
                batches=self._batches + 1,
                rows_done=row.rows_done + rows,
                changed_ms=self._now(session),
            )
        )
        self._require_own(session, statement)
        self._batches += 1
        self.rows += rows

    def forget(self, session: Session) -> None:
        """Delete the position, because no row is left. The caller commits. Raise as ``write``."""
        row = _TABLE.c
        self._require_own(session, sa.delete(_TABLE).where(row.name == self._name, row.batches == self._batches))

    def _require_own(self, session: Session, statement: sa.Update | sa.Delete) -> None:
        changed: Any = session.execute(statement, bind_arguments=self._bind)
        if changed.rowcount != 1:
            session.rollback()
            raise self._other_process()

    def _other_process(self) -> RetriableError:
        return RetriableError(
            f"another process runs the batches named {self._name!r}. This batch is rolled back. Let the other process "
            "go on, or give these batches another name."
        )

    def _now(self, session: Session) -> sa.ColumnElement[Any]:
        return capture_dialect(session.connection(bind_arguments=self._bind).dialect).now_ms()


def key_text(key: Key) -> str:
    """Return a key as JSON. ``parse_key`` is the inverse. Raise ConfigurationError for a type without a form."""
    return orjson.dumps([_stored(value) for value in key]).decode()


def parse_key(text: str) -> Key:
    """Return the key of a text from ``key_text``."""
    return tuple(_restored(value) for value in orjson.loads(text))


def _stored(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    for name, (type_, _) in _TEXT_FORMS.items():
        if isinstance(value, type_):
            return {name: value.hex() if isinstance(value, bytes) else _text(value)}
    raise ConfigurationError(
        f"a key of type {type(value).__name__} cannot be kept, so these batches cannot have a name. Leave out name=."
    )


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | clock) else str(value)


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((name, text),) = value.items()
    return _TEXT_FORMS[name][1](text)
