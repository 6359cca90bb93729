"""A sink gets every transaction whole, in order, and once in effect, through crashes and restarts."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from rowcast.consumer import RowChange, SinkBatch, SqlAlchemySink, run_sink
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, RetriableError, SuspectError
from rowcast.shared.tables.shape import PortableType, TableShape
from servers import Broker
from support.command_line import rowcast
from support.kafka_source import Source, column, shape
from support.project import ROOT
from support.worker_runs import settings_for

ACCOUNT = shape("account", column("owner", "text"), column("balance", PortableType("decimal", precision=12, scale=2)))
ENTRY = shape("entry", column("account_id"), column("amount", PortableType("decimal", precision=12, scale=2)))


@dataclass
class Account:
    id: int
    balance: Decimal


class Crash(Exception):
    """A fault of the sink that no retry solves."""


class Ledger:
    """A sink in memory. Money only moves, so that every state between two transactions has the same sum."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.stored: bytes | None = None
        self.states: list[str] = []
        self.sums: set[Decimal] = set()
        self.applied: list[str] = []
        self.shapes: list[str] = []
        self.faults: list[Exception] = []

    def checkpoint(self) -> bytes | None:
        return self.stored

    def prepare(self, shapes: Iterable[TableShape]) -> None:
        self.shapes = sorted(one.full_name for one in shapes)

    def apply(self, batch: SinkBatch) -> None:
        if self.faults:
            raise self.faults.pop(0)
        rows = dict(self.rows)
        for transaction in batch.transactions:
            for change in transaction.changes:
                self._write(rows, change)
            if transaction.id is not None:
                self.applied.append(transaction.id)
        self.rows, self.stored = rows, batch.checkpoint
        self.states.append(batch.state)
        if batch.state == "consistent":
            self.sums.add(self.total)

    @staticmethod
    def _write(rows: dict[tuple[str, int], dict[str, Any]], change: RowChange) -> None:
        if change.row is None:
            rows.pop((change.table, change.key["id"]), None)
        else:
            rows[change.table, change.key["id"]] = change.row

    @property
    def total(self) -> Decimal:
        found = (row["balance"] for (table, _), row in self.rows.items() if table == "public.account")
        return sum(found, Decimal(0))


class World:
    def __init__(self, kafka: Broker, name: str) -> None:
        self.settings: Settings = settings_for(name, kafka.bootstrap_servers, "sqlite://")
        self.source = Source(kafka.bootstrap_servers, name, partitions=2)
        self.source.add(ACCOUNT, ENTRY)
        self.entries = 0

    def open_accounts(self) -> None:
        rows: list[Any] = [("c", "account", {"id": n, "owner": f"o{n}", "balance": "10.00"}) for n in range(4)]
        self.source.transaction(*rows)

    def move(self, balances: tuple[str, str]) -> str:
        """Give the first two accounts these balances. Return the transaction's id."""
        self.entries += 1
        return self.source.transaction(
            ("u", "account", {"id": 0, "owner": "o0", "balance": balances[0]}),
            ("c", "entry", {"id": self.entries, "account_id": 0, "amount": balances[0]}),
            ("u", "account", {"id": 1, "owner": "o1", "balance": balances[1]}),
        )


@pytest.fixture
def world(kafka: Broker, source_name: str) -> World:
    world = World(kafka, source_name)
    world.open_accounts()
    return world


def test_a_sink_gets_whole_transactions_once_through_crashes(world: World) -> None:
    ledger = Ledger()
    progress = run_sink(world.settings, ledger, once=True)
    assert (progress.state, ledger.states[0], ledger.states[-1]) == ("consistent", "loading", "consistent")
    assert ledger.shapes == ["public.account", "public.entry"]
    assert ledger.applied == []  # What was loaded by key is no transaction.
    ids = [world.move((f"{20 - n}.50", f"{n}.50")) for n in range(1, 10)]
    ledger.faults = [RetriableError("busy"), Crash()]
    with pytest.raises(Crash):
        run_sink(world.settings, ledger, once=True, batch_events=3)
    while len(ledger.applied) < len(ids):
        ledger.faults = [] if len(ledger.applied) % 2 else [RetriableError("busy")]
        run_sink(world.settings, ledger, once=True, batch_events=3)
    assert ledger.applied == ids
    assert ledger.sums == {Decimal(40), Decimal("41.00")}  # Before the first move, and after every move.
    account = RowChange("public.account", {"id": 0}, ledger.rows["public.account", 0]).as_model(Account)
    assert account == Account(0, Decimal("11.50"))


def test_a_running_sink_follows_and_a_new_table_is_announced(world: World) -> None:
    ledger, stop = Ledger(), threading.Event()
    thread = threading.Thread(target=run_sink, args=(world.settings, ledger), kwargs={"stop": stop})
    thread.start()

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    try:
        until(lambda: "consistent" in ledger.states)
        world.source.add(shape("extra", column("n")))
        world.source.transaction(("c", "extra", {"id": 1, "n": 7}))
        until(lambda: ("public.extra", 1) in ledger.rows)
        assert "public.extra" in ledger.shapes
    finally:
        stop.set()
        thread.join(30)


