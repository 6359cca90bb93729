"""Map tables whose INSERTs and UPDATEs give many kinds of results: drawn keys, server defaults, versions, computed."""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(sa.String(10), unique=True)
    score: Mapped[int | None] = mapped_column(server_default="5")
    colour: Mapped[Colour | None] = mapped_column(sa.Enum(Colour))
    twice: Mapped[int | None] = mapped_column(sa.Computed("score * 2", persisted=True))
    version: Mapped[int] = mapped_column(default=1, server_default="1")
    children: Mapped[list[Child]] = relationship(cascade="all, delete-orphan", order_by="Child.id")
    __mapper_args__ = {"version_id_col": version, "eager_defaults": "auto"}  # noqa: RUF012


class Child(Base):
    __tablename__ = "children"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(sa.ForeignKey("accounts.id", ondelete="CASCADE"))
    text: Mapped[str] = mapped_column(sa.String(10), server_default="none")


class Line(Base):
    __tablename__ = "positions"
    a: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    b: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    amount: Mapped[int | None] = mapped_column(default=3)


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(10))
    name: Mapped[str | None] = mapped_column(sa.String(10), server_default="nobody")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Engineer(Person):
    __tablename__ = "engineers"
    id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"), primary_key=True)
    language: Mapped[str | None] = mapped_column(sa.String(10), server_default="none")
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012


Base.registry.configure()
