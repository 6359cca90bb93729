"""Try PostgreSQL's own types, written as texts for PostgreSQL's input functions."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from support.fidelity.type_case import Expression, Family, Kind, cast
from support.fidelity.types_generic import characters, decimals, documents, finite, generic, moments

text = st.text(characters, max_size=12)
numeric = decimals(60, 30).map(str)
seconds = st.integers(-(10**15), 10**15).map(lambda n: f"{'-' if n < 0 else ''}{abs(n) // 10**6}.{abs(n) % 10**6:06}")
intervals = st.builds(
    "{} months {} days {} seconds".format, st.integers(-(10**8), 10**8), st.integers(-(10**8), 10**8), seconds
)
EXTREME_INTERVALS = ["-178000000 years", "1 year -2 mons 3 days -4:05:06.7", "-1 day -2:03:04", "0", "300:00:00.000001"]
iso_moments = moments.map(dt.datetime.isoformat)
SPECIAL_MOMENTS = [
    "infinity",
    "-infinity",
    "4713-01-01 00:00:00 BC",
    "0044-03-15 10:00:00.5 BC",
    "294276-12-31 23:59:59.999999",
]
numbers = st.integers(-(2**31), 2**31 - 2)
bigs = st.integers(-(2**63), 2**63 - 2)


def arrays(elements: st.SearchStrategy[Any], quote: Any = str) -> st.SearchStrategy[str]:
    """Generate array literals of PostgreSQL: empty, or with one to three dimensions, with NULLs."""
    item = st.none() | elements

    def literal(value: Any) -> str:
        if isinstance(value, list):
            return "{" + ",".join(map(literal, value)) + "}"
        return "NULL" if value is None else str(quote(value))

    def of(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
        if not shape:
            return item
        return st.lists(of(shape[1:]), min_size=shape[0], max_size=shape[0])

    shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
    return (shapes.flatmap(of) | st.just([])).map(literal)


def quoted(value: Any) -> str:
    """Return an element or a bound in double quotes."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    def literal(pair: tuple[Any, Any], left: str, right: str, open_: tuple[bool, bool]) -> str:
        low, high = sorted(pair)
        return f"{left}{'' if open_[0] else low},{'' if open_[1] else high}{right}"

    some = st.builds(
        literal,
        st.tuples(bounds, bounds),
        st.sampled_from("(["),
        st.sampled_from(")]"),
        st.tuples(st.booleans(), st.booleans()),
    )
    return some | st.just("empty")


def multiranges(one: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(one, max_size=4).map(lambda r: "{" + ",".join(r) + "}")


def kind(
    name: str, type_: Any, means: str, values: st.SearchStrategy[Any], *edges: str, write: Expression = cast
) -> Kind:
    return Kind(name, type_, means, values, edges, write)


integers = numbers
days = st.dates().map(str)


def own_forms() -> Family:
    """Return the types whose values are published as PostgreSQL's text."""
    addresses = st.ip_addresses().map(str)
    networks = st.builds(
        lambda a, n: str(ipaddress.ip_network((a, n % (a.max_prefixlen + 1)), strict=False)),
        st.ip_addresses(),
        st.integers(0, 128),
    )
    mac = st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":"))
    pairs = st.dictionaries(text, st.none() | text, max_size=4)
    hstores = pairs.map(lambda d: ",".join(f"{quoted(k)}=>{'NULL' if v is None else quoted(v)}" for k, v in d.items()))
    bits = st.text("01", max_size=30)
    return Family(
        "own_forms",
        [
            kind("address", pg.INET(), "text", addresses, "10.0.0.1/8", "::1", "::ffff:1.2.3.4/96"),
            kind("network", pg.CIDR(), "text", networks, "0.0.0.0/0"),
            kind("mac", pg.MACADDR(), "text", mac, "08:00:2b:01:02:03"),
            kind("mac8", pg.MACADDR8(), "text", st.binary(min_size=8, max_size=8).map(lambda b: b.hex(":"))),
            kind("store", pg.HSTORE(), "text", hstores, "", '""=>NULL', '"a b"=>"NULL"'),
            kind("bits", pg.BIT(8), "text", st.text("01", min_size=8, max_size=8), "00000000"),
            kind("some_bits", pg.BIT(varying=True), "text", bits, "", "1" * 100),
            kind("insensitive", pg.CITEXT(), "text", text, "Ab ", "aB"),
            kind("oid", pg.OID(), "text", st.integers(0, 2**32 - 1).map(str), "4294967295"),
            kind("vector", pg.TSVECTOR(), "text", st.text("abc :1", max_size=20).map(lambda s: s.replace(":", ""))),
            kind("path", pg.JSONPATH(), "text", st.sampled_from(["$.a[*] ? (@ > 1)", "strict $"])),
            kind("clock", pg.TIME(timezone=True), "text", st.times().map(lambda t: f"{t}+05:30"), "24:00:00-15:59"),
        ],
    )