def test_a_checkpoint_of_something_else_is_refused(world: World, kafka: Broker) -> None:
    ledger = Ledger()
    run_sink(world.settings, ledger, once=True)
    with pytest.raises(ConfigurationError, match="a checkpoint of source"):
        run_sink(settings_for("elsewhere", kafka.bootstrap_servers, "sqlite://"), ledger, once=True)
    ledger.stored = b"[]"
    with pytest.raises(ConfigurationError, match="no checkpoint of rowcast"):
        run_sink(world.settings, ledger, once=True)
    ledger.stored = None
    other_timeline = json.loads(ACCOUNT.to_json()) | {"version": "v2", "lsn": 99, "timeline": 2, "timeline_lsn": 99}
    run_sink(world.settings, ledger, once=True)
    topic = f"{world.settings.source}.schema"
    world.source.send(topic, json.dumps(other_timeline).encode(), b'{"schema":"public","table":"account"}', partition=0)
    world.source.flush()
    with pytest.raises(SuspectError):
        run_sink(world.settings, ledger, once=True)


@pytest.mark.parametrize("engine", ["duckdb", "postgresql", "sqlite"])
def test_rows_reach_every_dialect_of_sqlalchemy(
    engine: str, world: World, new_database: Callable[[str], str], tmp_path: Path
) -> None:
    url = f"duckdb:///{tmp_path}/copy.duckdb" if engine == "duckdb" else new_database(engine)
    target = sa.create_engine(url)
    sink = SqlAlchemySink(target, primary_keys=engine != "duckdb")
    world.move(("9.50", "10.50"))
    run_sink(world.settings, sink, once=True)
    world.move(("8.00", "12.00"))
    world.source.transaction(("d", "account", {"id": 3}), ("c", "account", {"id": 9, "owner": None, "balance": "0.10"}))
    # A column that the source adds.
    wider = shape("entry", *ENTRY.columns[1:], column("note", "text"))
    world.source.add(wider)
    world.source.transaction(("c", "entry", {"id": 70, "account_id": 1, "amount": "1.00", "note": "new"}))
    run_sink(world.settings, SqlAlchemySink(target, primary_keys=engine != "duckdb"), once=True)
    with target.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, owner, balance FROM account ORDER BY id")).all()
        notes = connection.execute(sa.text("SELECT id, note FROM entry ORDER BY id")).all()
    assert [(id_, owner, Decimal(str(balance))) for id_, owner, balance in rows] == [
        (0, "o0", Decimal("8")), (1, "o1", Decimal("12")), (2, "o2", Decimal("10")), (9, None, Decimal("0.1")),
    ]  # fmt: skip
    assert [tuple(row) for row in notes] == [(1, None), (2, None), (70, "new")]
    target.dispose()


def test_the_command_runs_a_sink_of_the_configuration(world: World, kafka: Broker, tmp_path: Path) -> None:
    (tmp_path / "own_sink.py").write_text(
        "class Own:\n"
        "    def __init__(self, path):\n        self.path = path\n"
        "    def checkpoint(self):\n        return None\n"
        "    def prepare(self, shapes):\n        pass\n"
        "    def apply(self, batch):\n"
        "        with open(self.path, 'a') as file:\n"
        "            file.writelines(f'{change.table} {change.row}\\n' for change in batch.changes())\n"
    )
    (tmp_path / "rowcast.toml").write_text(
        f'source = "{world.settings.source}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        '[sinks.own]\nuse = "own_sink:Own"\noptions = { path = "kept" }\ntables = ["public.acc*"]\n'
        f'[sinks.files]\nuse = "sqlalchemy"\noptions = {{ url = "sqlite:///{tmp_path}/files.db" }}\n'
        '[sinks.lost]\nuse = "nowhere:Own"\n[sinks.bare]\nuse = "sqlalchem"\n[sinks.wrong]\nuse = "own_sink:Own"\n'
    )
    assert rowcast("sink", "own", "--once", cwd=tmp_path).returncode == 0
    assert (tmp_path / "kept").read_text().count("public.account") == 4
    assert rowcast("sink", "files", "--once", cwd=tmp_path).returncode == 0
    with sa.create_engine(f"sqlite:///{tmp_path}/files.db").connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM account")) == 4
    for name, message in (
        ("ow", "no sink 'ow' in the configuration"),
        ("lost", "nowhere:Own cannot be imported: No module named 'nowhere'"),
        ("bare", "'sqlalchem' is no entry point of rowcast.sinks (installed: sqlalchemy)"),
        ("wrong", "own_sink:Own does not take these options"),
    ):
        result = rowcast("sink", name, "--once", cwd=tmp_path)
        assert (result.returncode, message in result.stderr) == (2, True), result.stderr
    sys.modules.pop("own_sink", None)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples/sinks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PRODUCT = shape("products", column("name", "text"), column("description", "text"))


def test_the_examples_keep_a_search_index_and_a_cache(kafka: Broker, source_name: str, tmp_path: Path) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://")
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(PRODUCT)
    source.transaction(
        ("c", "products", {"id": 1, "name": "green tea", "description": "from Japan"}),
        ("c", "products", {"id": 2, "name": "teapot", "description": "for black tea"}),
    )
    index = example("search_index").SearchIndex(str(tmp_path / "search.db"))
    client = Client({"public.products:1": b"cached", "public.products:9": b"cached"})
    cache = example("cache").CacheSink(client)
    for sink in (index, cache):
        run_sink(settings, sink, once=True)
    assert sorted(index.search("tea")) == [1, 2]
    assert sorted(client.values) == ["public.products:9", "rowcast:checkpoint"]
    client.values["public.products:2"] = b"cached again"
    source.transaction(("d", "products", {"id": 1}), ("u", "products", {"id": 2, "name": "pot", "description": "old"}))
    for sink in (index, cache):
        run_sink(settings, sink, once=True)
    assert (index.search("tea"), index.search("pot")) == ([], [2])
    assert sorted(client.values) == ["public.products:9", "rowcast:checkpoint"]


class Client:
    """Be as much of a Redis client as the cache needs."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self.values = values

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.values.pop(key, None)
