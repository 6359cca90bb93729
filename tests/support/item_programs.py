"""Draw random statements on a table ``item(id, n, name)``, and fold the outbox into a copy of the table."""

from __future__ import annotations

from typing import Any

import orjson
import sqlalchemy as sa
from hypothesis import strategies as st

Statement = tuple[Any, ...]

IDS = st.integers(0, 6)
NAMES = st.sampled_from("ab")
STATEMENTS: list[st.SearchStrategy[Statement]] = [
    st.tuples(st.just("insert"), IDS, NAMES),
    st.tuples(st.just("insert many"), st.lists(IDS, min_size=2, max_size=3), NAMES),
    st.tuples(st.just("update key"), IDS, NAMES),
    st.tuples(st.just("update name"), NAMES, IDS),
    st.tuples(st.just("update many"), st.lists(IDS, min_size=2, max_size=4), IDS),
    st.tuples(st.just("rename"), IDS, IDS),
    st.tuples(st.just("delete key"), IDS),
    st.tuples(st.just("delete many"), st.lists(IDS, min_size=2, max_size=3)),
    st.tuples(st.just("delete name"), NAMES),
]


def item_table(metadata: sa.MetaData, *columns: sa.Column[Any]) -> sa.Table:
    """Add the table to the metadata. ``columns``: further columns."""
    return sa.Table(
        "item",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer),
        sa.Column("name", sa.String(10)),
        *columns,
    )


def execute(connection: sa.Connection, item: sa.Table, statement: Statement) -> None:
    """Execute a statement of ``STATEMENTS``, unless it has no keys. Raises IntegrityError if a key exists already."""
    key, by_key = item.c.id, item.c.id == sa.bindparam("key")
    match statement:
        case "insert", new, name:
            connection.execute(sa.insert(item), {"id": new, "n": new, "name": name})
        case "insert many", new, name:
            connection.execute(sa.insert(item), [{"id": i, "n": i, "name": name} for i in new])
        case "update key", old, name:
            connection.execute(sa.update(item).where(key == old).values(name=name))
        case "update name", name, n:
            connection.execute(sa.update(item).where(item.c.name == name).values(n=n))
        case "update many" | "delete many", [], *_:
            pass
        case "update many", keys, n:
            connection.execute(sa.update(item).where(by_key), [{"key": i, "n": n} for i in keys])
        case "rename", old, new:
            connection.execute(sa.update(item).where(key == old).values(id=new))
        case "delete key", old:
            connection.execute(sa.delete(item).where(key == old))
        case "delete many", keys:
            connection.execute(sa.delete(item).where(by_key), [{"key": i} for i in keys])
        case "delete name", name:
            connection.execute(sa.delete(item).where(item.c.name == name))
        case _:
            raise ValueError(statement)


def folded(connection: sa.Connection, item: sa.Table, outbox: sa.Table) -> dict[int, dict[str, Any]]:
    """Return the rows of the items by key, as the outbox has them. Raises KeyError for a delete without a row."""
    copy: dict[int, dict[str, Any]] = {}
    for line in "".join(connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id))).splitlines():
        change = orjson.loads(line)
        if not change["t"].endswith(f".{item.name}"):
            continue
        if change["op"] == "d":
            del copy[change["k"]["id"]]
        else:
            copy[change["k"]["id"]] = change["a"]
    return copy


def stored(connection: sa.Connection, item: sa.Table) -> dict[int, dict[str, Any]]:
    """Return the rows of the items by key."""
    return {row.id: dict(row._mapping) for row in connection.execute(sa.select(item))}
