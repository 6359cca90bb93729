"""A RoutingSession sends reads to a fresh replica, and everything else to the primary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from rowcast.consumer import ReadReplica, RoutingSession
from rowcast.shared.database.commit_tokens import CommitToken


class Base(DeclarativeBase):
    pass


class Place(Base):
    __tablename__ = "place"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Replica(ReadReplica):
    """A replica that is as fresh as a test says. Each token has the number of the tokens before."""

    fresh = True
    asked: list[tuple[tuple[str, ...], float | None, float]]
    taken = 0

    def is_fresh(self, tokens: tuple[str, ...], max_age: float | None, wait: float) -> bool:
        self.asked.append((tokens, max_age, wait))
        return self.fresh

    def take_token(self) -> CommitToken:
        self.taken += 1
        return CommitToken(self.taken, 0, 0)


@dataclass
class World:
    primary: sa.Engine
    replica: Replica
    sessions: sessionmaker[RoutingSession]


def database(name: str) -> sa.Engine:
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Place(id=1, name=name))
    return engine


@pytest.fixture
def world() -> Iterator[World]:
    primary, copy = database("primary"), database("replica")
    replica = Replica(copy, primary=primary, source="shop")
    replica.asked = []
    yield World(primary, replica, sessionmaker(primary, class_=RoutingSession, replicas=[replica]))
    primary.dispose()
    copy.dispose()


NAME = sa.select(Place.name)


def test_a_read_goes_to_a_fresh_replica_and_else_to_the_primary(world: World) -> None:
    with world.sessions() as session:
        assert session.scalar(NAME) == "replica"
        world.replica.fresh = False
        assert session.scalar(NAME) == "replica"  # A transaction keeps to its choice.
        session.rollback()
        assert session.scalar(NAME) == "primary"
    assert world.replica.asked == [((), None, 0.0)] * 2


def test_a_transaction_stays_on_the_primary_after_its_first_change(world: World) -> None:
    with world.sessions() as session:
        place = session.get_one(Place, 1)
        assert place.name == "replica"
        place.name = "changed"
        assert session.scalar(NAME) == "changed"  # The flush before the SELECT has changed the primary.
        session.commit()
        assert session.scalar(NAME) == "replica"
        assert world.replica.asked[-1] == (("1.0.0",), None, 0.0)
        assert session.token == "1.0.0"
    with Session(world.primary) as session:
        assert session.scalar(NAME) == "changed"


@pytest.mark.parametrize(
    "statement",
    [
        sa.text("SELECT name FROM place"),
        NAME.with_for_update(),
        sa.select(sa.union(NAME, NAME.with_for_update()).subquery().c.name),
        sa.select(sa.update(Place).values(name="primary").returning(Place.name).cte().c.name),
        NAME.add_cte(sa.insert(Place).values(id=2, name="primary").cte("new")),
        sa.update(Place).values(name="primary").returning(Place.name),
    ],
    ids=["text", "for update", "for update inside", "change inside", "change beside", "change"],
)
def test_whatever_may_change_or_lock_goes_to_the_primary(statement: sa.Executable, world: World) -> None:
    with world.sessions() as session:
        bind = session.get_bind(clause=statement)
        assert bind is world.primary
        assert session.get_bind(clause=NAME) is world.primary
    assert not world.replica.asked


def test_the_rows_of_a_fetching_update_are_found_on_the_primary(world: World) -> None:
    with world.sessions() as session:
        session.execute(
            sa.update(Place).where(Place.name == "primary").values(name="new"),
            execution_options={"synchronize_session": "fetch"},
        )
        session.commit()
    with Session(world.primary) as session:
        assert session.scalar(NAME) == "new"


def test_a_connection_of_the_session_is_the_primary_s_and_counts_as_a_change(world: World) -> None:
    with world.sessions() as session:
        session.connection().execute(sa.update(Place).values(name="new"))
        assert session.scalar(NAME) == "new"
        session.commit()
        assert session.token == "1.0.0"
        # An engine without a transaction changes nothing.
        assert session.get_bind() is world.primary
        assert session.scalar(NAME) == "replica"
        session.commit()
        assert session.token == "1.0.0"


def test_reads_on_the_primary_and_rollbacks_need_no_token(world: World) -> None:
    with world.sessions() as session:
        with session.on_primary():
            assert session.scalar(NAME) == "primary"
        assert session.scalar(NAME) == "primary"
        session.commit()
        session.add(Place(id=2, name="never"))
        session.flush()
        session.rollback()
        assert session.token is None
        assert session.scalar(NAME) == "replica"
    assert world.replica.taken == 0


def test_a_savepoint_does_not_end_the_choice(world: World) -> None:
    with world.sessions() as session:
        session.add(Place(id=2, name="second"))
        with session.begin_nested():
            session.flush()
        assert session.scalar(sa.select(sa.func.count()).select_from(Place)) == 2


def test_tokens_and_ages_of_other_sessions_are_required(world: World) -> None:
    with world.sessions(token="7.0.0", max_age=3.0, wait=0.5) as session:
        session.require("8.0.0")
        session.scalar(NAME)
        # The next session gets one token for both.
        assert session.token == "1.0.0"
    world.replica.fresh = False
    with world.sessions(token="7.0.0", wait=0.5) as session:
        assert session.scalar(NAME) == "primary"
    assert world.replica.asked == [(("7.0.0", "8.0.0"), 3.0, 0.0), (("7.0.0",), None, 0.0), (("7.0.0",), None, 0.5)]
    with pytest.raises(ValueError, match="no token"):
        world.sessions(token="7.0")


def test_replicas_take_turns_and_a_stale_one_is_left_out(world: World) -> None:
    other = Replica(database("other"), primary=world.primary, source="shop")
    other.asked = []
    sessions = sessionmaker(world.primary, class_=RoutingSession, replicas=[world.replica, other])

    def names() -> set[str | None]:
        found = set()
        for _ in range(4):
            with sessions() as session:
                found.add(session.scalar(NAME))
        return found

    assert names() == {"replica", "other"}
    other.fresh = False
    assert names() == {"replica"}
    stranger = Replica(world.primary, primary=other.engine, source="shop")
    with pytest.raises(ValueError, match="the same primary"):
        RoutingSession(world.primary, replicas=[world.replica, stranger])
    other.engine.dispose()


def test_a_session_without_replicas_and_other_databases_are_left_alone(world: World) -> None:
    with RoutingSession(world.primary, replicas=[]) as session:
        assert session.scalar(NAME) == "primary"
        assert session.token is None
    third = database("third")
    with RoutingSession(third, replicas=[world.replica]) as session:
        assert session.scalar(NAME) == "third"
    with world.primary.connect() as connection, RoutingSession(connection, replicas=[world.replica]) as session:
        assert session.scalar(NAME) == "primary"
    with RoutingSession(
        world.primary.execution_options(isolation_level="SERIALIZABLE"), replicas=[world.replica]
    ) as session:
        assert session.scalar(NAME) == "replica"
    third.dispose()
