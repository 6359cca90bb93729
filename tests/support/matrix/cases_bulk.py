"""Change many rows with one statement: bulk operations, INSERT, UPDATE and DELETE of the ORM and of Core, upserts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from support.matrix.cases_unit_of_work import items
from support.matrix.runner import Stage, case


def upsert(stage: Stage, entity: Any) -> Any:
    """Return an INSERT of the engine's dialect, with its clause for upserts."""
    return {"postgresql": postgresql, "sqlite": sqlite, "mysql": mysql}[stage.dialect].insert(entity)


def on_conflict(stage: Stage, statement: Any, on: list[str], **values: Any) -> Any:
    """Add the engine's clause that updates the existing row."""
    if stage.dialect == "mysql":
        return statement.on_duplicate_key_update(**values)
    return statement.on_conflict_do_update(index_elements=on, set_=values)


@case()
def bulk_methods(stage: Stage) -> None:
    Item = items(stage, "bulk_methods")

    @stage.work
    def change(s: Session) -> None:
        s.bulk_save_objects([Item(name=f"saved {i}") for i in range(3)])
        s.bulk_save_objects([Item(id=61, name="x"), Item(id=62, name="y")])
        s.bulk_insert_mappings(sa.inspect(Item), [{"name": "a"}, {"name": "b"}])
        s.bulk_update_mappings(sa.inspect(Item), [{"id": 1, "name": "c"}, {"id": 2, "number": 9}])


@case()
def inserts_of_many_rows(stage: Stage) -> None:
    Item = items(stage, "many_rows")

    @stage.work
    def orm(s: Session) -> None:
        s.execute(sa.insert(Item), [{"name": f"many {i}"} for i in range(1_200)])
        s.execute(sa.insert(Item).values([{"name": "v1"}, {"name": "v2"}]))
        s.execute(sa.insert(Item).values([{"name": "one of several"}]))

    @stage.work
    def core(s: Session) -> None:
        table = Item.__table__
        c = s.connection()
        c.execute(sa.insert(table), [{"name": f"core {i}"} for i in range(40)])
        c.execute(sa.insert(table), [{"id": 5_000, "name": "given"}, {"id": 5_001, "name": "given"}])
        c.execute(sa.insert(table).values([{"name": "w1"}, {"name": "w2"}]))
        c.execute(sa.insert(table).inline().values(name=sa.func.upper("inline")))
        c.execute(sa.insert(table), {"name": "one"})
        c.execute(sa.insert(table).values([(6_000, "by position", 1), (6_001, "by position", 2)]))

    @stage.work
    def engine(s: Session) -> None:
        table = Item.__table__
        assert isinstance(s.get_bind(), sa.Engine)
        s.commit()
        with stage.engine.begin() as c:
            c.execute(sa.insert(table), [{"name": "of the engine"}])


@case("postgresql", "mariadb", "sqlite")
def inserts_from_a_select(stage: Stage) -> None:
    """Insert rows from a SELECT. MySQL is left out because the server returns no keys of these rows."""
    Item = items(stage, "from_select")

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.insert(Item).from_select(["name"], sa.select(Item.name).where(Item.id < 3)))


