"""Define the models of a small application, and a mirror that replays the outbox, for tests of the capture."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

from rowcast.producer import Capture
from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.line_parser import Change
from rowcast.shared.images import RowImage, register_functions
from rowcast.shared.tables.type_mapping import portable_type


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Reversed(sa.TypeDecorator[str]):
    """Store each text backwards, to make the stored value differ from the value in Python."""

    impl = sa.String(60)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value[::-1] if value is not None else None

    process_result_value = process_bind_param


class Models:
    """Map the classes of one test, in a new metadata."""

    def __init__(self) -> None:
        class Base(DeclarativeBase):
            if TYPE_CHECKING:
                __table__: ClassVar[sa.Table]

        order_tag = sa.Table(
            "order_tags",
            Base.metadata,
            sa.Column("order_id", sa.ForeignKey("orders.id"), primary_key=True),
            sa.Column("tag_id", sa.ForeignKey("tags.id"), primary_key=True),
        )

        class Tag(Base):
            __tablename__ = "tags"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(sa.String(20), unique=True)

        class Customer(Base):
            __tablename__ = "customers"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None] = mapped_column("full name", sa.String(60))
            secret: Mapped[str | None] = mapped_column(Reversed)
            visits: Mapped[int] = mapped_column(server_default="0")
            settings: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(sa.JSON()))
            colour: Mapped[Colour | None] = mapped_column(sa.Enum(Colour))
            orders: Mapped[list[Order]] = relationship(back_populates="customer", cascade="all, delete-orphan")
            notes: Mapped[list[Note]] = relationship(cascade="all", passive_deletes=True)

        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            customer_id: Mapped[int] = mapped_column(sa.ForeignKey("customers.id"))
            amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2))
            placed: Mapped[date | None]
            created: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
            status: Mapped[str] = mapped_column(sa.String(10), server_default="new")
            customer: Mapped[Customer] = relationship(back_populates="orders")
            tags: Mapped[list[Tag]] = relationship(secondary=order_tag)

        class Note(Base):
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            customer_id: Mapped[int] = mapped_column(sa.ForeignKey("customers.id", ondelete="CASCADE"))
            body: Mapped[str] = mapped_column(sa.Text)
            data: Mapped[bytes | None] = mapped_column(sa.LargeBinary)

        class Reading(Base):
            __tablename__ = "readings"
            sensor: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
            at: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
            value: Mapped[float | None] = mapped_column(sa.Double)

        class Token(Base):
            __tablename__ = "tokens"
            id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
            used: Mapped[bool] = mapped_column(default=False)

        class Person(Base):
            __tablename__ = "people"
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str] = mapped_column(sa.String(10))
            name: Mapped[str] = mapped_column(sa.String(20))
            boss_id: Mapped[int | None] = mapped_column(sa.ForeignKey("people.id"))
            __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

        class Engineer(Person):
            __tablename__ = "engineers"
            id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"), primary_key=True)
            language: Mapped[str] = mapped_column(sa.String(20))
            __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012

        Base.registry.configure()
        self.metadata = Base.metadata
        self.order_tag = order_tag
        self.Tag, self.Customer, self.Order, self.Note = Tag, Customer, Order, Note
        self.Reading, self.Token, self.Person, self.Engineer = Reading, Token, Person, Engineer


Rows = dict[tuple[str, bytes], dict[str, Any]]


class Shop:
    """Hold models, engine, sessions with the capture installed, and the mirror.

    ``created``: the tables exist already.
    """

    def __init__(
        self, engine: sa.Engine, models: Models | None = None, *, created: bool = False, **options: Any
    ) -> None:
        self.engine = engine
        self.models = models or Models()
        self.capture = Capture(self.models.metadata, source="shop", **options)
        self.sessions = sessionmaker(engine)
        self.capture.install(self.sessions)
        if not created:
            self.models.metadata.create_all(engine)
        self.mirror: Rows = {}

    @property
    def outbox(self) -> sa.Table:
        return self.models.metadata.tables["rowcast_outbox"]

    def take(self, *, strict: bool = False) -> list[dict[str, Any]]:
        """Move the outbox into the mirror, like a relay and a worker. Return the changes.

        ``strict``: fail at a delete of a row that the mirror does not have. The mirror must have seen all rows.
        """
        changes: list[dict[str, Any]] = []
        with self.engine.begin() as connection:
            for text in connection.scalars(sa.select(self.outbox.c.changes).order_by(self.outbox.c.id)).all():
                changes += map(_change, ChangeSplitter().split(text))
            connection.execute(self.outbox.delete())
        for change in changes:
            name = (change["t"].split(".")[-1], orjson.dumps(change["k"]))
            if change["op"] == "d":
                assert name in self.mirror or not strict, f"a delete of a row that never was: {change}"
                self.mirror.pop(name, None)
            else:
                self.mirror[name] = change["a"]
        return changes

    def rows(self) -> Rows:
        """Return the rows of the tables."""
        found: Rows = {}
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                register_functions(connection.connection.dbapi_connection)
            for table in self.models.metadata.sorted_tables:
                if table.name.startswith("rowcast_"):
                    continue
                for key, row in connection.execute(_images_of(table, self.engine.dialect)):
                    found[table.name, orjson.dumps(orjson.loads(key))] = orjson.loads(row)
        return found


class _CachedImage(RowImage):
    """Be a row image that SQLAlchemy compiles once for each engine, as long as the statement exists."""

    inherit_cache = True

    def _gen_cache_key(self, _anon_map: Any, _bindparams: Any) -> tuple[Any, ...]:
        return _CachedImage, self


def _images_of(table: sa.Table, dialect: sa.Dialect) -> sa.Executable:
    """Return the SELECT of the key and the row of each row. Tests read the rows of the same tables again and again."""
    statements: dict[Any, sa.Executable] = table.info.setdefault("images", {})
    key = dialect.name, *table.columns
    if key not in statements:

        def image(columns: Any) -> RowImage:
            return _CachedImage([(str(c.name), c, portable_type(c.type, dialect)) for c in columns])

        statements[key] = sa.select(image(table.primary_key.columns), image(table.columns)).select_from(table)
    return statements[key]


def _change(change: Change) -> dict[str, Any]:
    """Return a change as the JSON of its outbox line."""
    head, key, after, before = change
    row = {"t": head.table, "v": head.version, "op": head.op, "k": orjson.loads(key)}
    return row | {name: orjson.loads(image) for name, image in (("b", before), ("a", after)) if image is not None}


def shop_engine(url: str) -> sa.Engine:
    """Create an engine with enforced foreign keys."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
    return engine


@contextmanager
def open_shop(url: str, **options: Any) -> Iterator[Shop]:
    """Open a shop on a database. ``options``: arguments of ``Capture``."""
    engine = shop_engine(url)
    try:
        yield Shop(engine, **options)
    finally:
        engine.dispose()
