"""List session settings that change how a database writes or reads values, and a table of values that follow them."""

from __future__ import annotations

SETTINGS = {
    "postgresql": (
        "SET extra_float_digits = -3",
        "SET extra_float_digits = 0",
        "SET datestyle = 'German, DMY'",
        "SET timezone = 'Asia/Tokyo'",
        "SET intervalstyle = 'iso_8601'",
        "SET bytea_output = 'escape'",
        "SET xmloption = 'document'",
        "SET standard_conforming_strings = off",
        "SET lc_monetary = 'C'",
        "SET transform_null_equals = on",
        "SET quote_all_identifiers = on",
    ),
    "mariadb": (
        "SET sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        "SET sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'",
        "SET sql_mode = 'EMPTY_STRING_IS_NULL'",
        "SET sql_mode = 'ORACLE,EMPTY_STRING_IS_NULL,PAD_CHAR_TO_FULL_LENGTH'",
        "SET sql_mode = ''",
        "SET time_zone = '+09:00'",
        "SET lc_time_names = 'de_DE'",
        "SET div_precision_increment = 0",
        "SET collation_connection = 'utf8mb4_bin'",
        "SET group_concat_max_len = 4",
    ),
    "mysql": (
        "SET sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        "SET sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'",
        "SET time_zone = '+09:00'",
    ),
    "sqlite": (
        "PRAGMA case_sensitive_like = ON",
        "PRAGMA recursive_triggers = ON",
        "PRAGMA reverse_unordered_selects = ON",
        "PRAGMA ignore_check_constraints = ON",
        "PRAGMA cell_size_check = ON",
    ),
}

_MYSQL = {
    "dbl": ("double", "0.1e0 + 0.2e0"),
    "flt": ("float", "0.1"),
    "chr": ("char(5)", "'x'"),
    "nothing": ("char(5)", "X''"),
    "txt": ("varchar(20)", "X'615C6227'"),
    "byt": ("blob", "repeat('x', 100)"),
    "fixed": ("binary(4)", "X'01'"),
    "moment": ("timestamp(3) NULL", "from_unixtime(1792891800)"),
    "day": ("date", "'2026-02-03'"),
    "amount": ("decimal(10, 3)", "1.5"),
    "padded": ("int(5) zerofill", "7"),
    "bits": ("bit(9)", "257"),
}

COLUMNS = {
    "postgresql": {
        "dbl": ("double precision", "0.1::float8 + 0.2"),
        "flt": ("real", "0.1"),
        "floats": ("double precision[]", "ARRAY[0.1::float8 + 0.2]"),
        "place": ("point", "point(0.1::float8 + 0.2, 1)"),
        "reading": (
            "reading",
            "ROW(0.1::float8 + 0.2, DATE '2026-02-03', '2026-02-03 04:05:06+00', INTERVAL '1 day 2 s')::reading",
        ),
        "moment": ("timestamptz", "TIMESTAMPTZ '2026-02-03 04:05:06.7+00'"),
        "moments": ("timestamptz[]", "ARRAY[TIMESTAMPTZ '2026-02-03 04:05:06.7+00']"),
        "day": ("date", "DATE '2026-02-03'"),
        "span": ("interval", "INTERVAL '1 year 2 days 3.5 s'"),
        "byt": ("bytea", "decode('deadbeef', 'hex')"),
        "bytes": ("bytea[]", "ARRAY[decode('de', 'hex')]"),
        "price": ("money", "1.23::numeric::money"),
        "txt": ("text", "'a' || chr(92) || 'b'"),
        "period": ("tstzrange", "tstzrange('2026-02-03 04:05:06.7+00', NULL)"),
    },
    "mariadb": _MYSQL,
    "mysql": _MYSQL,
    "sqlite": {
        "dbl": ("float", "0.1 + 0.2"),
        "txt": ("text", "'a' || char(92) || 'b'"),
        "byt": ("blob", "X'DEADBEEF'"),
        "moment": ("datetime", "'2026-02-03 04:05:06.700000'"),
        "amount": ("decimal(10, 3)", "1.5"),
    },
}
"""The type and a value of each column, as SQL."""


def create_table(engine: str, *without: str) -> tuple[str, ...]:
    """Return the statements that create the table `item` with the columns. One name has a backslash."""
    columns = ", ".join(f"{name} {type_}" for name, (type_, _) in COLUMNS[engine].items() if name not in without)
    quote = '"' if engine in ("postgresql", "sqlite") else "`"
    table = f"CREATE TABLE item (id int PRIMARY KEY, n int, {columns}, {quote}back\\slash{quote} int)"
    if engine == "postgresql":
        return "CREATE TYPE reading AS (value float8, day date, moment timestamptz, span interval)", table
    return (table,)


def insert_row(engine: str, key: int, *without: str) -> str:
    """Return the statement that inserts a row of `item`."""
    values = {name: value for name, (_, value) in COLUMNS[engine].items() if name not in without}
    return f"INSERT INTO item (id, n, {', '.join(values)}) VALUES ({key}, 1, {', '.join(values.values())})"
