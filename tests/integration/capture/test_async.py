"""Capture changes under asyncio, with the listeners behind AsyncSession and AsyncEngine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from fixtures.databases import ENGINES
from rowcast.producer import Capture
from support.shop import Models, Shop

DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}


# Each engine has a driver of its own. The kind of target does not depend on it.
@pytest.mark.parametrize(
    ("shop", "kind"),
    [*((engine, "async_sessionmaker") for engine in ENGINES), ("sqlite", "async_engine")],
    indirect=["shop"],
)
def test_a_capture_installs_on(shop: Shop, kind: str) -> None:
    asyncio.run(write_and_look(shop.engine.url, shop.models, kind))


async def write_and_look(url: sa.URL, m: Models, kind: str) -> None:
    engine = create_async_engine(url.set(drivername=DRIVERS[url.get_backend_name()]))
    capture = Capture(m.metadata, source="x")
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    target: Any = sessions if kind == "async_sessionmaker" else engine
    capture.install(target)
    capture.install(target)
    woken: list[bool] = []
    capture.on_commit(lambda: woken.append(True))

    async def outbox() -> list[str]:
        table = m.metadata.tables["rowcast_outbox"]
        async with engine.connect() as connection:
            found = await connection.scalars(sa.select(table.c.changes).order_by(table.c.id))
            return [line for text in found for line in text.splitlines()]

    async with sessions() as session:
        # aiomysql 0.3 cannot send bytes with PyMySQL 1.2.
        data = None if engine.dialect.name == "mysql" else b"\0\1"
        session.add(m.Customer(name="a", notes=[m.Note(body="x", data=data)]))
        await session.commit()
        assert woken
        session.add(m.Tag(name="not this"))
        await session.rollback()
    async with sessions.begin() as session:
        await session.execute(sa.insert(m.Tag), [{"name": "p"}, {"name": "q"}])
        await session.execute(sa.update(m.Tag).where(m.Tag.name == "p").values(name="r"))
    lines = await outbox()
    assert len(lines) == 4
    assert sum('"op":"c"' in line for line in lines) == 4
    assert data is None or '"AAE="' in "".join(lines)

    await asyncio.gather(*(one(sessions, m, n) for n in range(4)))
    assert len(await outbox()) == 8

    # Some drivers do not count the rows of a statement with many parameter sets.
    async with sessions() as session:
        for row in await session.scalars(sa.select(m.Reading)):
            await session.delete(row)
        await session.commit()
    assert [line.count('"op":"d"') for line in (await outbox())[8:]] == [1, 1, 1, 1]

    capture.uninstall(target)
    async with sessions.begin() as session:
        session.add(m.Tag(name="unseen"))
    assert len(await outbox()) == 12
    await engine.dispose()


async def one(sessions: async_sessionmaker[AsyncSession], m: Models, n: int) -> None:
    async with sessions.begin() as session:
        session.add(m.Reading(sensor=f"s{n}", at=1))
