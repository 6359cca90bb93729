"""Try SQLAlchemy's generic types: the same models on every engine, with values accepted by every engine."""

from __future__ import annotations

import datetime as dt
import enum
import struct
import uuid
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

from support.fidelity.type_case import Family, Kind

TIMESTAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
ZONED = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
TIME = sa.Time().with_variant(mysql.TIME(fsp=6), "mysql", "mariadb")
INTERVAL = sa.Interval(second_precision=6)

# Include every plane of Unicode, control characters, quotes, joiners and padding. Exclude NUL, because a text in
# PostgreSQL cannot contain NUL.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(
    "\x01\x08\t\n\r\x1f\x7f\x85\u200d\u2028\ufeff\uffff😀\U0010ffff\"'\\%:{},[] "
)
smallest_normal = 2.2250738585072014e-308
finite = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0 if x else 0.0)
single = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False).map(lambda x: x or 0.0)
moments = st.datetimes(min_value=dt.datetime(1, 1, 1), max_value=dt.datetime(9999, 12, 31, 23, 59, 59, 999999))
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(characters) | finite,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=3),
    max_leaves=8,
)


class Mood(enum.Enum):
    HAPPY = "happy"
    SAD = "sad, 'very'"


class Backwards(sa.TypeDecorator[str]):
    """Store each text backwards, to make the stored value differ from the value in Python."""

    impl = sa.String(60)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value[::-1] if value is not None else None

    process_result_value = process_bind_param


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    whole = 10**precision - 1
    return st.integers(-whole, whole).map(lambda n: Decimal(n).scaleb(-scale, context=_WIDE))


def _wide() -> Any:
    from decimal import Context

    return Context(prec=200)


_WIDE = _wide()


def numbers() -> Family:
    return Family(
        "numbers",
        [
            Kind("flag", sa.Boolean(), "boolean", st.booleans()),
            Kind("small", sa.SmallInteger(), "integer", st.integers(-(2**15), 2**15 - 1), [-(2**15), 2**15 - 1]),
            Kind("whole", sa.Integer(), "integer", st.integers(-(2**31), 2**31 - 1), [-(2**31), 2**31 - 1]),
            Kind(
                "big",
                sa.BigInteger(),
                "integer",
                st.integers(-(2**63), 2**63 - 1),
                [-(2**63), 2**63 - 1, 2**53 + 1, 0],
            ),
            Kind(
                "real",
                sa.Double(),
                "double",
                finite,
                [5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, smallest_normal, 0.1, 1e22, 2.0**53],
            ),
            Kind(
                "single",
                sa.REAL().with_variant(mysql.FLOAT(), "mysql", "mariadb"),
                "single",
                single,
                [0.1, struct.unpack("f", b"\xff\xff\x7f\x7f")[0], 1.1754943508222875e-38, 16777216.0],
            ),
            Kind("money", sa.Numeric(12, 2), "decimal", decimals(12, 2), [Decimal("9999999999.99"), Decimal("-0.01")]),
            Kind("fifteen", sa.Numeric(15, 10), "decimal", decimals(15, 10), [Decimal("99999.9999999999")]),
            Kind("whole_numeric", sa.Numeric(15, 0), "decimal", decimals(15, 0)),
        ],
    )


def texts() -> Family:
    return Family(
        "texts",
        [
            Kind(
                "name",
                sa.String(40),
                "text",
                st.text(characters, max_size=40),
                ["", " ", "ends in spaces   ", "x" * 40, "😀" * 40, "\\", "\\'", "null", "%s :x ?", "\u0301é"],
            ),
            Kind("long_name", sa.Unicode(300), "text", st.text(characters, max_size=60)),
            Kind(
                "body",
                sa.Text(),
                "text",
                st.text(characters, max_size=80),
                ["y" * 5_000, '","a":{"id":1},"', '{"before":null,"after":{', "\n\n"],
            ),
            Kind("code", sa.CHAR(4), "char", st.text(characters, max_size=4), ["", "ab", "a  b", "   "]),
            Kind("secret", Backwards(), "text", st.text(characters, max_size=60), ["abc "]),
            Kind("mood", sa.Enum(Mood), "text", st.sampled_from(Mood)),
            Kind("plain_mood", sa.Enum(Mood, native_enum=False, length=20), "text", st.sampled_from(Mood)),
            Kind("colour", sa.Enum("red", "grün", "a 'b'", name="colour"), "text", st.sampled_from(["red", "grün"])),
        ],
    )


def binaries() -> Family:
    every_byte = bytes(range(256))
    return Family(
        "binaries",
        [
            Kind("data", sa.LargeBinary(), "bytes", st.binary(max_size=200), [b"", b"\0", every_byte, every_byte * 20]),
            Kind("short", sa.LargeBinary(20), "bytes", st.binary(max_size=20), [b"\0\0", b"ends \0", b"'\\"]),
            Kind("pickled", sa.PickleType(), "bytes", documents),
            Kind("id_", sa.Uuid(), "uuid", st.uuids(version=4), [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)]),
            Kind("plain_id", sa.Uuid(native_uuid=False), "uuid", st.uuids(version=1)),
        ],
    )


def moments_() -> Family:
    epoch = dt.datetime(1970, 1, 1)
    edges = [
        dt.datetime(1, 1, 1),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
        epoch,
        epoch - dt.timedelta(microseconds=1),
        dt.datetime(1582, 10, 10),
        dt.datetime(2026, 10, 25, 0, 30),
        dt.datetime(2026, 3, 29, 2, 30),
        dt.datetime(2000, 2, 29, 12, 0, 0, 100),
    ]
    zones = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(
        lambda d: dt.timezone(dt.timedelta(minutes=d // dt.timedelta(minutes=1)))
    )
    inside = st.datetimes(min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 12, 31), timezones=zones)
    return Family(
        "moments",
        [
            Kind("day", sa.Date(), "text", st.dates(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1969, 7, 20)]),
            Kind("clock", TIME, "time", st.times(), [dt.time(0), dt.time(23, 59, 59, 999999), dt.time(1, 2, 3, 4)]),
            Kind("at", TIMESTAMP, "timestamp", moments, edges),
            Kind("zoned", ZONED, "timestamp", inside.map(_in_utc), [e.replace(tzinfo=dt.UTC) for e in edges]),
        ],
    )


def _in_utc(moment: dt.datetime) -> dt.datetime:
    """Convert a moment to UTC, as the documentation demands for engines that drop the offset."""
    return moment.astimezone(dt.UTC)


def documents_() -> Family:
    kinds = [Kind("doc", sa.JSON(), "document", documents, [sa.JSON.NULL, {}, [], "", 0, {"b": 1, "a": {"ü": None}}])]
    return Family("documents", kinds)


@cache
def generic() -> Sequence[Family]:
    return (numbers(), texts(), binaries(), moments_(), documents_())