def own_numbers() -> Family:
    return Family(
        "own_numbers",
        [
            kind("wide", sa.Numeric(60, 30), "decimal", numeric, "0.000000000000000000000000000001"),
            kind("scaleless", sa.Numeric(38, 0), "decimal", decimals(38, 0).map(str), "9" * 38),
            kind(
                "any", sa.Numeric(), "decimal", decimals(60, 30).map(str), "1e100", "1e-100", "1.50", "0.00", "9" * 300
            ),
            kind("huge", sa.Numeric(200, 100), "decimal", decimals(200, 100).map(str), "1", "9" * 100),
            kind(
                "cash", pg.MONEY(), "decimal", decimals(17, 2).map(str), "-92233720368547758.08", "92233720368547758.07"
            ),
        ],
    )


def own_intervals() -> Family:
    return Family(
        "own_intervals",
        [
            kind("span", sa.Interval(), "interval", intervals, *EXTREME_INTERVALS),
            kind("days", pg.INTERVAL(fields="DAY TO SECOND", precision=3), "interval", intervals),
        ],
    )


def own_documents() -> Family:
    written = documents.map(lambda d: json.dumps(d, ensure_ascii=False))
    return Family(
        "own_documents",
        [
            kind(
                "doc",
                pg.JSON(),
                "document",
                written,
                '{"a":1, "a":2,  "a" : null}',
                " null ",
                "1.50e2",
                "12345678901234567890123",
            ),
            kind("docb", pg.JSONB(), "document", written, '{"b":1,"a":2,"b":3}', "null", "1.50", "1e400", '"\\u00e9"'),
        ],
    )


def own_ranges() -> Family:
    return Family(
        "own_ranges",
        [
            kind("ints", pg.INT4RANGE(), "text", ranges(integers)),
            kind("bigs", pg.INT8RANGE(), "text", ranges(bigs), "[-9223372036854775808,9223372036854775807)"),
            kind("nums", pg.NUMRANGE(), "text", ranges(decimals(20, 5))),
            kind(
                "days", pg.DATERANGE(), "range", ranges(days), "[infinity,infinity]", "(,infinity)", "[0044-03-15 BC,)"
            ),
            kind("times", pg.TSRANGE(), "range", ranges(iso_moments), "[-infinity,infinity]", "[0044-03-15 10:00 BC,)"),
            kind(
                "zoned", pg.TSTZRANGE(), "range", ranges(iso_moments), "[-infinity,infinity]", "[0044-03-15 10:00 BC,)"
            ),
            kind("many_ints", pg.INT4MULTIRANGE(), "text", multiranges(ranges(integers)), "{}"),
            kind("many_days", pg.DATEMULTIRANGE(), "range", multiranges(ranges(days)), "{[infinity,infinity]}"),
            kind("many_times", pg.TSMULTIRANGE(), "range", multiranges(ranges(iso_moments))),
            kind("many_zoned", pg.TSTZMULTIRANGE(), "range", multiranges(ranges(iso_moments)), "{}"),
        ],
    )


