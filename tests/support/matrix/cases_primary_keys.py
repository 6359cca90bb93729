"""Change rows with primary keys of many types and of several columns."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from support.matrix.runner import Stage, case
from support.shop import Reversed


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


def of_type(name: str, type_: Any, values: list[Any]) -> Callable[[Stage], None]:
    """Return a case for a type of key: insert, change, delete and re-key single rows, then many at once."""

    def define(stage: Stage) -> None:
        table = stage.table(
            name, sa.Column("k", type_, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer)
        )
        first, second, third, fourth = values

        @stage.seed
        def rows(s: Session) -> None:
            s.execute(sa.insert(table), [{"k": value, "n": 1} for value in values])

        @stage.work
        def one(s: Session) -> None:
            s.execute(sa.update(table).where(table.c.k == first).values(n=2))
            s.execute(sa.delete(table).where(table.c.k == second))

        @stage.work
        def many(s: Session) -> None:
            by_key = sa.update(table).where(table.c.k == sa.bindparam("which")).values(n=3)
            s.connection().execute(by_key, [{"which": first}, {"which": second}, {"which": third}])
            s.connection().execute(sa.delete(table).where(table.c.k == sa.bindparam("which")), [{"which": third}])

        @stage.work
        def rekey(s: Session) -> None:
            s.execute(sa.update(table).where(table.c.k == fourth).values(k=second))

    define.__name__ = name
    return define


# Include times before 1970, and values whose text in the database differs from Python's text.
TYPES: dict[str, tuple[Any, list[Any]]] = {
    "uuid_key": (sa.Uuid(), [uuid.UUID(int=i * 2**100) for i in (1, 2, 3, 4)]),
    "uuid_text_key": (sa.Uuid(as_uuid=False), [str(uuid.UUID(int=i)) for i in (1, 2, 3, 4)]),
    "bytes_key": (sa.LargeBinary(20).with_variant(sa.VARBINARY(20), "mysql"), [b"\0", b"\xff\xfe", b"'\\", b"plain"]),
    "decimal_key": (sa.Numeric(12, 3), [Decimal(v) for v in ("1.5", "-2.125", "99999999.999", "0")]),
    "datetime_key": (sa.DateTime(), [datetime(y, 7, 20, 20, 17, 40) for y in (1969, 1970, 2026, 2038)]),
    "zoned_key": (sa.DateTime(timezone=True), [datetime(y, 7, 20, 20, tzinfo=UTC) for y in (1969, 1970, 2026, 2038)]),
    "date_key": (sa.Date(), [date(y, 2, 28) for y in (1969, 1970, 2026, 2038)]),
    "enum_key": (sa.String(5), ["s", "l", "x", "y"]),
    "text_key": (sa.String(40), ["é😀", 'it\'s \\ "q"', "100% %s :x", "plain"]),
    "bigint_key": (sa.BigInteger(), [2**62, -(2**62), 0, 1]),
    "decorated_key": (Reversed(), ["abc", "xyz", "é😀", "level 5"]),
}

for key_name, (key_type, key_values) in TYPES.items():
    case()(of_type(key_name, key_type, key_values))


@case()
def key_of_several_columns(stage: Stage) -> None:
    table = stage.table(
        "several_columns",
        sa.Column("region", sa.String(10), primary_key=True),
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("day", sa.Date(), primary_key=True),
        sa.Column("a", sa.Integer),
        sa.Column("b", sa.String(10)),
    )
    day = date(2026, 11, 21)

    @stage.seed
    def rows(s: Session) -> None:
        ids = [uuid.UUID(int=i) for i in range(8)]
        s.execute(sa.insert(table), [{"region": "eu", "id": i, "day": day, "a": i.int} for i in ids])
        s.execute(sa.insert(table), [{"region": "us", "id": i, "day": day, "b": "x"} for i in ids])

    @stage.work
    def change(s: Session) -> None:
        c = s.connection()
        key = (table.c.region, table.c.id, table.c.day)
        c.execute(sa.update(table).where(sa.tuple_(*key).in_([("eu", uuid.UUID(int=1), day)])).values(a=None))
        c.execute(sa.update(table).where(table.c.region == "us", table.c.id == uuid.UUID(int=2)).values(b=None))
        c.execute(sa.update(table).where(table.c.id == uuid.UUID(int=3)).values(region=table.c.region + "!"))
        all_three = (table.c.region == "us", table.c.id == uuid.UUID(int=4), table.c.day == day)
        c.execute(sa.delete(table).where(*all_three))
        c.execute(sa.delete(table).where(table.c.a > 6))


@case("mariadb", "mysql")
def a_key_in_another_case_of_letters(stage: Stage) -> None:
    """Find a row by a key in different case.

    The collation finds the row, and the event has the key as the row stores the key.
    """
    table = stage.table("other_case", sa.Column("k", sa.String(20), primary_key=True), sa.Column("n", sa.Integer))

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(table), [{"k": k, "n": 1} for k in ("Anna", "Berta", "Clara", "Dora")])

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.update(table).where(table.c.k == "ANNA").values(n=2))
        by_key = sa.update(table).where(table.c.k == sa.bindparam("which")).values(n=3)
        s.connection().execute(by_key, [{"which": "berta"}, {"which": "nobody"}])

    @stage.work
    def delete(s: Session) -> None:
        gone = sa.delete(table).where(table.c.k == sa.bindparam("which"))
        s.connection().execute(gone, [{"which": "CLARA"}, {"which": "nobody"}])
        s.execute(sa.text("DELETE FROM other_case WHERE n = 1"), execution_options={"rowcast": {table: ["DORA"]}})


@case("mariadb", "mysql")
def zero_for_the_next_key(stage: Stage) -> None:
    table = stage.table("zero_key", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))

    @stage.work
    def insert(s: Session) -> None:
        s.execute(sa.insert(table).values(id=0, n=1))
        s.connection().execute(sa.insert(table), [{"id": 0, "n": 2}, {"id": 0, "n": 3}])


@case()
def null_for_the_next_key(stage: Stage) -> None:
    table = stage.table("null_key", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))

    @stage.work
    def insert(s: Session) -> None:
        if stage.dialect == "postgresql":
            s.execute(sa.insert(table).values(n=1))
            return
        s.execute(sa.insert(table).values(id=None, n=1))
        s.connection().execute(sa.insert(table), [{"id": None, "n": 2}, {"id": None, "n": 3}])
