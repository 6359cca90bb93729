"""Use rowcast in an asynchronous FastAPI application.

    pip install . fastapi uvicorn aiosqlite greenlet    # in a clone of this repository
    uvicorn --app-dir examples/fastapi app:app

The database is DATABASE_URL (default: a SQLite file in the working directory). Run `rowcast relay` beside it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import Numeric, String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowcast.producer import Capture


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(80))
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))


class OrderIn(BaseModel):
    item: str
    price: Decimal


engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///shop.db"))
Session = async_sessionmaker(engine, expire_on_commit=False)
capture = Capture(Base.metadata, source="shop")
capture.install(Session)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place(order: OrderIn) -> dict[str, int]:
    async with Session.begin() as session:
        row = Order(**order.model_dump())
        session.add(row)
    return {"id": row.id}


@app.delete("/orders/{order_id}", status_code=204)
async def cancel(order_id: int) -> None:
    async with Session.begin() as session:
        row = await session.get(Order, order_id)
        if row is None:
            raise HTTPException(404)
        await session.delete(row)