def own_arrays() -> Family:
    items = st.floats(width=32).map(lambda x: str(x or 0.0).replace("inf", "infinity"))
    hexes = st.binary(max_size=9).map(lambda b: "\\\\x" + b.hex())
    doc = documents.map(lambda d: json.dumps(d, ensure_ascii=False))
    return Family(
        "own_arrays",
        [
            kind("flags", sa.ARRAY(sa.Boolean()), "array", arrays(st.booleans())),
            kind(
                "ints",
                sa.ARRAY(sa.Integer()),
                "array",
                arrays(integers),
                "[0:2]={1,NULL,3}",
                "[-1:0][2:3]={{1,2},{3,4}}",
            ),
            kind("bigs", pg.ARRAY(sa.BigInteger()), "array", arrays(bigs)),
            kind("floats", sa.ARRAY(sa.Double()), "array", arrays(finite.map(repr)), "{NaN,infinity,-infinity}"),
            kind("singles", sa.ARRAY(sa.REAL()), "array", arrays(items)),
            kind("numbers", sa.ARRAY(sa.Numeric()), "array", arrays(numeric), "{NaN,1.50,1e50}", "[5:5]={1.0}"),
            kind(
                "words", sa.ARRAY(sa.Text()), "array", arrays(text, quoted), '{"NULL",null,"{}",""}', '[2:3]={"a,]",b}'
            ),
            kind("codes", sa.ARRAY(sa.CHAR(4)), "array", arrays(st.text("ab ", max_size=4), quoted)),
            kind(
                "moods",
                sa.ARRAY(sa.Enum("sad", "so, so", name="mood_of_array")),
                "array",
                arrays(st.sampled_from(["sad", "so, so"]), quoted),
            ),
            kind("days", sa.ARRAY(sa.Date()), "array", arrays(days), "{infinity,0044-03-15 BC}"),
            kind("times", sa.ARRAY(sa.DateTime()), "array", arrays(iso_moments), "{infinity}"),
            kind(
                "zoned",
                sa.ARRAY(sa.DateTime(timezone=True)),
                "array",
                arrays(iso_moments),
                "{infinity,-infinity}",
                "[0:0]={2026-02-01 10:00:00+05}",
            ),
            kind(
                "spans",
                sa.ARRAY(sa.Interval()),
                "array",
                arrays(intervals, quoted),
                '{"-1 day -2:03:04"}',
                '[3:3]={"-1 day -2:03:04"}',
            ),
            kind("blobs", sa.ARRAY(sa.LargeBinary()), "array", arrays(hexes, lambda h: f'"{h}"'), "{}"),
            kind("ids", sa.ARRAY(sa.Uuid()), "array", arrays(st.uuids())),
            kind("docs", sa.ARRAY(pg.JSONB()), "array", arrays(doc, quoted), '{"null",null}'),
            kind("addresses", sa.ARRAY(pg.INET()), "array", arrays(st.ip_addresses())),
            kind("spans_of_days", sa.ARRAY(pg.DATERANGE()), "array", arrays(ranges(days), quoted)),
            kind("zones", sa.ARRAY(pg.TSTZRANGE()), "array", arrays(ranges(iso_moments), quoted)),
        ],
    )


def alone() -> list[Family]:
    """Return the values that only PostgreSQL holds."""
    return [
        Family(
            "extremes",
            [
                kind("real", sa.Double(), "double", st.floats().map(repr), "NaN", "infinity", "-infinity", "-0"),
                kind("single", sa.REAL(), "single", st.floats(width=32).map(repr), "NaN", "infinity", "-0", "1e-45"),
                kind("amount", sa.Numeric(12, 2), "decimal", decimals(12, 2).map(str), "NaN"),
                kind("any", sa.Numeric(), "decimal", numeric, "NaN", "infinity", "-infinity"),
                kind("day", sa.Date(), "text", days, "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"),
                kind("at", sa.DateTime(), "text", iso_moments, *SPECIAL_MOMENTS),
                kind("zoned", sa.DateTime(timezone=True), "text", iso_moments, *(f"{m}" for m in SPECIAL_MOMENTS)),
                kind("clock", sa.Time(), "text", st.times().map(str), "24:00:00"),
                kind("coarse", pg.TIMESTAMP(precision=0), "text", iso_moments),
            ],
            everywhere=False,
        )
    ]


def families() -> list[Family]:
    return [
        *generic(),
        own_forms(),
        own_numbers(),
        own_intervals(),
        own_documents(),
        own_ranges(),
        own_arrays(),
        *alone(),
    ]
