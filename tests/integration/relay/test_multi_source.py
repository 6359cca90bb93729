"""A single relay process publishes several sources, each to its own topics, and a fault affects a single source."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from servers import Broker, PostgreSQL
from servers.guard import Guard
from support.command_line import rowcast
from support.pipeline.pipeline import Command
from support.relay.counter_app import Counters
from support.relay.primary import ORDERS, Primary, line, primary_at
from support.relay.threads import wait_until
from support.relay.topic_reader import assert_whole_transactions, notes_by_key, read_topics


class Source:
    """Hold a source: a primary with counters, and its configuration file."""

    def __init__(self, primary: Primary, folder: Path, name: str, kafka: Broker) -> None:
        self.primary = primary
        self.name = name
        self.counters = Counters(primary)
        self.config = folder / f"{name}.toml"
        self._servers = kafka.bootstrap_servers
        self._random = random.Random(name)
        url = primary.engine.url.render_as_string(hide_password=False)
        self.config.write_text(
            f'source = "{name}"\n[kafka]\n"bootstrap.servers" = "{self._servers}"\n[primary]\nurl = {json.dumps(url)}\n'
        )

    def write(self, transactions: int = 10) -> None:
        for _ in range(transactions):
            self.counters.raise_some(self._random)

    def is_published(self) -> bool:
        return not self.primary.ids()

    def must_be_in_its_topics(self) -> None:
        published = read_topics(self._servers, self.name, "read_committed")
        assert_whole_transactions(published.stream)
        assert notes_by_key(published.stream) == self.counters.expected()


NewSource = Callable[[str, str], Source]


@pytest.fixture
def new_source(tmp_path: Path, kafka: Broker, new_database: NewDatabase, source_name: str) -> Iterator[NewSource]:
    opened = []

    def make(engine: str, name: str) -> Source:
        context = primary_at(new_database(engine))
        opened.append(context)
        return Source(context.__enter__(), tmp_path, f"{source_name}.{name}", kafka)

    yield make
    for context in opened:
        context.__exit__(None, None, None)


@contextmanager
def relay_of(*sources: Source) -> Iterator[Command]:
    """Run a single process for all sources, at most for the length of the block."""
    guard = Guard()
    options = [f"--config={source.config}" for source in sources]
    log = sources[0].config.with_name("relay.log")
    command = Command(
        ["-m", "rowcast.shared.cli", "relay", *options, "--log-format=json", "--progress-interval=0.1"], log, guard
    )
    try:
        yield command
    except BaseException:
        print(command.last_lines(), file=sys.stderr)
        raise
    finally:
        guard.close()
        command.reap()


def lines_of(command: Command, source: Source) -> list[dict[str, Any]]:
    """Return the log lines of the source."""
    lines = [json.loads(text) for text in command.log.read_text().splitlines()]
    return [found for found in lines if found.get("source") == source.name]


def test_a_database_that_is_away_stops_its_own_source_alone(new_source: NewSource, postgresql: PostgreSQL) -> None:
    steady, shaken = new_source("sqlite", "steady"), new_source("postgresql", "shaken")
    with relay_of(steady, shaken) as relay:
        for source in (steady, shaken):
            source.write()
            wait_until(source.is_published)
        postgresql.kill()
        wait_until(lambda: any(logged.get("state") == "waiting" for logged in lines_of(relay, shaken)))
        steady.write()
        wait_until(steady.is_published)
        postgresql.start()
        shaken.primary.engine.dispose()
        for source in (steady, shaken):
            source.write()
            wait_until(source.is_published)
        assert relay.stop() == 0
        for source in (steady, shaken):
            assert lines_of(relay, source)[-1]["state"] == "stopped"
        # Kafka's client warns of a new broker that is still loading its coordinator. The relay itself warns of nothing.
        own = [logged for logged in lines_of(relay, steady) if logged["logger"] == "rowcast.relay"]
        assert [logged for logged in own if logged["level"] != "info"] == []
    for source in (steady, shaken):
        source.must_be_in_its_topics()


def test_an_unpublishable_source_is_tried_again_until_it_is_repaired(new_source: NewSource) -> None:
    sound, damaged = new_source("sqlite", "sound"), new_source("sqlite", "damaged")
    row = damaged.primary.add("1", "no line of ours\n")
    with relay_of(sound, damaged) as relay:
        wait_until(lambda: any(logged["level"] == "error" for logged in lines_of(relay, damaged)))
        sound.write()
        wait_until(sound.is_published)
        with damaged.primary.engine.begin() as connection:
            connection.execute(
                sa.delete(damaged.primary.tables.outbox).where(damaged.primary.tables.outbox.c.id == row)
            )
        damaged.write()
        wait_until(damaged.is_published)
        assert relay.stop() == 0, "it is at work again"
    for source in (sound, damaged):
        source.must_be_in_its_topics()


def test_the_exit_code_reports_a_source_that_is_not_at_work_at_the_end(new_source: NewSource) -> None:
    sound, damaged = new_source("sqlite", "sound"), new_source("sqlite", "damaged")
    damaged.primary.add("1", "no line of ours\n")
    sound.write()
    with relay_of(sound, damaged) as relay:
        wait_until(lambda: any(logged["level"] == "error" for logged in lines_of(relay, damaged)))
        wait_until(sound.is_published)
        assert relay.stop() == 1
    sound.must_be_in_its_topics()


def test_once_empties_every_outbox_that_it_can(new_source: NewSource, tmp_path: Path) -> None:
    first, damaged, last = (new_source("sqlite", name) for name in ("first", "damaged", "last"))
    damaged.primary.add("1", line(ORDERS, "u", 1)[:-10] + "\n")
    for source in (first, last):
        source.write()
    # Several files in the variable are separated as in PATH.
    files = ":".join(str(source.config) for source in (first, damaged, last))
    done = rowcast("relay", "--once", cwd=tmp_path, env={"ROWCAST_CONFIG": files})
    assert done.returncode == 1, done.stderr
    assert f"source={damaged.name}" in done.stderr
    for source in (first, last):
        assert source.is_published()
        source.must_be_in_its_topics()


def test_when_no_source_is_at_work_the_process_ends(new_source: NewSource) -> None:
    """A supervisor sees the exit code."""
    sources = [new_source("sqlite", name) for name in ("one", "other")]
    for source in sources:
        source.primary.tables.lease.drop(source.primary.engine)
    with relay_of(*sources) as relay:
        wait_until(lambda: relay.exit_code is not None)
        assert relay.exit_code == 2
        for source in sources:
            assert any("rowcast_lease" in logged["message"] for logged in lines_of(relay, source))