@case("mariadb")
def inserts_where_the_database_returns_no_keys(stage: Stage) -> None:
    """Insert rows into MariaDB without RETURNING, to make the server behave like MySQL."""
    Item = items(stage, "no_returning")

    @stage.work
    def change(s: Session) -> None:
        s.commit()
        dialect: Any = stage.engine.dialect
        able = {name: getattr(dialect, name) for name in ("insert_returning", "delete_returning")}
        table = Item.__table__
        try:
            for name in able:
                setattr(dialect, name, False)
            stage.engine.clear_compiled_cache()
            result = s.connection().execute(sa.insert(table), [{"name": f"many {i}"} for i in range(5)])
            # mysql-connector-python forgets the number when SQLAlchemy closes the cursor.
            assert result.rowcount == (-1 if dialect.driver == "mysqlconnector" else 5)
            s.execute(sa.insert(Item).values([{"name": "v1"}, {"name": "v2"}]))
            s.execute(sa.insert(Item), [{"name": "orm 1"}, {"name": "orm 2"}])
            s.add_all([Item(name="unit 1"), Item(name="unit 2")])
            s.flush()
            statement = mysql.insert(table).values([{"id": 1, "name": "up"}, {"id": 901, "name": "in"}])
            s.execute(statement.on_duplicate_key_update(name="there"))
            s.execute(sa.delete(Item).where(Item.name == "item 3"))
            s.commit()
        finally:
            for name, value in able.items():
                setattr(dialect, name, value)
            stage.engine.clear_compiled_cache()


@case("postgresql", "mariadb", "sqlite")
def own_returning(stage: Stage) -> None:
    """Return the application's own result, with and without the key in RETURNING."""
    Item = items(stage, "own_returning")
    table = Item.__table__

    @stage.work
    def inserting(s: Session) -> None:
        c = s.connection()
        one = c.execute(sa.insert(table).values(name="core").returning(table.c.name, table.c.number))
        assert list(one.keys()) == ["name", "number"]
        assert [dict(row) for row in one.mappings()] == [{"name": "core", "number": 7}]
        many = sa.insert(table).returning(table.c.name)
        assert sorted(c.scalars(many, [{"name": "p"}, {"name": "q"}])) == ["p", "q"]
        assert c.execute(sa.insert(table).values(name="with").returning(table)).one().name == "with"
        assert s.execute(sa.insert(Item).values(name="orm").returning(Item.name)).all() == [("orm",)]
        assert s.scalars(sa.insert(Item).returning(Item.name), [{"name": "r"}, {"name": "s"}]).all() == ["r", "s"]
        assert s.scalars(sa.insert(Item).values(name="t").returning(Item)).one().name == "t"
        several = sa.insert(Item).values([{"name": "x"}, {"name": "y"}]).returning(Item.number, Item.name)
        assert sorted(s.execute(several).all()) == [(7, "x"), (7, "y")]
        from_statement = sa.select(Item).from_statement(sa.insert(Item).values(name="from").returning(Item))
        assert s.scalars(from_statement).one().name == "from"


@case("postgresql", "sqlite")
def own_returning_of_changes(stage: Stage) -> None:
    Item = items(stage, "own_returning_changes")
    table = Item.__table__

    @stage.work
    def changing(s: Session) -> None:
        c = s.connection()
        assert c.scalars(sa.update(table).where(table.c.id == 1).values(name="a").returning(table.c.name)).all() == [
            "a"
        ]
        rows = s.execute(sa.update(Item).where(Item.id.in_([2, 3])).values(number=5).returning(Item.name)).all()
        assert sorted(rows) == [("item 2",), ("item 3",)]
        assert c.scalars(sa.delete(table).where(table.c.name == "item 4").returning(table.c.number)).all() == [7]

    @stage.work
    def computing_keys(s: Session) -> None:
        rekeyed = sa.update(table).where(table.c.id < 3).values(id=table.c.id + 100)
        assert sorted(s.connection().scalars(rekeyed.returning(table.c.number))) == [5, 7]
        assert s.connection().scalars(sa.update(table).values(id=table.c.id + 1_000).returning(table.c.id)).all()


