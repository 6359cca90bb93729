"""Which texts are a known form of a server default, and which are only shown to people."""

from __future__ import annotations

import pytest

from rowcast.shared.tables.server_defaults import ServerDefault, parse_default, sequence_of


@pytest.mark.parametrize(
    ("sql", "kind", "value"),
    [
        ("0", "number", "0"),
        ("(-1)", "number", "-1"),
        ("1.5e3", "number", "1.5e3"),
        ("'-1'::integer", "string", "-1"),
        ("'new'::character varying(20)", "string", "new"),
        ("'{}'::jsonb", "string", "{}"),
        ("'{a,b}'::text[]", "string", "{a,b}"),
        ("'it''s'", "string", "it's"),
        ("'a::b'", "string", "a::b"),
        ("true", "boolean", "true"),
        ("now()", "now", ""),
        ("CURRENT_TIMESTAMP(6)", "now", ""),
        ("current_timestamp()", "now", ""),
        ("(now() AT TIME ZONE 'utc'::text)", "utc_now", ""),
        ("timezone('utc'::text, now())", "utc_now", ""),
        ("UTC_TIMESTAMP()", "utc_now", ""),
        ("CURRENT_DATE", "today", ""),
        ("gen_random_uuid()", "uuid", ""),
        ("(uuid())", "uuid", ""),
        ("(json_object())", "string", "{}"),
        ("(_utf8mb4'long')", "string", "long"),
        ("CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)", "now_on_update", ""),
        ("current_timestamp() ON UPDATE current_timestamp()", "now_on_update", ""),
    ],
)
def test_a_known_form_is_recognized(sql: str, kind: str, value: str) -> None:
    assert parse_default(sql) == ServerDefault(kind, value)


@pytest.mark.parametrize("sql", ["NULL", "(null)", "NULL::character varying"])
def test_null_is_no_default(sql: str) -> None:
    assert parse_default(sql) is None


@pytest.mark.parametrize(
    "sql",
    [
        "'x'); DROP TABLE y; --",
        "'x' || pg_read_file('/etc/passwd')",
        "pg_read_file('/etc/passwd')",
        "0; DROP TABLE y",
        "0) , (1",
        "(1) + (2)",
        "now(); DROP TABLE y",
        "now(now())",
        "'a'::text; DROP TABLE y",
        "'a'::text || 'b'",
        "'a\\'",
        "b'0'",
        "current_user",
        "",
    ],
)
def test_any_other_text_stays_a_text(sql: str) -> None:
    assert parse_default(sql) == ServerDefault("other", sql)


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("nextval('orders_id_seq'::regclass)", "orders_id_seq"),
        ("nextval('app.\"Own Name\"'::regclass)", "Own Name"),
        ("(nextval(`db`.`numbers`))", "numbers"),
        ("nextval('a'); DROP TABLE b", None),
        ("nextval('a' || 'b')", None),
        ("now()", None),
    ],
)
def test_the_sequence_of_a_default_is_named(sql: str, name: str | None) -> None:
    assert sequence_of(sql) == name
