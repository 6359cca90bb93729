"""``rowcast topics`` shows what is in the topics of a source, and disturbs no worker."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rowcast.consumer.topics import source_topics
from rowcast.consumer.topics.search import last_records
from rowcast.consumer.topics.selection import Selection
from rowcast.shared.config.settings import load
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from support.command_line import environment, rowcast, started
from support.kafka_source import Source, column, shape
from support.relay.threads import wait_until

ITEM = shape("item", column("note", "text"))
WORD = shape("word", column("lang", "text"), column("n"), key=("lang", "n"))


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name, partitions=2)


def item(id: int, note: str = "x") -> dict[str, Any]:
    return {"id": id, "note": note}


def found(place: Path, *arguments: str) -> list[Any]:
    result = rowcast("topics", "search", "--json", *arguments, cwd=place)
    assert result.returncode == (0 if result.stdout else 1), result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_search_finds_events_by_key_table_transaction_and_time(place: Path, source: Source) -> None:
    source.add(ITEM, WORD)
    source.transaction(("c", "item", item(1)), ("c", "word", {"lang": "en", "n": 7}))
    second = source.transaction(("u", "item", item(1, "y")), ("c", "item", item(11)))
    source.transaction(("d", "item", {"id": 1}))
    one = found(place, "--key", "1")
    assert [event["what"] for event in one] == ["create", "update", "delete", "tombstone"]
    assert found(place, "--key", '{"id": 1}') == one
    assert [event["after"]["note"] for event in one[:2]] == ["x", "y"]
    assert [event["key"] for event in found(place, "--key", "en,7")] == [{"lang": "en", "n": 7}]
    assert [event["key"] for event in found(place, "--transaction", second)] == [{"id": 1}, {"id": 11}]
    for pattern in ("*.word", "public.wo*", "word", "wo*"):
        assert {event["table"] for event in found(place, "--table", pattern)} == {"word"}
    none = rowcast("topics", "search", "--table", "wrod", cwd=place)
    assert none.returncode == 2
    assert "no table that matches wrod. Its tables are public.item, public.word." in none.stderr
    assert len(found(place, "--since", "1h")) == 6
    assert found(place, "--since", "2100-01-01T00:00") == []
    assert [event["what"] for event in found(place, "--limit", "2")] == ["delete", "tombstone"]


def test_search_shows_when_what_and_where_in_a_few_short_lines(place: Path, source: Source) -> None:
    source.add(ITEM)
    transaction = source.transaction(("c", "item", item(1, "long " * 40)))
    lines = rowcast("topics", "search", cwd=place).stdout.splitlines()
    assert lines[0].endswith("Z create public.item id=1")
    assert f", tx {transaction}, {table_topic(source.name, 'public', 'item')}:" in lines[1]
    assert lines[2].endswith("… (202 characters)")
    assert len(lines[2]) < 100


def test_show_prints_the_whole_record_that_search_names(place: Path, source: Source) -> None:
    source.add(ITEM)
    source.transaction(("c", "item", item(1, "long " * 40)))
    (event,) = found(place, "--key", "1")
    name = f"{event['topic']}:{event['partition']}:{event['offset']}"
    shown = json.loads(rowcast("topics", "show", name, cwd=place).stdout)
    assert shown["after"]["note"] == "long " * 40


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a:0", "TOPIC:PARTITION:OFFSET"), ("no.such.topic:0:0", "no partition 0"), ("{topic}:0:99", "holds the offsets")],
)
def test_show_names_what_is_wrong_with_a_place(place: Path, source: Source, name: str, reason: str) -> None:
    source.add(ITEM)
    topic = table_topic(source.name, "public", "item")
    result = rowcast("topics", "show", name.format(topic=topic), cwd=place)
    assert (result.returncode, reason in result.stderr) == (2, True), result.stderr


def test_a_record_that_is_no_event_is_shown_with_the_reason(place: Path, source: Source) -> None:
    source.add(ITEM)
    source.send(table_topic(source.name, "public", "item"), b'{"op":"u"}', b'{"id":1}', partition=0)
    source.flush()
    (record,) = found(place, "--table", "public.item")
    assert record["what"] == "unreadable"
    assert "not a change event" in record["fault"]


def test_list_shows_the_offsets_of_each_partition(place: Path, source: Source) -> None:
    source.add(ITEM)
    source.transaction(("c", "item", item(1)))
    output = rowcast("topics", "list", cwd=place).stdout
    assert f"{table_topic(source.name, 'public', 'item')} (table public.item)" in output
    assert output.count("partition ") == 2
    assert f"{source.name}.transaction" in output


def test_a_source_without_tables_is_named(place: Path) -> None:
    result = rowcast("topics", "search", cwd=place)
    assert result.returncode == 2
    assert "has published no table" in result.stderr


def test_a_time_that_is_none_is_named(place: Path) -> None:
    result = rowcast("topics", "search", "--since", "yesterday", cwd=place)
    assert result.returncode == 2
    assert "'yesterday' is not a time" in result.stderr


def test_tail_shows_new_events_until_it_is_stopped(place: Path, source: Source) -> None:
    source.add(ITEM)
    source.transaction(*(("c", "item", item(n)) for n in range(3)))
    command = [sys.executable, "-c", "from rowcast.shared.cli import main; main()", "topics", "tail", "--json"]
    output = place / "shown"
    with (
        output.open("wb") as shown,
        started([*command, "--last", "2"], place, environment(), stdout=shown) as process,
    ):
        wait_until(lambda: len(output.read_text().splitlines()) == 2)
        source.transaction(("u", "item", item(0, "new")))
        wait_until(lambda: len(output.read_text().splitlines()) == 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    events = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(e["what"], e["key"]["id"]) for e in events] == [("create", 1), ("create", 2), ("update", 0)]


def test_tail_looks_behind_records_that_are_no_events(place: Path, source: Source) -> None:
    source.partitions = 1
    source.add(ITEM)
    source.transaction(*(("c", "item", item(n)) for n in range(3)))
    before_ms = time.time_ns() // 1_000_000
    topic = table_topic(source.name, "public", "item")
    for n in range(60):
        # The selection leaves an old event out, as Kafka leaves out its own records.
        value = source.envelope("u", ITEM, item(9), 100 + n, "9", 1, 1).replace(b'"ts_ms":', b'"ts_ms":1,"x":')
        source.send(topic, value, b'{"id":9}', partition=0)
    source.flush()
    with source_topics.source_topics(load(place / "rowcast.toml")) as topics:
        found = last_records(topics, Selection(since_ms=before_ms - 60_000), 2)
    assert [record.key for record in found] == [{"id": 1}, {"id": 2}]


def test_tail_finds_tables_and_partitions_that_are_new(
    place: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_topics, "_LOOK_AGAIN_S", 0.1)
    source.add(ITEM)
    stop = threading.Event()
    with source_topics.source_topics(load(place / "rowcast.toml")) as topics:
        messages = topics.from_now_on({}, stop)
        source.add(WORD)
        source.transaction(("c", "item", item(1)), ("c", "word", {"lang": "en", "n": 7}))
        assert {next(messages).topic() for _ in range(2)} == set(topics.topics.values())
        stop.set()
        assert list(messages) == []


def test_a_reader_that_wants_no_more_ends_the_command_in_order(place: Path, source: Source) -> None:
    source.add(ITEM)
    source.transaction(*(("c", "item", item(n, "x" * 50)) for n in range(3000)))
    program = f"{sys.executable} -c 'from rowcast.shared.cli import main; main()' topics search --limit 3000"
    with started(["bash", "-c", f"set -o pipefail; {program} | head -1 >shown"], place, environment()) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert (place / "shown").read_text().endswith("id=0\n")
