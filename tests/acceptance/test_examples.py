"""Run the examples, and check that a migration tool finds the outbox tables."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from confluent_kafka import Consumer
from sqlalchemy.orm import DeclarativeBase

from rowcast.producer import Capture, relay
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from support.project import EXAMPLES


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # SQLAlchemy's mapper resolves annotations in the module of this name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_fastapi_example_records_what_it_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    example = load_example("fastapi")
    asyncio.run(order_and_cancel(example.app))
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.connect() as connection:
        texts = connection.execute(sa.text("SELECT changes FROM rowcast_outbox ORDER BY id")).scalars().all()
    engine.dispose()
    changes = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [(c["op"], c["k"]) for c in changes] == [("c", {"id": 1}), ("d", {"id": 1})]
    assert changes[0]["a"] == {"id": 1, "item": "lamp", "price": "12.50"}


async def order_and_cancel(app: Any) -> None:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        assert (await client.post("/orders", json={"item": "lamp", "price": "12.50"})).json() == {"id": 1}
        assert (await client.delete("/orders/1")).status_code == 204
        assert (await client.delete("/orders/1")).status_code == 404


def test_the_flask_example_publishes_what_it_commits(tmp_path: Path) -> None:
    example = load_example("flask")
    with embedded_kafka() as brokers:
        settings = Settings.model_validate(
            {
                "source": "pages",
                "kafka": {"bootstrap.servers": brokers},
                "primary": {"url": f"sqlite:///{tmp_path}/pages.db"},
            }
        )
        app, capture = example.create_app(settings)
        with relay.running(settings, capture):
            client = app.test_client()
            assert client.post("/pages", json={"title": "Home"}).json == {"id": 1}
            event = first_event(brokers, "pages.main.pages")
        assert event["op"] == "c"
        assert event["after"] == {"id": 1, "title": "Home"}
        assert event["source"]["name"] == "pages"


def first_event(brokers: str, topic: str) -> Any:
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe([topic])
    try:
        for _ in range(100):
            message = consumer.poll(0.3)
            if message is not None and message.error() is None:
                return json.loads(message.value() or b"")
    finally:
        consumer.close()
    pytest.fail("no event within 30 seconds")


def test_alembic_sees_the_outbox_tables(tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    Capture(Base.metadata, source="x")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        added = [d[1].name for d in compare_metadata(context, Base.metadata) if d[0] == "add_table"]
        names = ("batch", "claim", "lease", "outbox", "parked", "relay", "shape", "snapshot")
        assert sorted(added) == [f"rowcast_{name}" for name in names]
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