@case()
def updates_and_deletes(stage: Stage) -> None:
    Item = items(stage, "updates")

    class Other(stage.Base):
        __tablename__ = "updates_other"
        id: Mapped[int] = mapped_column(primary_key=True)
        item_id: Mapped[int]
        text: Mapped[str] = mapped_column(sa.String(20))

    @stage.seed
    def more(s: Session) -> None:
        s.add_all([Item(id=i, name=f"more {i}") for i in range(10, 40)])
        s.add_all([Other(id=i, item_id=i, text=f"text {i}") for i in range(1, 4)])

    @stage.work
    def orm(s: Session) -> None:
        for i, how in enumerate(("auto", "fetch", "evaluate", False)):
            options = {"synchronize_session": how}
            s.execute(sa.update(Item).where(Item.id == 10 + i).values(name=str(how)), execution_options=options)
            s.execute(sa.delete(Item).where(Item.id == 20 + i), execution_options=options)
        s.execute(sa.update(Item), [{"id": 14, "name": "by key"}, {"id": 15, "number": 3}])
        s.query(Item).filter(Item.id == 16).update({"name": "query"})
        s.query(Item).filter(Item.id == 17).delete()
        s.execute(sa.update(Item).where(Item.id.in_([18, 19])).values(number=Item.number * 2))

    @stage.work
    def of_several_tables(s: Session) -> None:
        s.execute(sa.update(Item).where(Item.id == Other.item_id).values(number=Other.id + 50))
        s.execute(sa.delete(Item).where(Item.id.in_(sa.select(Other.item_id).where(Other.id == 3))))
        other = aliased(Item)
        if stage.dialect != "mysql":
            exists = sa.exists().where(other.id == Item.id - 1)
            s.execute(sa.update(Item).where(exists, Item.id > 30).values(name="has a neighbour"))

    @stage.work
    def with_parameters(s: Session) -> None:
        table = Item.__table__
        by_name = sa.update(table).where(table.c.name == sa.bindparam("which")).values(number=sa.bindparam("to"))
        s.connection().execute(by_name, [{"which": "more 30", "to": 1}, {"which": "more 31", "to": 2}])
        by_key = sa.update(table).where(table.c.id == sa.bindparam("which")).values(number=sa.bindparam("to"))
        s.connection().execute(by_key, [{"which": 32, "to": 1}, {"which": 999, "to": 2}, {"which": 33, "to": 3}])
        gone = sa.delete(table).where(table.c.id == sa.bindparam("which"))
        s.connection().execute(gone, [{"which": 34}, {"which": 35}, {"which": 998}])

    @stage.work
    def lambda_statement(s: Session) -> None:
        table = Item.__table__
        s.connection().execute(sa.lambda_stmt(lambda: sa.update(table).where(table.c.id == 36).values(name="lambda")))


@case("mariadb", "mysql")
def update_of_two_tables_at_once(stage: Stage) -> None:
    left = stage.table("two_left", sa.Column("id", sa.Integer, primary_key=True), sa.Column("a", sa.Integer))
    right = stage.table("two_right", sa.Column("id", sa.Integer, primary_key=True), sa.Column("b", sa.Integer))

    @stage.seed
    def rows(s: Session) -> None:
        for table in (left, right):
            s.execute(sa.insert(table), [{"id": i} for i in (1, 2, 3)])

    @stage.work
    def change(s: Session) -> None:
        both = sa.update(left).where(left.c.id == right.c.id, left.c.id < 3).values({left.c.a: 1, right.c.b: 2})
        s.execute(both)


@case()
def computed_keys(stage: Stage) -> None:
    Item = items(stage, "computed_keys")
    table = Item.__table__

    @stage.work
    def shift(s: Session) -> None:
        s.execute(sa.update(Item).where(Item.id > 3).values(id=Item.id + 1_000))

    @stage.work
    def shift_one(s: Session) -> None:
        s.execute(
            sa.update(Item).where(Item.id == 1).values(id=Item.id + 50),
            execution_options={"synchronize_session": False},
        )

    @stage.work
    def shift_each(s: Session) -> None:
        each = sa.update(table).where(table.c.id == sa.bindparam("which")).values(id=table.c.id + sa.bindparam("by"))
        assert s.connection().execute(each, [{"which": 2, "by": 70}, {"which": 3, "by": 80}]).rowcount == 2

    @stage.work
    def of_rows_that_are_not_all_there(s: Session) -> None:
        each = sa.update(table).where(table.c.id == sa.bindparam("which")).values(id=sa.bindparam("to"))
        s.connection().execute(each, [{"which": 83, "to": 84}, {"which": 998, "to": 999}])

    @stage.work
    def to_values(s: Session) -> None:
        s.execute(sa.update(Item).where(Item.name == "item 2").values(id=2_000))


