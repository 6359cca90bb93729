"""An event whose value has another JSON type than its column is refused, with its table and column."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rowcast.consumer.events import value_types
from rowcast.consumer.events.change import Change, read_change, read_change_fully
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import PortableType, TableShape
from support.kafka_source import column, shape
from support.memory_topics import MemorySource

TYPES = ("int64", "boolean", "float64", "decimal", "text", "timestamp", "uuid", "bytes", "json", "array", "native")
ROW: dict[str, Any] = {
    "id": 1, "int64": 5, "boolean": True, "float64": 0.5, "decimal": "1.50", "text": "x",
    "timestamp": "2026-01-01T00:00:00",
    "uuid": "7d444840-9dc0-11d1-b245-5ffdce74fad2", "bytes": "eA==", "json": '{"a": 1}',
    "array": [1, None], "native": "x",
}  # fmt: skip


def thing(engine: str) -> TableShape:
    return shape("thing", *(column(name, PortableType(name)) for name in TYPES), engine=engine)


def read(engine: str, row: dict[str, Any], key: dict[str, Any] | None = None, op: str = "u") -> Change | None:
    """Return what both paths read. The fast path has learned the form of the usual row before."""
    table = thing(engine)
    layouts = RowLayouts()
    layouts.add(table.version, table)
    source = MemorySource()
    usual = source.envelope("c", table, ROW, 1, "7", 1, 1)
    key_bytes = orjson.dumps({"id": row.get("id")} if key is None else key)
    value = source.envelope(op, table, row, 2, "7", 1, 1)
    for _ in range(2):
        assert read_change(b'{"id":1}', usual, ("t", 0), 1, layouts) is not None
    results = []
    for function in (read_change, read_change_fully):
        try:
            results.append(function(key_bytes, value, ("t", 0), 2, layouts))
        except DataError as error:
            results.append(None)
            message = str(error)
    if results == [None, None]:
        raise DataError(message)
    assert results[0] is not None
    assert results[1] is not None
    assert orjson.loads(results[0].after or b"null") == orjson.loads(results[1].after or b"null")
    return results[0]


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("int64", "5", "a text"), ("int64", 5.0, "a number"), ("int64", True, "a boolean"),
        ("boolean", 1, "an integer"), ("boolean", "true", "a text"), ("float64", "5", "a text"),
        ("float64", True, "a bool"),
        ("decimal", 1.5, "a number"), ("text", {"a": "SECRET"}, "an object"), ("text", ["SECRET"], "an array"),
        ("text", 5, "an integer"), ("text", False, "a boolean"), ("timestamp", 5, "an integer"),
        ("uuid", {}, "an object"),
        ("bytes", [1], "an array"), ("json", {"a": 1}, "an object"), ("array", {"a": 1}, "an object"),
        ("native", {"a": 1}, "an object"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(name: str, value: Any, found: str) -> None:
    with pytest.raises(
        DataError, match=rf"the row of public\.thing does not fit.*column {name} .*holds {found}"
    ) as error:
        read("postgresql", ROW | {name: value})
    assert "SECRET" not in str(error.value)


def test_numbers_beyond_64_bits_are_refused() -> None:
    table = shape("thing", column("n"), engine="postgresql")
    layouts = RowLayouts()
    layouts.add(table.version, table)
    value = MemorySource().envelope("c", table, '{"id":1,"n":' + "9" * 30 + "}", 2, "7", 1, 1)
    with pytest.raises(DataError, match=r"column n .* holds a number"):
        read_change(b'{"id":1}', value, ("t", 0), 1, layouts)


@pytest.mark.parametrize("key", [{"id": None}, {"id": "1"}, {"id": True}, {"id": 1.0}, {"id": {"a": 1}}, {"id": [1]}])
@pytest.mark.parametrize("op", ["u", "d"])
def test_a_key_of_another_type_is_refused(key: dict[str, Any], op: str) -> None:
    with pytest.raises(DataError, match=r"the (key|row) of public\.thing"):
        read("postgresql", ROW, key, op)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", 5, 0.5, None])
def test_the_forms_of_a_floating_point_number(value: Any) -> None:
    assert read("postgresql", ROW | {"float64": value}) is not None


@pytest.mark.parametrize(("engine", "value"), [("mysql", 5), ("mariadb", 0), ("sqlite", "yes"), ("postgresql", None)])
def test_engines_whose_booleans_may_hold_more(engine: str, value: Any) -> None:
    assert read(engine, ROW | {"boolean": value}) is not None


@pytest.mark.parametrize("engine", ["postgresql", "mysql", "sqlite"])
def test_columns_in_another_order_are_checked_by_name(engine: str) -> None:
    """The form of the usual row must not stand for the form of a row with its columns in another order."""
    names = [name for name in ROW if name != "id"]
    wrong = dict(zip(reversed(names), (ROW[name] for name in names), strict=True)) | {"id": 1}
    with pytest.raises(DataError, match="does not fit its shape"):
        read(engine, wrong)
    turned = {name: ROW[name] for name in reversed(ROW)}
    assert read(engine, turned) is not None


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xff"'])
def test_what_is_no_text_is_refused(text: bytes) -> None:
    table = thing("postgresql")
    layouts = RowLayouts()
    layouts.add(table.version, table)
    value = MemorySource().envelope("c", table, ROW | {"text": "@@"}, 2, "7", 1, 1).replace(b'"@@"', text)
    with pytest.raises(DataError, match="not a change event: invalid JSON"):
        read_change(b'{"id":1}', value, ("t", 0), 1, layouts)


def test_a_row_of_the_key_alone_is_no_row() -> None:
    """The form of the key is known, and says nothing of a row."""
    with pytest.raises(DataError, match="missing array, boolean, bytes"):
        read("elsewhere", {"id": 1})


def test_the_remembered_forms_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_types, "_MAX_FORMS", 1)
    table = thing("postgresql")
    layouts = RowLayouts()
    layouts.add(table.version, table)
    change = None
    for row in (ROW, ROW | {"text": None}, ROW):
        value = MemorySource().envelope("c", table, row, 2, "7", 1, 1)
        change = read_change(b'{"id":1}', value, ("t", 0), 1, layouts)
    assert change is not None
    assert len(change.layout.forms.rows) == 1
