"""The context of an outbox row is split into members for message values and members for headers."""

from __future__ import annotations

import orjson
import pytest

from rowcast.producer.outbox.context_parser import TRACE, read_context
from rowcast.shared.errors import DataError


def test_the_trace_becomes_headers_and_the_rest_is_the_context() -> None:
    document = orjson.dumps({"actor": "anna", TRACE: {"traceparent": "00-1-2-01"}}).decode()
    assert read_context(document) == ({"actor": "anna"}, [("traceparent", b"00-1-2-01")])


def test_without_a_context_there_is_nothing() -> None:
    assert read_context(None) == (None, [])
    assert read_context(orjson.dumps({TRACE: {"traceparent": "x"}}).decode()) == (None, [("traceparent", b"x")])


@pytest.mark.parametrize("document", ["{", "[]", "7", '{"rowcast.trace":7}', '{"rowcast.trace":{"a":7}}'])
def test_a_damaged_context_is_an_error_that_quotes_it(document: str) -> None:
    with pytest.raises(DataError, match="its context is damaged"):
        read_context(document)
