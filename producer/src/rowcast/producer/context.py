"""Who or what a transaction is for: what the application says of it, and the trace that it is a part of.

It is asked for when the transaction's changes are written to the outbox, and goes with them as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import orjson

from rowcast.shared.errors import ConfigurationError

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _inject: Callable[[dict[str, str]], None] | None = None
else:
    _inject = TraceContextTextMapPropagator().inject

RESERVED = "rowcast."
"""The application's own keys do not begin with this."""

TRACE = "rowcast.trace"
"""Where the W3C headers of the active span are."""

LONGEST = 4_096
"""Bytes of JSON: every event of the transaction carries it."""

Values = Mapping[str, Any]


class TransactionContext:
    """What ``given`` says in the thread or task at hand, and what ``ask`` answers; the first goes before the second."""

    def __init__(self, ask: Callable[[], Values | None] | None = None) -> None:
        self._ask = ask
        self._given: ContextVar[Values | None] = ContextVar("rowcast_context", default=None)

    @contextmanager
    def given(self, values: Values) -> Iterator[None]:
        """For the length of the block, beside what an outer block gives. Raises ConfigurationError if it is no JSON
        object, or too long."""
        merged = {**(self._given.get() or {}), **values}
        _dumped(merged)
        token = self._given.set(merged)
        try:
            yield
        finally:
            self._given.reset(token)

    def document(self) -> str | None:
        """JSON for the outbox; None if there is nothing to say. Raises what ``given`` and ``ask`` raise."""
        values = self._given.get()
        if self._ask is not None and (asked := self._ask()):
            values = {**asked, **(values or {})}
        trace: dict[str, str] = {}
        if _inject is not None:
            _inject(trace)
        if not values and not trace:
            return None
        text = _dumped(values or {})
        return orjson.dumps({TRACE: trace, **orjson.loads(text)}).decode() if trace else text.decode()


def _dumped(values: Values) -> bytes:
    for key, value in values.items():
        if not isinstance(key, str) or key.startswith(RESERVED):
            raise ConfigurationError(
                f"the context's key {key!r} cannot be used: keys are texts, and those that begin with {RESERVED!r} are "
                "rowcast's own."
            )
        try:
            orjson.dumps(value)
        except TypeError as error:
            raise ConfigurationError(
                f"the context's {key!r} cannot be written as JSON ({error}). Give a text, a number, or lists and "
                "dictionaries of them."
            ) from error
    text = orjson.dumps(values)
    if len(text) > LONGEST:
        raise ConfigurationError(
            f"the context is {len(text):,} bytes of JSON, and may have {LONGEST:,}: every event of the transaction "
            f"carries it. Its largest value is {max(values, key=lambda k: len(orjson.dumps(values[k])))!r}."
        )
    return text