class _Unique:
    def __init__(self, stage: Stage, table: str) -> None:
        self.table = stage.table(
            table,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(20), unique=True),
            sa.Column("number", sa.Integer),
        )
        self.child = stage.table(
            f"{table}_child",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("parent_id", sa.ForeignKey(f"{table}.id", ondelete="CASCADE")),
        )

        @stage.seed
        def rows(s: Session) -> None:
            s.execute(sa.insert(self.table), [{"name": f"n{i}", "number": i} for i in range(1, 9)])
            s.execute(sa.insert(self.child), [{"id": i, "parent_id": i} for i in range(1, 9)])


@case()
def upserts(stage: Stage) -> None:
    table = _Unique(stage, "upserts").table

    @stage.work
    def by_key_and_by_another_unique_column(s: Session) -> None:
        s.execute(on_conflict(stage, upsert(stage, table).values(id=1, name="n1", number=0), ["id"], number=100))
        # The statement proposes a different key than the key of the row that changes.
        s.execute(on_conflict(stage, upsert(stage, table).values(id=77, name="n2", number=0), ["name"], number=200))
        s.execute(on_conflict(stage, upsert(stage, table).values(id=78, name="new", number=0), ["name"], number=300))
        s.execute(on_conflict(stage, upsert(stage, table).values(name="n3", number=0), ["name"], number=400))

    @stage.work
    def of_many(s: Session) -> None:
        rows = [{"id": 79, "name": "n4", "number": 1}, {"id": 80, "name": "new 2", "number": 2}]
        # PyMySQL takes no parameters after the VALUES of an INSERT of many rows.
        number = sa.literal_column("500", sa.Integer)
        s.connection().execute(on_conflict(stage, upsert(stage, table), ["name"], number=number), rows)
        s.execute(on_conflict(stage, upsert(stage, table).values(rows), ["name"], number=600))

    @stage.work
    def that_do_nothing(s: Session) -> None:
        if stage.dialect == "mysql":
            ignoring = upsert(stage, table).prefix_with("IGNORE")
        else:
            ignoring = upsert(stage, table).on_conflict_do_nothing()
        s.execute(ignoring.values([{"id": 90, "name": "n5"}, {"id": 91, "name": "new 3"}]))


@case("postgresql", "sqlite")
def upserts_that_change_the_key(stage: Stage) -> None:
    table = stage.table(
        "upsert_keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(20), unique=True),
    )

    @stage.seed
    def rows(s: Session) -> None:
        s.execute(sa.insert(table), [{"id": i, "name": f"n{i}"} for i in (1, 2)])

    @stage.work
    def change(s: Session) -> None:
        s.execute(on_conflict(stage, upsert(stage, table).values(id=50, name="n1"), ["name"], id=60))


@case("sqlite")
def insert_or_replace(stage: Stage) -> None:
    unique = _Unique(stage, "replaced")
    table = unique.table

    @stage.work
    def change(s: Session) -> None:
        replace = sa.insert(table).prefix_with("OR REPLACE")
        s.execute(replace.values(id=1, name="n2", number=0))
        s.execute(replace.values([{"id": 100, "name": "n3"}, {"id": 101, "name": "n4"}]))
        s.connection().execute(replace, [{"name": "n5", "number": 5}, {"name": "fresh", "number": 6}])
        s.execute(replace.from_select(["id", "name"], sa.select(table.c.id + 200, table.c.name).where(table.c.id == 6)))
