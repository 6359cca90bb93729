"""Try MariaDB's own types, most of them also in MySQL, written as texts for the engine to convert."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

from support.fidelity.type_case import Family, Kind, as_text
from support.fidelity.types_generic import characters, decimals, documents, generic, moments


def kind(name: str, type_: Any, means: str, values: st.SearchStrategy[Any], *edges: Any) -> Kind:
    return Kind(name, type_, means, values.map(str), [str(e) for e in edges], as_text)


def whole(name: str, type_: Any, bits: int, *, unsigned: bool = False) -> Kind:
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return kind(name, type_, "integer", st.integers(low, high), low, high)


def binary(name: str, type_: Any, most: int, *edges: bytes) -> Kind:
    return Kind(
        name,
        type_,
        "bytes",
        st.binary(max_size=most).map(bytes.hex),
        [e.hex() for e in edges],
        lambda p, _: sa.func.unhex(p),
    )


def bits(name: str, length: int) -> Kind:
    return Kind(
        name,
        mysql.BIT(length),
        "bits",
        st.integers(0, 2**length - 1).map(str),
        ["0", str(2**length - 1)],
        lambda p, _: sa.cast(p, mysql.INTEGER(unsigned=True)),
    )


def own_numbers() -> Family:
    return Family(
        "own_numbers",
        [
            whole("tiny", mysql.TINYINT(), 8),
            whole("tiny_u", mysql.TINYINT(unsigned=True), 8, unsigned=True),
            whole("small_u", mysql.SMALLINT(unsigned=True), 16, unsigned=True),
            whole("medium", mysql.MEDIUMINT(), 24),
            whole("medium_u", mysql.MEDIUMINT(unsigned=True), 24, unsigned=True),
            whole("whole_u", mysql.INTEGER(unsigned=True), 32, unsigned=True),
            whole("big_u", mysql.BIGINT(unsigned=True), 64, unsigned=True),
            kind("filled", mysql.INTEGER(8, zerofill=True), "integer", st.integers(0, 2**32 - 1), 0, 42, 2**32 - 1),
            kind("filled_big", mysql.BIGINT(20, zerofill=True), "integer", st.integers(0, 2**64 - 1), 0, 2**64 - 1),
            kind("wide", sa.DECIMAL(65, 30), "decimal", decimals(65, 30), "0." + "0" * 29 + "1", "-" + "9" * 35),
            kind("scaleless", sa.Numeric(), "decimal", decimals(10, 0)),
            kind("long", sa.Numeric(38, 0), "decimal", decimals(38, 0)),
            kind("positive", mysql.DECIMAL(10, 2, unsigned=True), "decimal", decimals(10, 2).map(abs)),
            kind("filled_decimal", mysql.DECIMAL(10, 2, zerofill=True), "decimal", decimals(10, 2).map(abs), 0, "1.5"),
            kind("fixed", mysql.DOUBLE(12, 3), "double", decimals(12, 3)),
            kind("fixed_float", mysql.FLOAT(7, 2), "single", decimals(5, 2)),
            kind("filled_double", mysql.DOUBLE(zerofill=True), "double", st.floats(0, 1e20), "1.5"),
            bits("bit", 1),
            bits("bits", 12),
            bits("most_bits", 64),
            kind("year", mysql.YEAR(), "text", st.integers(1901, 2155), "0000", 2155),
        ],
    )


def own_texts(addresses: Sequence[Kind] = ()) -> Family:
    latin = st.text(
        st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="".join(map(chr, range(128, 160))))
    )
    some = st.text(characters, max_size=30)
    members = st.lists(st.sampled_from(["a", "b c", "ü"]), unique=True).map(",".join)
    return Family(
        "own_texts",
        [
            kind("tiny", mysql.TINYTEXT(), "text", some),
            kind("medium", mysql.MEDIUMTEXT(), "text", some, "x" * 5000),
            kind("long", mysql.LONGTEXT(), "text", some, "😀" * 20_000),
            kind("cased", mysql.VARCHAR(60, collation="utf8mb4_bin"), "text", some, "ends  "),
            kind("latin", mysql.VARCHAR(200, charset="latin1"), "text", latin, "é€"),
            kind("ucs", mysql.VARCHAR(60, charset="utf16"), "text", some),
            kind("national", sa.NVARCHAR(30), "text", some.map(lambda s: "".join(c for c in s if c < "\U00010000"))),
            kind("long_code", sa.CHAR(255), "char", some),
            kind("flags", mysql.SET("a", "b c", "ü"), "text", members, "", "a,b c,ü"),
            kind("choice", mysql.ENUM("a", "x'y", "ü", '"'), "text", st.sampled_from(["a", "x'y", "ü", '"'])),
            kind(
                "doc",
                mysql.JSON(),
                "document",
                documents.map(lambda d: json.dumps(d, ensure_ascii=False)),
                '{"a":1, "a":2}',
                " null",
                "1.50e2",
            ),
            *addresses,
        ],
    )


def addresses() -> list[Kind]:
    # SQLAlchemy 2.0 has the address types only for URLs that begin with mariadb. The URLs of the tests begin with
    # mysql.
    if sa.__version__ < "2.1":
        return []
    return [
        kind("six", mysql.INET6(), "text", st.ip_addresses(v=6), "::1", "::ffff:1.2.3.4"),
        kind("four", mysql.INET4(), "text", st.ip_addresses(v=4)),
    ]


def own_binaries() -> Family:
    return Family(
        "own_binaries",
        [
            binary("fixed", sa.BINARY(16), 16, b"", b"\0", b"ends \0", bytes(16)),
            binary("varying", sa.VARBINARY(300), 40, b"", bytes(range(256))),
            binary("tiny", mysql.TINYBLOB(), 40),
            binary("medium", mysql.MEDIUMBLOB(), 40, bytes(range(256)) * 100),
            binary("long", mysql.LONGBLOB(), 40),
        ],
    )


def own_moments() -> Family:
    stamps = st.datetimes(min_value=dt.datetime(1970, 1, 2), max_value=dt.datetime(2038, 1, 18))
    return Family(
        "own_moments",
        [
            kind("coarse", mysql.DATETIME(), "timestamp", moments.map(lambda m: m.replace(microsecond=0))),
            kind("middling", mysql.DATETIME(fsp=3), "timestamp", moments.map(lambda m: m.replace(microsecond=5000))),
            kind(
                "stamp",
                mysql.TIMESTAMP(fsp=6),
                "timestamp",
                stamps,
                "2026-10-25 00:30:00",
                "2026-10-25 01:30:00.000001",
                "2038-01-19 02:14:07.999999",
            ),
            kind("coarse_stamp", sa.TIMESTAMP(), "timestamp", stamps.map(lambda m: m.replace(microsecond=0))),
            kind("clock", mysql.TIME(), "time", st.times().map(lambda t: t.replace(microsecond=0))),
        ],
    )


def alone(longest: str = "838:59:59.999999") -> Family:
    lengths = st.integers(-(838 * 3600 + 59 * 60 + 59) * 10**6, (838 * 3600 + 59 * 60 + 59) * 10**6)
    return Family(
        "extremes",
        [
            kind("at", mysql.DATETIME(fsp=6), "text", moments, "0000-00-00 00:00:00", "0000-01-01 00:00:00.5"),
            kind("stamp", mysql.TIMESTAMP(fsp=6), "text", st.just("2026-01-01"), "0000-00-00 00:00:00"),
            kind("day", sa.Date(), "text", st.dates(), "0000-00-00", "2026-00-00"),
            kind(
                "length",
                mysql.TIME(fsp=6),
                "text",
                lengths.map(_length),
                f"-{longest}",
                longest,
                "-00:00:00.000001",
            ),
            kind("flag", sa.Boolean(create_constraint=False), "text", st.integers(-128, 127), 2),
            kind("nul", sa.String(20), "text", st.just("a\0b"), "\0"),
        ],
        everywhere=False,
    )


def _length(microseconds: int) -> str:
    whole, fraction = divmod(abs(microseconds), 10**6)
    sign = "-" if microseconds < 0 else ""
    return f"{sign}{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{fraction:06}"


def families() -> list[Family]:
    return [*generic(), own_numbers(), own_texts(addresses()), own_binaries(), own_moments(), alone()]
