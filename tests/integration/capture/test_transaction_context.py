"""The context of a transaction and the active trace travel with the events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import sessionmaker

from rowcast.producer import Capture
from rowcast.producer.capture.transaction_context import MAX_BYTES
from rowcast.producer.relay.main_loop import Relay
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError, DataError
from servers import Broker
from support.relay.topic_reader import TopicMessage, assert_as_documented, assert_whole_transactions, read_topics
from support.worker_runs import NAME, Database, settings_for, work_once

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class App:
    """Hold an application with the table ``item`` and a capture."""

    def __init__(self, url: str, context: Callable[[], Mapping[str, Any] | None] | None = None) -> None:
        self.metadata = sa.MetaData()
        self.item = sa.Table(
            "item", self.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String(50))
        )
        self.engine = open_engine(url, "primary", pooled=False)
        self.capture = Capture(self.metadata, source="shop", context=context)
        self.sessions = sessionmaker(self.engine)
        self.capture.install(self.sessions)
        self.metadata.create_all(self.engine)

    def add(self, *ids: int) -> None:
        with self.sessions.begin() as session:
            session.execute(sa.insert(self.item), [{"id": id_} for id_ in ids])

    def contexts(self) -> list[Any]:
        """Return the context of each outbox row."""
        column = self.metadata.tables["rowcast_outbox"].c
        with self.engine.connect() as connection:
            found = connection.scalars(sa.select(column.context).order_by(column.id))
            return [None if text is None else orjson.loads(text) for text in found]


NewApp = Callable[..., App]


@pytest.fixture
def new_app(new_database: Callable[[str], str]) -> Iterator[NewApp]:
    made: list[App] = []

    def make(context: Callable[[], Mapping[str, Any] | None] | None = None, engine: str = "sqlite") -> App:
        made.append(App(new_database(engine), context))
        return made[-1]

    yield make
    for app in made:
        app.engine.dispose()


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "sqlite"])
def test_a_context_is_written_with_every_row_of_its_transaction(new_app: NewApp, engine: str) -> None:
    app = new_app(engine=engine)
    app.add(1)
    with app.capture.context(actor="Käthe '\\ %s", request_id=7):
        app.add(*range(100, 2200))
    app.add(2)
    first, *rows, last = app.contexts()
    assert (first, last) == (None, None)
    assert len(rows) > 1
    assert all(row == {"actor": "Käthe '\\ %s", "request_id": 7} for row in rows)


def test_an_inner_context_adds_to_an_outer_one_and_ends(new_app: NewApp) -> None:
    app = new_app()
    with app.capture.context(actor="a", job=1):
        with app.capture.context(actor="b", step=[1, None]):
            app.add(1)
        app.add(2)
    app.add(3)
    assert app.contexts() == [{"actor": "b", "job": 1, "step": [1, None]}, {"actor": "a", "job": 1}, None]


def test_threads_do_not_see_each_others_context(new_app: NewApp) -> None:
    app = new_app()
    together = threading.Barrier(4)
    turn = threading.Lock()

    def work(n: int) -> None:
        with app.capture.context(actor=n):
            together.wait(30)
            with turn:
                app.add(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    column = app.metadata.tables["rowcast_outbox"].c
    with app.engine.connect() as connection:
        rows = connection.execute(sa.select(column.context, column.changes)).all()
    assert sorted((orjson.loads(c)["actor"], orjson.loads(line)["k"]["id"]) for c, line in rows) == [
        (n, n) for n in range(4)
    ]


def test_tasks_do_not_see_each_others_context(new_app: NewApp) -> None:
    app = new_app()

    async def work(n: int, engine: Any, together: asyncio.Barrier, turn: asyncio.Lock) -> None:
        with app.capture.context(actor=n):
            await together.wait()
            async with turn, AsyncSession(engine) as session, session.begin():
                await session.execute(sa.insert(app.item).values(id=n))

    async def main() -> None:
        engine = create_async_engine(app.engine.url.set(drivername="sqlite+aiosqlite"))
        app.capture.install(engine)
        together, turn = asyncio.Barrier(4), asyncio.Lock()
        await asyncio.gather(*(work(n, engine, together, turn) for n in range(4)))
        await engine.dispose()

    asyncio.run(main())
    assert sorted(context["actor"] for context in app.contexts()) == [0, 1, 2, 3]


def test_a_callable_is_asked_at_commit_and_a_block_goes_before_it(new_app: NewApp) -> None:
    asked: list[Mapping[str, Any] | None] = [{"user": 1, "path": "/a"}, None, {"user": 2}]
    app = new_app(lambda: asked.pop(0))
    app.add(1)
    app.add(2)
    with app.capture.context(user="block"):
        app.add(3)
    assert app.contexts() == [{"user": 1, "path": "/a"}, None, {"user": "block"}]
    assert asked == []


def test_a_callable_that_fails_fails_the_commit(new_app: NewApp) -> None:
    def broken() -> Mapping[str, Any]:
        raise LookupError("no request")

    app = new_app(broken)
    with pytest.raises(LookupError, match="no request"):
        app.add(1)
    with app.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(app.item)) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"note": "ä" * MAX_BYTES}, r"is 8,\d\d\d bytes of JSON but may have 4,096, .* largest value, 'note'"),
        ({"when": object()}, "the context's 'when' cannot be written as JSON"),
        ({"rowcast.trace": {}}, "the context's key 'rowcast.trace' cannot be used"),
        ({1: 1}, "the context's key 1 cannot be used"),
    ],
)
def test_a_context_that_cannot_travel_is_refused(new_app: NewApp, values: dict[Any, Any], message: str) -> None:
    app = new_app(lambda: values)
    with pytest.raises(ConfigurationError, match=message):
        app.add(1)
    with app.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(app.item)) == 0


def test_a_block_refuses_at_its_start(new_app: NewApp) -> None:
    capture = new_app().capture
    with pytest.raises(ConfigurationError, match="may have 4,096"), capture.context(note="x" * MAX_BYTES):
        pytest.fail("the block has begun")


def trace_headers(message: TopicMessage) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of a message without the lsn that each tombstone has."""
    return tuple((name, value) for name, value in message.headers if name != "__rowcast.lsn")


