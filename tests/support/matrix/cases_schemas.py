"""Change tables in several schemas, and tables that ``schema_translate_map`` moves to a different schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from support.matrix.runner import Stage, case


@case()
def tables_of_one_name_in_several_schemas(stage: Stage) -> None:
    """Change two tables of the same name in two schemas.

    A schema is a database in MariaDB and an attached file in SQLite.
    """
    here = stage.table("stocked", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    there = stage.table(
        "stocked", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer), schema=stage.schema
    )
    part = stage.table(
        "stocked_parts",
        sa.Column("id", sa.Integer, primary_key=True),
        # The parent is in the second schema, too, because a foreign key in SQLite cannot refer to a table in a
        # different file.
        sa.Column("stocked_id", sa.ForeignKey(f"{stage.schema}.stocked.id", ondelete="CASCADE")),
        schema=stage.schema,
    )

    @stage.seed
    def rows(s: Session) -> None:
        for table in (here, there):
            s.execute(sa.insert(table), [{"n": i} for i in range(1, 6)])
        s.execute(sa.insert(part), [{"id": i, "stocked_id": i} for i in range(1, 6)])

    @stage.work
    def change(s: Session) -> None:
        s.execute(sa.update(there).where(there.c.id == 1).values(n=10))
        s.execute(sa.update(here).where(here.c.id == 2).values(n=20))
        s.execute(sa.delete(there).where(there.c.n == 3))
        s.execute(sa.insert(there), [{"n": 6}, {"n": 7}])


@case()
def schema_translate_map(stage: Stage) -> None:
    class Tenant(stage.Base):
        __tablename__ = "tenants"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(sa.String(20), unique=True)
        rooms = relationship("Room", cascade="all, delete-orphan", passive_deletes=True)

    class Room(stage.Base):
        __tablename__ = "tenant_rooms"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[int] = mapped_column(sa.ForeignKey("tenants.id", ondelete="CASCADE"))

    tables = [Tenant.__table__, Room.__table__]
    other = sa.MetaData()
    for table in tables:
        copy = table.to_metadata(other, schema=stage.schema, referred_schema_fn=lambda *_: stage.schema)
        stage.copy(copy)
    options: Any = {"schema_translate_map": {None: stage.schema}}

    def fill(s: Session) -> None:
        s.add_all([Tenant(name=f"t{i}", rooms=[Room(), Room()]) for i in range(6)])

    def change(s: Session) -> None:
        tenants = s.scalars(sa.select(Tenant).order_by(Tenant.id)).all()
        tenants[0].name = "renamed"
        s.delete(tenants[1])
        s.flush()
        s.execute(sa.insert(Tenant), [{"name": "a"}, {"name": "b"}])
        s.execute(sa.update(Tenant).where(Tenant.name == "t2").values(name="u2"))
        s.execute(sa.delete(Tenant).where(Tenant.name.in_(["t3", "t4"])))
        s.execute(sa.update(Room).where(Room.tenant_id == tenants[5].id).values(id=Room.id + 1_000))

    @stage.seed
    def untranslated(s: Session) -> None:
        fill(s)

    @stage.seed
    def of_the_connection(s: Session) -> None:
        other.create_all(s.connection())
        s.commit()
        s.connection(execution_options=options)
        fill(s)

    @stage.work
    def work_of_the_connection(s: Session) -> None:
        s.connection(execution_options=options)
        change(s)

    @stage.work
    def of_the_engine(s: Session) -> None:
        s.commit()
        with Session(stage.engine.execution_options(**options)) as translated:
            translated.add(Tenant(name="of the engine"))
            translated.commit()

    @stage.work
    def of_the_statement(s: Session) -> None:
        s.execute(sa.insert(Tenant).values(name="of the statement"), execution_options=options)
        s.execute(sa.delete(Tenant).where(Tenant.name == "renamed"), execution_options=options)
        s.execute(sa.update(Tenant).where(Tenant.name == "t0").values(name="untranslated"))

    @stage.work
    def of_text(s: Session) -> None:
        # ``schema_translate_map`` translates neither SQL text nor the tables in the execution option.
        s.execute(
            sa.text("UPDATE tenants SET name = 'by text' WHERE id = 2"), execution_options={"rowcast": {Tenant: [2]}}
        )
