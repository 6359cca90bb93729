"""Draw random programs, run them with and without the capture, and compare what the application sees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from rowcast.producer import CaptureWarning
from rowcast.shared.errors import CaptureError
from support.same_results.seen import described_error, without_addresses
from support.same_results.steps import STRATEGIES, Step

STEP = st.one_of(STRATEGIES)


@dataclass(frozen=True)
class Transaction:
    """Hold the steps of a transaction.

    Each step has a savepoint or none, and the savepoint is rolled back or released.
    """

    steps: list[tuple[str, Step]]
    commits: bool


SAVEPOINTS = st.sampled_from(["", "release", "release", "roll back"])

PROGRAMS = st.lists(
    st.builds(
        Transaction,
        steps=st.lists(
            st.tuples(st.sampled_from(["", "release", "release", "roll back"]), STEP), min_size=1, max_size=5
        ),
        commits=st.sampled_from([True, True, True, False]),
    ),
    min_size=1,
    max_size=4,
)

REFUSED = "refused"
_IGNORED = {"rowcast": "ignore"}

_OF_GARBAGE = "conflicts with persistent instance"
"""SQLAlchemy warns of an object that nobody refers to until Python's garbage collector has removed it."""

BEGUN = sa.Table("begun", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True), sa.Column("x", sa.Integer))
"""A table that the capture does not know."""


def run(program: list[Transaction], engine: sa.Engine, without: frozenset[tuple[int, int]] = frozenset()) -> list[Any]:
    """Run the program and return what the application sees of each step, with the warnings.

    ``without``: leave out these steps, given by the numbers of transaction and step. A step that the capture refuses
    counts as not executed, because a refusal comes before the statement takes effect.
    """
    seen: list[Any] = []
    for t, transaction in enumerate(program):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Session(engine) as session:
                _begin(session)
                for s, (how, one) in enumerate(transaction.steps):
                    seen.append(_step(session, how, None if (t, s) in without else one))
                try:
                    session.commit() if transaction.commits else session.rollback()
                except CaptureError:
                    raise
                except Exception as error:  # noqa: BLE001  # the application sees every error
                    seen.append(described_error(error))
        assert not [one for one in caught if issubclass(one.category, CaptureWarning)]
        messages = [(one.category.__name__, without_addresses(str(one.message))) for one in caught]
        seen.append([one for one in messages if _OF_GARBAGE not in one[1]])
    return seen


def refused(seen: list[Any], program: list[Transaction]) -> frozenset[tuple[int, int]]:
    """Return the steps that were refused, of what ``run`` has returned."""
    outcomes = iter(seen)
    found = set()
    for t, transaction in enumerate(program):
        for s in range(len(transaction.steps)):
            if next(outcomes) == (REFUSED,):
                found.add((t, s))
        while not isinstance(next(outcomes), list):
            pass
    return frozenset(found)


_SEQUENCES = ("accounts_id_seq", "children_id_seq", "people_id_seq")
_HIGHEST_ROWS = (
    "accounts (id) VALUES (99)",
    "children (id, account_id) VALUES (99, 99)",
    "people (id, kind) VALUES (99, '')",
)


def restart_numbers(engine: sa.Engine) -> None:
    """Let drawn numbers begin above the keys that programs give, so that each program draws the same numbers.

    A given key that InnoDB does not store, because the row conflicts, may or may not raise the next number.
    """
    with engine.begin() as connection:
        match engine.dialect.name:
            case "postgresql":
                for sequence in _SEQUENCES:
                    connection.exec_driver_sql(f"ALTER SEQUENCE {sequence} RESTART WITH 100")
            case "mysql":
                connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 0")
                for row in _HIGHEST_ROWS:
                    connection.exec_driver_sql(f"INSERT INTO {row}", execution_options=_IGNORED)
                    connection.exec_driver_sql(f"DELETE FROM {row.split()[0]}", execution_options=_IGNORED)
                connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 1")


def _step(session: Session, how: str, one: Step | None) -> tuple[Any, ...]:
    """Run a step, or only what a refused step leaves if there is no step."""
    savepoint = session.begin_nested() if how else None
    try:
        if one is None:
            raise CaptureError
        outcome: tuple[Any, ...] = ("result", one.run(session))
        if savepoint is not None and savepoint.is_active:
            savepoint.commit() if how == "release" else savepoint.rollback()
    except CaptureError:
        _roll_back(session, savepoint)
        session.expunge_all()
        outcome = (REFUSED,)
    except Exception as error:  # noqa: BLE001  # the application sees every error
        _roll_back(session, savepoint)
        outcome = ("error", described_error(error))
    if outcome[0] != "result":
        _skip_numbers(session)
    return outcome


def _skip_numbers(session: Session) -> None:
    """Let the sequences go on from the same numbers, because a failed statement may have drawn more of them.

    Nobody may rely on the numbers that a failed statement leaves out.
    """
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        for sequence in _SEQUENCES:
            connection.execute(sa.text(f"SELECT setval('{sequence}', nextval('{sequence}') / 100 * 100 + 100)"))


def _roll_back(session: Session, savepoint: Any) -> None:
    if savepoint is not None and savepoint.is_active:
        savepoint.rollback()
    else:
        session.rollback()
        _begin(session)


def _begin(session: Session) -> None:
    """Begin a transaction with an INSERT that the capture does not see.

    On SQLite the driver would not begin a transaction before a savepoint. It also reports the number of an earlier
    INSERT for a statement that inserts nothing, and that must not be the number of an outbox row.
    """
    session.execute(sa.text("INSERT INTO begun (x) VALUES (1)"))