def test_the_context_is_in_the_events_and_in_begin_and_end(new_app: NewApp, source_name: str, kafka: Broker) -> None:
    app = new_app()
    with app.capture.context(actor="anna", of={"a": [1]}):
        app.add(1, 2)
    app.add(3)
    with app.capture.context(actor="bert"), app.sessions.begin() as session:
        session.execute(sa.delete(app.item).where(app.item.c.id == 1))
    settings = settings_for(source_name, kafka.bootstrap_servers, f"{app.engine.url}.copy", str(app.engine.url))
    Relay(settings, app.engine).run_once()
    published = read_topics(kafka.bootstrap_servers, source_name, "read_committed")
    assert_as_documented(published)
    assert_whole_transactions(published.stream)
    values = [orjson.loads(m.value) for m in published.messages if m.value and not m.topic.endswith(".schema")]
    anna, bert = {"actor": "anna", "of": {"a": [1]}}, {"actor": "bert"}
    expected = [anna, anna, anna, anna, None, None, None, bert, bert, bert]
    values.sort(key=lambda value: value["lsn"] if "lsn" in value else value["source"]["lsn"])
    assert [(value if "lsn" in value else value["transaction"]).get("context") for value in values] == expected
    assert all(trace_headers(m) == () for m in published.messages)
    work_once(settings)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    assert [row[0] for row in replica.rows("item", "id")] == [2, 3]
    replica.engine.dispose()


def test_an_active_span_travels_as_w3c_headers(new_app: NewApp, source_name: str, kafka: Broker) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    app = new_app()
    span = trace.NonRecordingSpan(
        trace.SpanContext(
            0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False,
            trace_flags=trace.TraceFlags(1), trace_state=trace.TraceState([("vendor", "t61rcWkgMzE")]),
        )
    )  # fmt: skip
    with trace.use_span(span), app.capture.context(actor="anna"):
        app.add(1)
    with trace.use_span(span), app.sessions.begin() as session:
        session.execute(sa.delete(app.item).where(app.item.c.id == 1))
    app.add(2)
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://", str(app.engine.url))
    Relay(settings, app.engine).run_once()
    published = read_topics(kafka.bootstrap_servers, source_name, "read_committed")
    assert_as_documented(published)
    headers: dict[bool, set[Any]] = {True: set(), False: set()}
    for message in published.messages:
        headers[message.topic.endswith(".schema") or b'"id":2' in message.key].add(trace_headers(message))
    assert headers[True] == {()}
    traced = (("traceparent", TRACEPARENT.encode()), ("tracestate", b"vendor=t61rcWkgMzE"))
    # BEGIN and END of the transaction without a trace have no headers, as the count below shows.
    assert headers[False] == {traced, ()}
    plain = [m for m in published.messages if m.topic.endswith(".transaction") and m.headers == ()]
    assert len(plain) == 2
    assert not any(b"traceparent" in (m.value or b"") for m in published.messages)
    contexts = [orjson.loads(m.value or b"").get("context") for m in published.messages if ".transaction" in m.topic]
    assert contexts == [{"actor": "anna"}, {"actor": "anna"}, None, None, None, None]


def test_a_span_that_is_not_valid_and_an_absent_package_say_nothing(
    new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app()
    app.add(1)
    monkeypatch.setattr("rowcast.producer.capture.transaction_context._inject", None)
    app.add(2)
    assert app.contexts() == [None, None]


def test_a_damaged_context_is_reported_with_its_row(new_app: NewApp, source_name: str, kafka: Broker) -> None:
    app = new_app()
    app.add(1)
    with app.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rowcast_outbox SET context = '[1'")
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://", str(app.engine.url))
    with pytest.raises(DataError, match=r"row 1 of rowcast_outbox .*its context is damaged"):
        Relay(settings, app.engine).run_once()
