"""A small shop whose tables have what a primary needs and a replica does not: counters, defaults, indexes, cascades."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.shared.database.engines import open_engine


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def _has_expressions(*_: object, dialect: Any = None, **__: object) -> bool:
    return not getattr(dialect, "is_mariadb", False)


class Shop:
    """The application on one database, with the capture installed."""

    def __init__(self, url: str, source: str) -> None:
        class Base(DeclarativeBase):
            pass

        class Customer(Base):
            __tablename__ = "customers"
            __table_args__ = (
                sa.Index("ix_customers_city_name", "city", "name"),
                sa.Index("ix_customers_lower", sa.text("(lower(name))")).ddl_if(callable_=_has_expressions),
            )
            id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
            email: Mapped[str] = mapped_column(sa.String(60), unique=True)
            name: Mapped[str] = mapped_column(sa.String(40), server_default="it's 50% \\ new")
            city: Mapped[str | None] = mapped_column(sa.String(40))
            active: Mapped[bool] = mapped_column(sa.Boolean, server_default=sa.true())
            points: Mapped[int] = mapped_column(sa.Integer, server_default="7")
            credit: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), server_default=sa.text("-1.50"))
            created: Mapped[datetime] = mapped_column(sa.DateTime, server_default=sa.func.now())

        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(start=100), primary_key=True
            )
            customer_id: Mapped[int] = mapped_column(sa.ForeignKey("customers.id", ondelete="CASCADE"), index=True)
            colour: Mapped[Colour] = mapped_column(sa.Enum(Colour, name="colour"), default=Colour.RED)

        class Tag(Base):
            __tablename__ = "tags"
            id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
            token: Mapped[uuid.UUID] = mapped_column(sa.Uuid, default=uuid.uuid4)
            label: Mapped[str | None] = mapped_column(sa.String(20), unique=True)

        self.base, self.customer, self.order, self.tag = Base, Customer, Order, Tag
        self.metadata = Base.metadata
        self.engine = open_engine(url, "shop", pooled=False)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys = ON"))
        self._sessions = sessionmaker(self.engine)
        self.capture = Capture(self.metadata, source=source)
        self.capture.install(self._sessions)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Commit at the end of the block."""
        with self._sessions.begin() as session:
            yield session

    def open(self) -> None:
        """Create the tables, and the first rows. The table tags stays empty."""
        self.metadata.create_all(self.engine)
        with self.session() as session:
            session.add_all(self.customer(email=f"{n}@example.com", city="Bonn") for n in range(1, 6))
        with self.session() as session:
            session.add_all(self.order(customer_id=n, colour=Colour.BLUE) for n in range(1, 6))

    def buy(self, email: str) -> tuple[int, int, int]:
        """Insert a row into each table without a key. Return the keys."""
        with self.session() as session:
            customer = self.customer(email=email)
            session.add(customer)
            session.flush()
            order = self.order(customer_id=customer.id, colour=Colour.BLUE)
            tag = self.tag(label=email[:20])
            session.add_all([order, tag])
            session.flush()
            return customer.id, order.id, tag.id
