"""``rowcast trace`` says how far a row has come, and where it is stuck."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from rowcast.producer import Capture
from support.command_line import rowcast


class Base(DeclarativeBase):
    pass


class Word(Base):
    __tablename__ = "word"
    lang: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="x")


@pytest.fixture
def sessions(place: Path, source_name: str) -> Iterator[sessionmaker[Session]]:
    engine = sa.create_engine(f"sqlite:///{place}/primary.db")
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source=source_name).install(sessions)
    Base.metadata.create_all(engine)
    yield sessions
    engine.dispose()


def done(place: Path, *arguments: str) -> None:
    result = rowcast(*arguments, cwd=place)
    assert result.returncode == 0, result.stderr


def stuck(place: Path, key: str = "en,7") -> dict[str, str]:
    """Return the places where the row is stuck, with the reasons."""
    result = rowcast("trace", "word", key, "--json", cwd=place)
    document: Any = json.loads(result.stdout)
    assert (result.returncode == 0) == document["arrived"]
    return {step["place"]: step["text"] for step in document["steps"] if step["is_stuck"]}


def test_a_row_is_followed_from_the_outbox_to_the_replica(place: Path, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add_all([Word(lang="en", n=7), Word(lang="de", n=1)])
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    assert stuck(place) == {}
    assert stuck(place, '{"n": 7, "lang": "en"}') == {}
    assert rowcast("trace", "main.word", "en,7", cwd=place).stdout.startswith("arrived everywhere\n")
    with sessions.begin() as session:
        session.get_one(Word, ("en", 7)).text = "y"
    assert "1 changes wait" in stuck(place)["outbox"]
    assert stuck(place, "de,1") == {}
    done(place, "relay", "--once")
    assert list(stuck(place)) == ["replica r"]
    assert "the event is not applied: the worker has read up to offset" in stuck(place)["replica r"]
    done(place, "worker", "r", "--once")
    assert stuck(place) == {}
    with sa.create_engine(f"sqlite:///{place}/replica.db").begin() as replica:
        replica.execute(sa.text("UPDATE word SET text = 'wrong' WHERE n = 7"))
    assert stuck(place) == {"replica r": "the row differs in text. Compare: rowcast verify r --table main.word"}


def test_a_deleted_row_and_one_that_never_was(place: Path, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(Word(lang="en", n=7))
    with sessions.begin() as session:
        session.delete(session.get_one(Word, ("en", 7)))
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    assert "delete" in rowcast("trace", "word", "en,7", cwd=place).stdout
    assert stuck(place) == {}
    assert stuck(place, "en,8") == {}
    never = rowcast("trace", "word", "en,8", cwd=place)
    assert (never.returncode, never.stdout.splitlines()[0]) == (0, "no such row, and no event of it")
    assert rowcast("trace", "word", "en,7", cwd=place).stdout.startswith("arrived everywhere\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("wrod", "en,7"), "Did you mean 'word'?"),
        (("word", "en"), "give the key of main.word as LANG,N"),
        (("word", "en,x"), "'x' is no integer, as n of main.word is"),
        (("word", '{"n": 7}'), "the primary key of main.word is lang, n"),
    ],
)
def test_a_mistake_is_named(
    place: Path, sessions: sessionmaker[Session], arguments: tuple[str, ...], reason: str
) -> None:
    with sessions.begin() as session:
        session.add(Word(lang="en", n=7))
    result = rowcast("trace", *arguments, cwd=place)
    assert (result.returncode, reason in result.stderr) == (2, True), result.stderr
