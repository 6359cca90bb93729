"""The condition of a view gives what SQL gives, in three-valued logic. Everything else is refused with its place."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.views.conditions import ConditionColumn, compile_condition
from rowcast.consumer.views.syntax import ConditionError, columns_of, parse_condition
from rowcast.shared.errors import DataError

TYPES = {
    "n": "int32",
    "m": "int64",
    "t": "string",
    "u": "text",
    "b": "boolean",
    "c": "boolean",
    "d": "date",
    "e": "date",
    "order": "int16",
}
KINDS = {"n": "n", "m": "n", "order": "n", "t": "t", "u": "t", "b": "b", "c": "b", "d": "d", "e": "d"}
VALUES: dict[str, list[Any]] = {
    "n": [None, -1, 0, 1, 2],
    "t": [None, "", "x", "X", "it's"],
    "b": [None, True, False],
    "d": [None, "2026-01-31", "2026-02-01"],
}
COLUMNS = {name: ConditionColumn(name, type_) for name, type_ in TYPES.items()}


def quoted(name: str) -> str:
    return f'"{name}"' if name in ("order", "t") else name


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(TYPES)))
    kind = KINDS[name]
    column, values = quoted(name), [value for value in VALUES[kind] if value is not None]
    forms = ["compare", "columns", "in", "null"] + ["bare"] * (kind == "b")
    form = draw(st.sampled_from(forms))
    negated = draw(st.sampled_from(["", "not "]))
    if form == "bare":
        return column
    if form == "null":
        return f"{column} is {negated}null"
    if form == "in":
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        return f"{column} {negated}in ({', '.join(map(literal, chosen))})"
    signs = ["=", "!=", "<>"] + ["<", "<=", ">", ">="] * (kind in "nd")
    other = draw(st.sampled_from([quoted(n) for n, k in KINDS.items() if k == kind]))
    right = other if form == "columns" else literal(draw(st.sampled_from(values)))
    left, right = draw(st.permutations([column, right]))
    return f"{left} {draw(st.sampled_from(signs))} {right}"


CONDITIONS = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "OR", "or", "AND"]), inner).map(" ".join),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=8,
)
ROWS = st.fixed_dictionaries({name: st.sampled_from(VALUES[kind]) for name, kind in KINDS.items()})


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE r ({', '.join(quoted(name) for name in TYPES)})")
    yield connection
    connection.close()


@pytest.mark.campaign
@given(text=CONDITIONS, rows=st.lists(ROWS, min_size=1, max_size=8))
def test_a_condition_is_as_true_as_for_a_database(
    sqlite: sqlite3.Connection, text: str, rows: list[dict[str, Any]]
) -> None:
    condition = parse_condition(text)
    assert set(columns_of(condition)) <= TYPES.keys()
    test = compile_condition(condition, COLUMNS)
    for row in rows:
        sqlite.execute("DELETE FROM r")
        sqlite.execute(f"INSERT INTO r VALUES ({', '.join('?' * len(TYPES))})", [row[name] for name in TYPES])
        ((expected,),) = sqlite.execute(f"SELECT ({text}) FROM r").fetchall()
        assert test(row) == (None if expected is None else bool(expected)), (text, row)


@pytest.mark.parametrize(
    ("text", "type_name", "value", "expected"),
    [
        ("c = 10.50", "decimal", "10.5", True),
        ("c > 9", "decimal", "10.50", True),
        ("c > 1000000", "decimal", "NaN", True),
        ("c = 0.1", "float64", 0.1, True),
        ("c < 0", "float64", "-Infinity", True),
        ("c > 0", "float64", "NaN", True),
        ("c = 'ab'", "char", "ab  ", True),
        ("c = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", True),
        ("c >= '2026-01-01 12:00'", "timestamp", "2026-01-01T12:00:00", True),
        ("c > '2026-01-01T12:00:00.45'", "timestamp", "2026-01-01T12:00:00.5", True),
        ("c = '2026-01-01T12:00:00+02:00'", "timestamptz", "2026-01-01T10:00:00Z", True),
        ("c > '2026-01-01'", "timestamptz", "infinity", True),
        ("c", "boolean", 1, True),
        ("not c", "boolean", 0, True),
        ("c is null", "json", None, True),
        ("c is not null", "bytes", "aGk=", True),
        ("c = 'red'", "enum", "red", True),
        ("c = -5", "int64", -5, True),
        ("c in (1, 2.0, 3)", "int64", 2, True),
    ],
)
def test_each_type_compares_by_value(text: str, type_name: str, value: Any, expected: bool) -> None:
    test = compile_condition(parse_condition(text), {"c": ConditionColumn("c", type_name)})
    assert test({"c": value}) is expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("n = 1; drop table r", "character 6 (';') belongs to no word, number or text"),
        ("n = (select 1)", "character 5: a column, a number, a text, true or false belongs here, and not ("),
        ("n = 1 or", "character 9: a column, a number, a text, true or false belongs here, and not the end"),
        ("lower(t) = 'x'", "character 6: and, or, or the end belongs here, and not ("),
        ("n = null", "nothing equals NULL. Write `column is null`"),
        ("n in (1, null)", "nothing equals NULL"),
        ("1 = 1", "a comparison of two literals needs no column"),
        ("n not 5", "character 7: in belongs here"),
        ("n = 1 n = 2", "character 7: and, or, or the end belongs here, and not n"),
        ("(n = 1", "character 7: ) belongs here"),
        ("n = 'x", "belongs to no word"),
        ("n = 1x", "belongs to no word"),
        ("not " * 200 + "b", "more than 100 levels"),
        ("(" * 200 + "b" + ")" * 200, "more than 100 levels"),
        ("n = '1'", "a column of type int32 is compared with a number, and not 1"),
        ("t = 1", "a column of type string is compared with a text in single quotes"),
        ("b = 1", "a column of type boolean is compared with true or false"),
        ("d = 'soon'", "'soon' is no date"),
        ("t < 'x'", "column t (string) has no order that all engines share"),
        ("b < true", "has no order that all engines share"),
        ("n = t", "columns n and t have types that do not compare"),
        ("n", "column n is no boolean"),
        ("j = 'x'", "values of column j (json) do not compare. Only `is null` is possible"),
        ("", "character 1"),
    ],
)
def test_everything_else_is_refused_with_its_place(text: str, fault: str) -> None:
    columns = {**COLUMNS, "j": ConditionColumn("j", "json")}
    with pytest.raises(ConditionError) as caught:
        compile_condition(parse_condition(text), columns)
    assert fault in str(caught.value)


@pytest.mark.parametrize(("type_name", "value"), [("int32", "one"), ("boolean", 5), ("date", 3), ("string", 1)])
def test_a_value_of_another_type_is_no_silent_miss(type_name: str, value: Any) -> None:
    texts = {"int32": "c = 1", "boolean": "c", "date": "c = '2026-01-01'", "string": "c = 'x'"}
    test = compile_condition(parse_condition(texts[type_name]), {"c": ConditionColumn("c", type_name)})
    with pytest.raises(DataError, match=f"column c holds a value that is no {type_name}") as caught:
        test({"c": value})
    assert str(value) not in str(caught.value).removeprefix("column c")
