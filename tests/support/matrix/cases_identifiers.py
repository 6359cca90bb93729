"""Change tables with unusual names and shapes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from support.matrix.runner import Stage, case


def play(stage: Stage, table: sa.Table, value: object = 5) -> None:
    """Insert, change and delete rows of a table. The first column is the key. The second column takes ``value``."""
    key, other = list(table.columns)[:2]

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(table), [{key.key: i} for i in range(1, 8)])

    @stage.work
    def change(s: Session) -> None:
        c = s.connection()
        c.execute(sa.update(table).where(key == 1).values({other: value}))
        c.execute(sa.update(table).where(key > 5).values({other: value}))
        c.execute(sa.delete(table).where(key.in_([2, 3])))
        c.execute(sa.insert(table).values([{key: 20}, {key: 21}]))
        c.execute(sa.update(table).where(key == 4).values({key: key + 100}))
        c.execute(sa.update(table).where(key == 5).values({key: 105}).execution_options(synchronize_session=False))


def integers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer, primary_key=i == 0, autoincrement=False) for i, name in enumerate(names)]


@case()
def reserved_words(stage: Stage) -> None:
    play(stage, stage.table("select", *integers("order", "from", "group", "user", "key", "values")))


@case()
def mixed_case(stage: Stage) -> None:
    play(stage, stage.table("MixedCase", *integers("Id", "camelCase", "UPPER")))


@case()
def names_with_anything_in_them(stage: Stage) -> None:
    play(stage, stage.table("it's a table", *integers("the key", "100%", "a:b", "quote'd", "é", "back\\slash", "(p)")))


@case()
def columns_named_as_ours(stage: Stage) -> None:
    names = ("k0", "id", "tx", "changes", "rowcast_tx", "line", "n", "k", "a", "t", "v", "op", "rowcast", "before")
    play(stage, stage.table("named_as_ours", *integers(*names)))


@case()
def key_columns_named_as_ours(stage: Stage) -> None:
    for name in ("n", "line", "k0", "changes", "keys0", "b"):
        play(stage, stage.table(f"key_named_{name}", *integers(name, "other")))


@case()
def attributes_named_as_other_columns(stage: Stage) -> None:
    table = stage.table(
        "swapped_names",
        sa.Column("a", sa.Integer, primary_key=True, key="b", autoincrement=False),
        sa.Column("b", sa.Integer, key="a"),
    )
    play(stage, table)


@case()
def only_a_key(stage: Stage) -> None:
    table = stage.table("only_a_key", *integers("a"), sa.Column("b", sa.Integer, primary_key=True, autoincrement=False))

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(table), [{"a": i, "b": i} for i in (1, 2, 3)])

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.delete(table).where(table.c.a == 1))
        s.execute(sa.update(table).where(table.c.a == 2).values(b=9))


@case(changes=False)
def a_table_that_stays_empty(stage: Stage) -> None:
    table = stage.table("always_empty", *integers("id", "n"))

    @stage.work
    def nothing(s: Session) -> None:
        s.execute(sa.delete(table))
        s.execute(sa.update(table).values(n=1))
        s.execute(sa.insert(table).values(id=1))
        s.execute(sa.delete(table))


def play_wide(stage: Stage, columns: int) -> None:
    """Insert, change and delete a row of a table with many columns.

    Few statements, because each form of statement on the table takes a second to compile. The statements of ``play`` on
    narrow tables have the other forms.
    """
    table = stage.table("wide", *integers("id", *(f"c{i}" for i in range(columns - 1))))

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(table), [{"id": i} for i in (1, 2, 3)])

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.update(table).where(table.c.id == 1).values(c0=5))
        s.execute(sa.delete(table).where(table.c.id == 2))
        s.execute(sa.insert(table).values(id=20))


@case("postgresql")
def sixteen_hundred_columns(stage: Stage) -> None:
    """Change a table with PostgreSQL's maximum of columns."""
    play_wide(stage, 1_600)


@case("mariadb", "mysql")
def a_thousand_columns(stage: Stage) -> None:
    """Change a table with nearly InnoDB's maximum of 1,017 columns."""
    play_wide(stage, 1_000)


@case("sqlite")
def two_thousand_columns(stage: Stage) -> None:
    """Change a table with SQLite's maximum of columns."""
    play_wide(stage, 2_000)


@case("postgresql")
def partitions_and_views(stage: Stage) -> None:
    """Capture changes of a partitioned table through the table.

    A statement on a view or on a partition's own name is not a statement on the captured table.
    """
    table = stage.table("partitioned", *integers("id", "n"), postgresql_partition_by="RANGE (id)")
    for name, bounds in (("partitioned_low", "(0) TO (100)"), ("partitioned_high", "(100) TO (1000)")):
        create = sa.DDL(f"CREATE TABLE {name} PARTITION OF partitioned FOR VALUES FROM {bounds}")
        sa.event.listen(table, "after_create", create)
    sa.event.listen(table, "after_create", sa.DDL("CREATE VIEW partitioned_view AS SELECT * FROM partitioned"))
    play(stage, table)
