"""Change rows by foreign key actions: rows of children that the database changes without a statement."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from support.matrix.runner import Stage, case


def column(name: str, *arguments: sa.schema.SchemaItem, primary_key: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, *arguments, primary_key=primary_key, autoincrement=False, **options)


def family(stage: Stage, name: str, **actions: Any) -> tuple[sa.Table, sa.Table]:
    """Return a parent, and a child with a foreign key to the parent."""
    parent = stage.table(f"{name}_parent", column("id", primary_key=True), column("n"))
    child = stage.table(
        f"{name}_child",
        column("id", primary_key=True),
        column("parent_id", sa.ForeignKey(f"{name}_parent.id", **actions), server_default="9"),
    )

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(parent), [{"id": i, "n": i} for i in range(1, 10)])
        s.execute(sa.insert(child), [{"id": 10 * i + k, "parent_id": i} for i in range(1, 10) for k in (1, 2)])

    return parent, child


@case()
def on_delete_cascade(stage: Stage) -> None:
    parent, _ = family(stage, "delete_cascade", ondelete="CASCADE")
    stage.table(
        "delete_cascade_grandchild",
        column("id", primary_key=True),
        column("child_id", sa.ForeignKey("delete_cascade_child.id", ondelete="SET NULL")),
    )

    @stage.seed
    def grandchildren(s: Session) -> None:
        table = stage.metadata.tables["delete_cascade_grandchild"]
        s.execute(sa.insert(table), [{"id": i, "child_id": i} for i in (11, 12, 21, 31, 91)])

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.delete(parent).where(parent.c.id == 1))
        s.execute(sa.delete(parent).where(parent.c.n.in_([2, 3])))


@case()
def on_delete_set_null(stage: Stage) -> None:
    parent, _ = family(stage, "delete_null", ondelete="SET NULL")

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.delete(parent).where(parent.c.n < 3))


@case("postgresql", "sqlite")
def on_delete_set_default(stage: Stage) -> None:
    parent, _ = family(stage, "delete_default", ondelete="SET DEFAULT")

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.delete(parent).where(parent.c.n < 3))


@case()
def on_update_cascade(stage: Stage) -> None:
    parent, _ = family(stage, "update_cascade", onupdate="CASCADE")

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.update(parent).where(parent.c.id == 1).values(id=101))
        s.execute(sa.update(parent).where(parent.c.n == 2).values(id=parent.c.id + 200))


@case("postgresql", "mariadb", "sqlite")
def on_update_cascade_into_the_childs_key(stage: Stage) -> None:
    """Cascade a new key into the keys of two generations.

    The key of a line begins with the key of the order, and the key of a part begins with the key of the line. MySQL 9.7
    refuses the UPDATE of an order with several lines that have parts, because MySQL looks for all parts at the first
    line.
    """
    order = stage.table("keyed_orders", column("id", primary_key=True), column("n"))
    line = stage.table(
        "keyed_lines",
        column("order_id", sa.ForeignKey("keyed_orders.id", onupdate="CASCADE", ondelete="CASCADE"), primary_key=True),
        column("number", primary_key=True),
        column("amount"),
    )
    part = stage.table(
        "keyed_parts",
        column("order_id", primary_key=True),
        column("number", primary_key=True),
        column("part", primary_key=True),
        sa.ForeignKeyConstraint(
            ["order_id", "number"],
            ["keyed_lines.order_id", "keyed_lines.number"],
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
    )

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(order), [{"id": i, "n": i} for i in range(1, 6)])
        s.execute(sa.insert(line), [{"order_id": i, "number": k, "amount": 1} for i in range(1, 6) for k in (1, 2)])
        s.execute(sa.insert(part), [{"order_id": i, "number": 1, "part": k} for i in range(1, 6) for k in (1, 2, 3)])

    @stage.work
    def by_value(s: Session) -> None:
        s.execute(sa.update(order).where(order.c.id == 1).values(id=101))

    @stage.work
    def by_expression(s: Session) -> None:
        s.execute(sa.update(order).where(order.c.n.in_([2, 3])).values(id=order.c.id + 200))

    @stage.work
    def many_and_then_more(s: Session) -> None:
        moved = sa.update(order).where(order.c.id == sa.bindparam("which")).values(id=sa.bindparam("to"))
        s.connection().execute(moved, [{"which": 4, "to": 404}, {"which": 5, "to": 405}])
        s.execute(sa.update(line).where(line.c.order_id == 404).values(amount=7))
        s.execute(sa.delete(order).where(order.c.id == 405))


@case()
def on_update_through_a_unique_column(stage: Stage) -> None:
    parent = stage.table(
        "named_parents", column("id", primary_key=True), sa.Column("name", sa.String(20), nullable=False, unique=True)
    )
    child = stage.table(
        "named_children",
        sa.Column("parent", sa.ForeignKey("named_parents.name", onupdate="CASCADE"), primary_key=True),
        column("n", primary_key=True),
    )

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(parent), [{"id": i, "name": f"p{i}"} for i in (1, 2, 3)])
        s.execute(sa.insert(child), [{"parent": f"p{i}", "n": k} for i in (1, 2, 3) for k in (1, 2)])

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.update(parent).where(parent.c.id == 1).values(name="renamed"))
        s.execute(sa.update(parent).where(parent.c.name == "p2").values(name=parent.c.name + "!"))


@case()
def cascades_in_one_table(stage: Stage) -> None:
    node = stage.table(
        "cascading_nodes",
        column("id", primary_key=True),
        column("parent_id", sa.ForeignKey("cascading_nodes.id", ondelete="CASCADE")),
    )

    @stage.seed
    def rows(s: Session) -> None:
        for i, parent in ((1, None), (2, 1), (3, 2), (4, 2), (5, 4), (6, None), (7, 6)):
            s.execute(sa.insert(node).values(id=i, parent_id=parent))

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.delete(node).where(node.c.id == 2))


@case("postgresql", "sqlite")
def updates_in_one_table(stage: Stage) -> None:
    """Cascade a new key within a single table. InnoDB refuses ON UPDATE CASCADE there."""
    node = stage.table(
        "rekeyed_nodes",
        column("id", primary_key=True),
        column("parent_id", sa.ForeignKey("rekeyed_nodes.id", onupdate="CASCADE")),
    )

    @stage.seed
    def rows(s: Session) -> None:
        for i, parent in ((1, None), (2, 1), (3, 1), (4, 2)):
            s.execute(sa.insert(node).values(id=i, parent_id=parent))

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.update(node).where(node.c.id == 1).values(id=100))
