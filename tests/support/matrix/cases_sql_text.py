"""Change rows in savepoints and two-phase commits, by DML in common table expressions, and by SQL text."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from support.matrix.cases_unit_of_work import items
from support.matrix.runner import Stage, case, prepare_connections

ASYNC_DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}


@case()
def savepoints(stage: Stage) -> None:
    Item = items(stage, "savepoints")

    @stage.work
    def change(s: Session) -> None:
        s.get_one(Item, 1).name = "outer"
        s.flush()
        nested = s.begin_nested()
        s.get_one(Item, 2).name = "rolled back"
        s.add(Item(name="rolled back"))
        s.execute(sa.delete(Item).where(Item.id == 3))
        s.flush()
        nested.rollback()
        with s.begin_nested():
            s.get_one(Item, 4).name = "kept"
            with s.begin_nested():
                s.add(Item(name="kept too"))

    @stage.work
    def rolled_back(s: Session) -> None:
        s.execute(sa.delete(Item))
        s.rollback()


@case()
def a_failure_that_the_application_survives(stage: Stage) -> None:
    Item = items(stage, "survived")

    @stage.work
    def change(s: Session) -> None:
        s.add(Item(name="before"))
        s.flush()
        with pytest.raises(sa.exc.IntegrityError), s.begin_nested():
            s.execute(sa.insert(Item), [{"id": 801}, {"id": 802}, {"id": 1}, {"id": 803}])
        s.add(Item(name="after"))


@case("postgresql", "mariadb", "mysql")
def two_phase_commit(stage: Stage) -> None:
    Item = items(stage, "two_phase")

    @stage.work
    def change(s: Session) -> None:
        s.commit()
        with stage.engine.connect() as connection:
            transaction = connection.begin_twophase()
            connection.execute(sa.update(Item.__table__).where(Item.id == 1).values(name="prepared"))
            transaction.prepare()
            transaction.commit()
            transaction = connection.begin_twophase()
            connection.execute(sa.update(Item.__table__).where(Item.id == 2).values(name="rolled back"))
            transaction.prepare()
            transaction.rollback()


@case()
def a_session_joined_to_an_outer_transaction(stage: Stage) -> None:
    Item = items(stage, "joined_session")

    @stage.work
    def change(s: Session) -> None:
        s.commit()
        with stage.engine.connect() as connection, connection.begin():
            with stage.sessions(bind=connection, join_transaction_mode="create_savepoint") as joined:
                joined.get_one(Item, 1).name = "joined"
                joined.commit()
            with stage.sessions(bind=connection, join_transaction_mode="create_savepoint") as joined:
                joined.get_one(Item, 2).name = "rolled back"
                joined.flush()
                joined.rollback()


@case()
def asynchronous(stage: Stage) -> None:
    Item = items(stage, "asynchronous")

    async def change() -> None:
        engine = create_async_engine(stage.engine.url.set(drivername=ASYNC_DRIVERS[stage.dialect]))
        prepare_connections(engine.sync_engine, stage.schema)
        sessions = async_sessionmaker(engine, class_=AsyncSession)
        stage.capture.install(sessions)
        async with sessions.begin() as s:
            s.add(Item(name="async"))
            for item in await s.scalars(sa.select(Item).where(Item.id < 4)):
                await s.delete(item)
            await s.execute(sa.insert(Item), [{"name": "p"}, {"name": "q"}])
            await s.execute(sa.update(Item).where(Item.id == 5).values(id=Item.id + 100))
        await engine.dispose()

    @stage.work
    def run(s: Session) -> None:
        s.commit()
        # The application may run in an event loop of its own.
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(asyncio.run, change()).result()


@case("postgresql")
def dml_in_common_table_expressions(stage: Stage) -> None:
    Item = items(stage, "in_ctes")
    table = Item.__table__
    archive = stage.table(
        "in_ctes_archive", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(40))
    )
    child = stage.table(
        "in_ctes_child",
        sa.Column("item_id", sa.ForeignKey("in_ctes.id", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True),
    )

    @stage.seed
    def more(s: Session) -> None:
        s.execute(sa.insert(table), [{"name": f"more {i}"} for i in range(20)])
        s.execute(sa.insert(child), [{"item_id": i} for i in range(1, 20)])

    @stage.work
    def inserting(s: Session) -> None:
        inserted = (
            sa.insert(table).values([{"name": "x"}, {"name": "y"}]).returning(table.c.name, table.c.id).cte("ins")
        )
        assert sorted(s.scalars(sa.select(inserted.c.name))) == ["x", "y"]

    @stage.work
    def nobody_reads_it(s: Session) -> None:
        updated = sa.update(table).where(table.c.id < 3).values(number=50).returning(table.c.id).cte("upd")
        assert s.execute(sa.select(sa.literal(1)).where(sa.false()).add_cte(updated)).all() == []

    @stage.work
    def moving(s: Session) -> None:
        gone = sa.delete(table).where(table.c.id.in_([4, 5])).returning(table.c.id, table.c.name).cte("gone")
        move = sa.insert(archive).from_select(["id", "name"], sa.select(gone.c.id, gone.c.name))
        # psycopg forgets the number of rows of an INSERT otherwise.
        moved = s.execute(move, execution_options={"preserve_rowcount": True})
        assert isinstance(moved, sa.CursorResult)
        assert moved.rowcount == 2

    @stage.work
    def two_and_the_orm(s: Session) -> None:
        first = sa.update(Item).where(Item.id == 6).values(name="six").returning(Item.id).cte("first")
        second = sa.insert(Item).values(name="seven").returning(Item.id).cte("second")
        found = s.execute(sa.select(Item.name, second.c.id).join(first, first.c.id == Item.id).join(second, sa.true()))
        # The outer SELECT reads the table as before the statement.
        assert [name for name, _ in found] == ["more 0"]

    @stage.work
    def rekeying(s: Session) -> None:
        moved = sa.update(table).where(table.c.id.in_([8, 9])).values(id=table.c.id + 500).returning(table.c.id)
        assert sorted(s.scalars(sa.select(moved.cte("moved").c.id))) == [508, 509]


@case()
def text_whose_rows_are_named(stage: Stage) -> None:
    Item = items(stage, "named_rows")
    table = Item.__table__

    def named(*keys: int) -> Any:
        return {"rowcast": {table: list(keys)}}

    @stage.work
    def text(s: Session) -> None:
        s.execute(sa.text("UPDATE named_rows SET name = 'text' WHERE id < 3"), execution_options=named(1, 2))
        s.execute(sa.text("DELETE FROM named_rows WHERE id = 3"), execution_options=named(3))
        s.execute(sa.text("INSERT INTO named_rows (id, name) VALUES (70, 'new')"), execution_options=named(70, 999))

    @stage.work
    def driver(s: Session) -> None:
        c = s.connection()
        c.exec_driver_sql("UPDATE named_rows SET name = 'driver' WHERE id = 4", execution_options=named(4))
        if stage.dialect == "mysql":
            c.exec_driver_sql("REPLACE INTO named_rows (id, name) VALUES (5, 'replaced')", execution_options=named(5))

    @stage.work
    def ignored_but_the_same_afterwards(s: Session) -> None:
        s.execute(sa.text("UPDATE named_rows SET number = 7"), execution_options={"rowcast": "ignore"})
