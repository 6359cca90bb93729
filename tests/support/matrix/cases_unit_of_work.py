"""Change objects in sessions and let the unit of work write the statements."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    Mapped,
    Session,
    WriteOnlyMapped,
    composite,
    deferred,
    mapped_column,
    relationship,
)
from sqlalchemy.orm.attributes import flag_modified

from support.matrix.runner import Stage, case
from support.shop import Reversed


def items(stage: Stage, table: str) -> Any:
    """Return the mapped class of most cases, with a key, a text and a number."""

    class Item(stage.Base):
        __tablename__ = table
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column(sa.String(40))
        number: Mapped[int] = mapped_column(server_default="7")

    @stage.seed
    def rows(s: Session) -> None:
        s.add_all([Item(name=f"item {i}") for i in range(1, 6)])

    return Item


@case()
def values_that_the_database_makes(stage: Stage) -> None:
    class Made(stage.Base):
        __tablename__ = "made_by_database"
        id: Mapped[int] = mapped_column(primary_key=True)
        given: Mapped[int]
        default: Mapped[str] = mapped_column(sa.String(20), server_default="made")
        computed: Mapped[int] = mapped_column(sa.Computed("given * 2", persisted=True))

    @stage.seed
    def insert(s: Session) -> None:
        s.add_all([Made(given=1), Made(given=2)])

    @stage.work
    def change(s: Session) -> None:
        s.get_one(Made, 1).given = 10
        s.add(Made(given=3))


@case()
def sql_expressions_and_unloaded_attributes(stage: Stage) -> None:
    class Part(stage.Base):
        __tablename__ = "unloaded"
        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int]
        text = deferred(mapped_column(sa.Text))

    @stage.seed
    def rows(s: Session) -> None:
        s.add_all([Part(number=n, text=f"text {n}") for n in range(3)])

    @stage.work
    def by_expression(s: Session) -> None:
        part = s.get_one(Part, 1)
        part.number = Part.number + 100

    @stage.work
    def without_loading(s: Session) -> None:
        part = s.get_one(Part, 2)
        s.expire(part)
        part.number = 50


@case(changes=False)
def dirty_without_net_change(stage: Stage) -> None:
    Item = items(stage, "dirty")

    @stage.work
    def touch(s: Session) -> None:
        item = s.get_one(Item, 1)
        item.name = str(item.name)


@case()
def json_changed_in_place(stage: Stage) -> None:
    class Document(stage.Base):
        __tablename__ = "documents"
        id: Mapped[int] = mapped_column(primary_key=True)
        mutable: Mapped[Any | None] = mapped_column(MutableDict.as_mutable(sa.JSON()))
        plain: Mapped[Any | None] = mapped_column(sa.JSON())

    @stage.seed
    def rows(s: Session) -> None:
        s.add_all([Document(id=i, mutable={"n": 1}, plain={"n": 1}) for i in (1, 2)])
        s.add(Document(id=3, mutable=None, plain=None))
        s.execute(sa.insert(Document).values(id=4, mutable=sa.null(), plain=sa.null()))

    @stage.work
    def change(s: Session) -> None:
        first = s.get_one(Document, 1)
        assert first.mutable is not None
        first.mutable["deep"] = [1, None, "é😀"]
        document = s.get_one(Document, 2)
        assert document.plain is not None
        document.plain["m"] = 2
        flag_modified(document, "plain")
        s.get_one(Document, 3).plain = sa.null()


@case()
def stored_other_than_seen(stage: Stage) -> None:
    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    class Secret(stage.Base):
        __tablename__ = "secrets"
        id: Mapped[int] = mapped_column(primary_key=True)
        secret: Mapped[Any] = mapped_column(Reversed)
        colour: Mapped[Any] = mapped_column(sa.Enum(Colour, name="matrix_colour"))
        amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2))

    @stage.seed
    def rows(s: Session) -> None:
        s.add(Secret(secret="abc", colour=Colour.RED, amount=Decimal("1.5")))

    @stage.work
    def change(s: Session) -> None:
        secret = s.get_one(Secret, 1)
        secret.secret, secret.colour, secret.amount = "x'\\\"\n", Colour.BLUE, Decimal("2.50")


@case()
def attributes_named_otherwise(stage: Stage) -> None:
    @dataclass
    class Point:
        x: int
        y: int

    class Vertex(stage.Base):
        __tablename__ = "vertices"
        number: Mapped[int] = mapped_column("id", primary_key=True)
        x: Mapped[int] = mapped_column("x1")
        y: Mapped[int] = mapped_column("y1")
        at = composite(Point, "x", "y")
        _name: Mapped[str] = mapped_column("full name", sa.String(20), key="label")

        @hybrid_property
        def name(self) -> str:
            return self._name

        @name.inplace.setter
        def _set_name(self, value: str) -> None:
            self._name = value

    @stage.seed
    def rows(s: Session) -> None:
        s.add_all([Vertex(number=i, at=Point(i, i), name="a") for i in (1, 2, 3)])

    @stage.work
    def change(s: Session) -> None:
        s.get_one(Vertex, 1).at = Point(5, 6)
        s.get_one(Vertex, 2).name = "b"
        s.delete(s.get_one(Vertex, 3))
        s.execute(sa.update(Vertex).where(Vertex.number == 2).values({Vertex.at: Point(8, 9)}))


@case()
def joined_inheritance(stage: Stage) -> None:
    class Person(stage.Base):
        __tablename__ = "heirs"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(sa.String(10))
        name: Mapped[str] = mapped_column(sa.String(20))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

    class Engineer(Person):
        __tablename__ = "heirs_engineers"
        id: Mapped[int] = mapped_column(sa.ForeignKey("heirs.id"), primary_key=True)
        language: Mapped[str] = mapped_column(sa.String(20))
        __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012

    class Apprentice(Person):
        """Store apprentices in the table of the parent class."""

        trade: Mapped[str | None] = mapped_column(sa.String(20))
        __mapper_args__ = {"polymorphic_identity": "apprentice"}  # noqa: RUF012

    @stage.seed
    def rows(s: Session) -> None:
        s.add_all([Engineer(id=i, name=f"e{i}", language="python") for i in range(1, 5)])
        s.add(Person(id=9, name="p"))

    @stage.work
    def one_table_or_the_other(s: Session) -> None:
        s.get_one(Engineer, 1).language = "rust"
        s.get_one(Engineer, 2).name = "renamed"
        s.delete(s.get_one(Engineer, 3))
        s.add(Apprentice(id=10, name="a", trade="smith"))

    @stage.work
    def in_bulk(s: Session) -> None:
        s.execute(sa.insert(Engineer), [{"id": i, "name": "bulk", "language": "c"} for i in range(20, 23)])
        s.execute(sa.update(Engineer), [{"id": 20, "name": "both", "language": "d"}, {"id": 4, "language": "e"}])
        s.execute(sa.update(Person).where(Person.name == "p").values(name="q"))


@case()
def secondary_table_and_orphans(stage: Stage) -> None:
    links = stage.table(
        "links",
        sa.Column("page_id", sa.ForeignKey("pages.id"), primary_key=True),
        sa.Column("topic_id", sa.ForeignKey("topics.id"), primary_key=True),
    )

    class Topic(stage.Base):
        __tablename__ = "topics"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Line(stage.Base):
        __tablename__ = "page_lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        page_id: Mapped[int] = mapped_column(sa.ForeignKey("pages.id"))

    class Page(stage.Base):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        topics = relationship(Topic, secondary=links)
        lines = relationship(Line, cascade="all, delete-orphan")

    @stage.seed
    def rows(s: Session) -> None:
        topics = [Topic(id=i) for i in range(1, 4)]
        s.add_all([Page(id=i, topics=topics[:2], lines=[Line(), Line()]) for i in range(1, 4)])
        s.add(topics[2])

    @stage.work
    def change(s: Session) -> None:
        first, second = s.get_one(Page, 1), s.get_one(Page, 2)
        first.topics = [s.get_one(Topic, 3)]
        second.lines.pop()
        s.delete(s.get_one(Page, 3))


@case()
def post_update_and_versions(stage: Stage) -> None:
    class Widget(stage.Base):
        __tablename__ = "widgets"
        id: Mapped[int] = mapped_column(primary_key=True)
        version: Mapped[int] = mapped_column()
        favourite_id: Mapped[int | None] = mapped_column(sa.ForeignKey("widget_parts.id", name="favourite"))
        parts = relationship("WidgetPart", primaryjoin="Widget.id == WidgetPart.widget_id")
        favourite = relationship("WidgetPart", primaryjoin="Widget.favourite_id == WidgetPart.id", post_update=True)
        __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

    class WidgetPart(stage.Base):
        __tablename__ = "widget_parts"
        id: Mapped[int] = mapped_column(primary_key=True)
        widget_id: Mapped[int | None] = mapped_column(sa.ForeignKey("widgets.id", name="part_of"))

    @stage.seed
    def rows(s: Session) -> None:
        for i in (1, 2):
            part = WidgetPart()
            s.add(Widget(id=i, parts=[part, WidgetPart()], favourite=part))

    @stage.work
    def change(s: Session) -> None:
        widget = s.get_one(Widget, 1)
        widget.favourite = next(p for p in widget.parts if p is not widget.favourite)

    @stage.work
    def in_bulk_without_a_new_version(s: Session) -> None:
        s.execute(sa.update(Widget).where(Widget.id == 2).values(favourite_id=None))


@case()
def merged(stage: Stage) -> None:
    Item = items(stage, "merged")

    @stage.work
    def merge(s: Session) -> None:
        s.merge(Item(id=1, name="there", number=1))
        s.merge(Item(id=50, name="new", number=2))


@case()
def write_only_collection(stage: Stage) -> None:
    class Entry(stage.Base):
        __tablename__ = "log_entries"
        id: Mapped[int] = mapped_column(primary_key=True)
        log_id: Mapped[int] = mapped_column(sa.ForeignKey("logs.id"))
        text: Mapped[str] = mapped_column(sa.String(20))

    class Log(stage.Base):
        __tablename__ = "logs"
        id: Mapped[int] = mapped_column(primary_key=True)
        entries: WriteOnlyMapped[Entry] = relationship(Entry, cascade="all, delete-orphan", passive_deletes=True)

    @stage.seed
    def rows(s: Session) -> None:
        log = Log(id=1)
        log.entries.add_all([Entry(text=f"t{i}") for i in range(6)])
        s.add(log)

    @stage.work
    def change(s: Session) -> None:
        log = s.get_one(Log, 1)
        log.entries.add(Entry(text="added"))
        log.entries.remove(s.get_one(Entry, 1))
        s.flush()
        s.execute(log.entries.insert(), [{"text": "inserted 1"}, {"text": "inserted 2"}])
        s.execute(log.entries.update().values(text="updated").where(Entry.id == 2))
        s.execute(log.entries.delete().where(Entry.id == 3))


@case()
def tree_in_one_table(stage: Stage) -> None:
    class Node(stage.Base):
        __tablename__ = "nodes"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("nodes.id"))
        children = relationship("Node", cascade="all, delete-orphan")

    @stage.seed
    def rows(s: Session) -> None:
        s.add(Node(id=1, children=[Node(id=2, children=[Node(id=3)]), Node(id=4)]))

    @stage.work
    def change(s: Session) -> None:
        s.delete(s.get_one(Node, 2))
        parent = s.get_one(Node, 4)
        parent.children.append(Node(id=5, children=[Node(id=6)]))


@case()
def one_row_again_and_again(stage: Stage) -> None:
    Item = items(stage, "again")

    @stage.work
    def several_statements(s: Session) -> None:
        item = s.get_one(Item, 1)
        for i in range(5):
            item.number = i
            s.flush()
        s.execute(sa.update(Item).where(Item.id == 1).values(name="last"))

    @stage.work
    def insert_then_delete(s: Session) -> None:
        s.add(item := Item(id=60, name="gone"))
        s.flush()
        s.delete(item)

    @stage.work
    def delete_then_insert(s: Session) -> None:
        s.delete(s.get_one(Item, 2))
        s.flush()
        s.add(Item(id=2, name="back", number=0))
        s.flush()
        s.delete(s.get_one(Item, 3))
        s.flush()
        s.add(item := Item(id=3, name="back and gone"))
        s.flush()
        s.delete(item)


@case()
def primary_key_changes(stage: Stage) -> None:
    Item = items(stage, "rekeyed")

    @stage.work
    def change(s: Session) -> None:
        s.get_one(Item, 1).id = 71
        s.flush()
        s.get_one(Item, 2).id = 1
        s.flush()
        s.get_one(Item, 3).id = 73
        s.get_one(Item, 4).name = "beside"
