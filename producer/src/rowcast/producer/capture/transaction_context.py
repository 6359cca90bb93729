"""Collect the context of a transaction: values given by the application, and the active trace.

The context is collected when the transaction's changes are written to the outbox, and stored there as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import orjson

from rowcast.producer.outbox.context_parser import TRACE
from rowcast.shared.errors import ConfigurationError

try:
    from opentelemetry.context import get_current
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _inject: Callable[[dict[str, str]], None] | None = None
else:
    _inject = TraceContextTextMapPropagator().inject

RESERVED = "rowcast."
"""The prefix of rowcast's own keys. The application's keys must not begin with it."""

MAX_BYTES = 4_096
"""The greatest size of the application's values as JSON. It is small, because every event carries them."""

Values = Mapping[str, Any]


class TransactionContext:
    """Collect the values of ``given`` in the current thread or task, and the values returned by ``ask``.

    Where both have a key, the value of ``given`` counts.
    """

    def __init__(self, ask: Callable[[], Values | None] | None = None) -> None:
        self._ask = ask
        self._given: ContextVar[Values | None] = ContextVar("rowcast_context", default=None)

    @contextmanager
    def given(self, values: Values) -> Iterator[None]:
        """Give values for the length of the block, in addition to those of an outer block.

        Raises ConfigurationError if the values cannot be written as JSON or are too large.
        """
        merged = {**(self._given.get() or {}), **values}
        _to_json(merged)
        token = self._given.set(merged)
        try:
            yield
        finally:
            self._given.reset(token)

    def document(self) -> str | None:
        """Return the context as JSON for the outbox, or None if the context is empty. Raises what ``ask`` raises."""
        values = self._given.get()
        if self._ask is not None and (asked := self._ask()):
            values = {**asked, **(values or {})}
        trace: dict[str, str] = {}
        # Without a span the context is usually empty, and then nothing is to be found out.
        if _inject is not None and get_current():
            _inject(trace)
        if not values and not trace:
            return None
        text = _to_json(values or {})
        return orjson.dumps({TRACE: trace, **orjson.loads(text)}).decode() if trace else text.decode()


def _to_json(values: Values) -> bytes:
    for key, value in values.items():
        if not isinstance(key, str) or key.startswith(RESERVED):
            raise ConfigurationError(
                f"the context's key {key!r} cannot be used: a key must be a string that does not begin with "
                f"{RESERVED!r}. Choose another key."
            )
        try:
            orjson.dumps(value)
        except TypeError as error:
            raise ConfigurationError(
                f"the context's {key!r} cannot be written as JSON ({error}). Give a string, a number, or lists and "
                "dictionaries of them."
            ) from error
    text = orjson.dumps(values)
    if len(text) > MAX_BYTES:
        largest = max(values, key=lambda key: len(orjson.dumps(values[key])))
        raise ConfigurationError(
            f"the context is {len(text):,} bytes of JSON but may have {MAX_BYTES:,}, because every event of the "
            f"transaction carries it. Shorten its largest value, {largest!r}."
        )
    return text
