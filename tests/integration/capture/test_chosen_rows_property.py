"""Random UPDATEs and DELETEs: the outbox has the rows that changed, whichever way a statement chooses its rows.

The statements choose by random numbers, values computed in Python at the execution, subqueries, joins and LIMIT. Rows
chosen a second time would be other rows.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from fixtures.databases import ENGINES
from support.shop import Shop

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Target:
    """Describe a table for random statements: a column to change, and another table to join."""

    def __init__(self, table: sa.Table, value: sa.Column[Any], other: sa.Table, joined: Any) -> None:
        self.table, self.value, self.other, self.joined = table, value, other, joined
        self.key = list(table.primary_key.columns)


def targets(shop: Shop) -> list[Target]:
    m = shop.models
    customer, note, reading = m.Customer.__table__, m.Note.__table__, m.Reading.__table__
    tag, token = m.Tag.__table__, m.Token.__table__
    return [
        Target(customer, customer.c.visits, note, customer.c.id == note.c.customer_id),
        Target(note, note.c.customer_id, customer, customer.c.id == note.c.customer_id),
        Target(reading, reading.c["at"], tag, tag.c.id == reading.c["at"]),
        Target(tag, tag.c.id, reading, tag.c.id == reading.c["at"]),
        Target(token, token.c.used, tag, token.c.used == (tag.c.id > 2)),
    ]


def fill(shop: Shop, connection: Connection) -> None:
    """Replace all rows by a few new rows."""
    m = shop.models
    for table in (m.Note, m.Customer, m.Reading, m.Tag, m.Token):
        connection.execute(sa.delete(table.__table__))
    connection.execute(
        sa.insert(m.Customer.__table__), [{"id": n, "full name": f"c{n}", "visits": n % 3} for n in range(1, 6)]
    )
    connection.execute(
        sa.insert(m.Note.__table__), [{"id": n, "customer_id": 1 + n % 5, "body": f"n{n}"} for n in range(1, 8)]
    )
    connection.execute(
        sa.insert(m.Reading.__table__), [{"sensor": s, "at": n, "value": n / 2} for s in "ab" for n in range(1, 5)]
    )
    connection.execute(sa.insert(m.Tag.__table__), [{"id": n, "name": f"tag {n}"} for n in range(1, 7)])
    connection.execute(
        sa.insert(m.Token.__table__), [{"id": uuid.UUID(int=n), "used": bool(n % 2)} for n in range(1, 6)]
    )


def chance(engine: str) -> Any:
    """Return a volatile number from 0 to 1."""
    if engine == "sqlite":
        return sa.func.abs(sa.func.random() % 1000) / 1000.0
    return sa.func.random() if engine == "postgresql" else sa.func.rand()


def drawn_rows(target: Target, engine: str, count: int) -> Any:
    """Return a condition for rows drawn by chance. MySQL reads the changed table only in a derived table."""
    drawn = sa.select(*target.key).order_by(chance(engine)).limit(count).subquery("drawn")
    columns = sa.tuple_(*target.key) if len(target.key) > 1 else target.key[0]
    return columns.in_(sa.select(*drawn.c))


@st.composite
def conditions(draw: Draw, target: Target, engine: str, *, deletes: bool) -> list[Any]:
    first = target.key[0]
    values: dict[Any, list[Any]] = {sa.Integer: [1, 2, 3], sa.Uuid: [uuid.UUID(int=n) for n in (1, 2)]}
    some = values.get(type(first.type), ["a"])
    kinds: dict[str, Callable[[], list[Any]]] = {
        "all": list,
        "key": lambda: [first == some[0]],
        "keys": lambda: [first.in_(some)],
        "value": lambda: [target.value >= 1] if target.value.type.python_type is int else [target.value.is_(True)],
        "chance": lambda: [chance(engine) < 0.5],
        "key and chance": lambda: [first == some[0], chance(engine) < 0.5],
        "drawn": lambda: [drawn_rows(target, engine, draw(st.integers(1, 3)))],
        "computed": lambda: [first == sa.bindparam(None, callable_=lambda: random.choice(some), type_=first.type)],
        "exists": lambda: [sa.exists().where(target.joined)],
        "in": lambda: [first.in_(sa.select(first))] if engine == "sqlite" else [first.in_(some), sa.true()],
    }
    if engine != "sqlite" or not deletes:
        kinds["join"] = lambda: [target.joined]
        kinds["join and chance"] = lambda: [target.joined, chance(engine) < 0.7]
    return kinds[draw(st.sampled_from(sorted(kinds)))]()


@st.composite
def assignments(draw: Draw, target: Target, engine: str) -> dict[str, Any]:
    """Return new values that give no key twice."""
    name, value = str(target.value.key), target.value
    if value.type.python_type is bool:
        return {name: sa.not_(value)}
    if value.primary_key:
        far = sa.func.floor(chance(engine) * 1_000_000) * 100 if engine != "sqlite" else sa.func.abs(
            sa.func.random() % 1_000_000) * 100  # fmt: skip
        return {name: value + draw(st.sampled_from([100, far, sa.bindparam(None, callable_=lambda: 100)]))}
    if value.foreign_keys:
        return {name: draw(st.integers(1, 2))}
    return {name: draw(st.sampled_from([value + 1, sa.func.coalesce(value, 0) * 2, 7]))}


@st.composite
def statements(draw: Draw, shop: Shop) -> Any:
    engine, dialect = shop.engine.dialect.name, shop.engine.dialect
    target = draw(st.sampled_from(targets(shop)))
    deletes = draw(st.booleans())
    statement: Any = sa.delete(target.table) if deletes else sa.update(target.table)
    where = draw(conditions(target, engine, deletes=deletes))
    statement = statement.where(*where)
    if not deletes:
        statement = statement.values(draw(assignments(target, engine)))
    joins = any(target.joined is part for part in where)
    able = dialect.delete_returning if deletes else dialect.update_returning
    if able and not (joins and not dialect.update_returning_multifrom):
        columns = draw(st.sampled_from([(), (target.value,), target.key, tuple(target.table.c)]))
        statement = statement.returning(*columns) if columns else statement
    elif engine == "mysql" and not joins and draw(st.booleans()):
        statement = statement.with_dialect_options(mysql_limit=draw(st.integers(1, 4)))
    return statement


@pytest.fixture(scope="module", params=ENGINES)
def shop(request: pytest.FixtureRequest, shop_lender: Any) -> Any:
    with shop_lender.lend(request.param) as lent:
        yield lent


@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_outbox_has_the_rows_that_a_statement_changed(shop: Shop, data: st.DataObject) -> None:
    # The draws come first, because the database decides by chance which statement fails.
    program = data.draw(st.lists(statements(shop), min_size=1, max_size=3))
    with shop.engine.begin() as connection:
        fill(shop, connection)
    try:
        with shop.engine.begin() as connection:
            for statement in program:
                connection.execute(statement)
    except sa.exc.IntegrityError:
        # A parent that has children, or a key that exists already.
        pass
    shop.take()
    assert shop.mirror == shop.rows()
