"""A small shop that trades for as long as it runs: the application of docker-compose.yml.

    DATABASE_URL=postgresql+psycopg://user:password@host/shop python examples/shop/app.py

What it takes to be captured are the three lines marked with (1), (2) and (3). The shop itself, its models and what
happens in it, is the one of `rowcast demo`, and knows nothing of rowcast.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from rowcast.producer import Capture
from rowcast.producer.demo.shop import Base
from rowcast.producer.demo.trade import Shop

TRANSACTIONS_PER_S = float(os.environ.get("SHOP_TRANSACTIONS_PER_S", "5"))
TELL_EVERY_S = 10


def main() -> None:
    url = os.environ.get("ROWCAST_PRIMARY__URL") or os.environ.get("DATABASE_URL")
    if not url:
        sys.exit("Where is the shop's database? Set DATABASE_URL or ROWCAST_PRIMARY__URL.")
    closing = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: closing.set())

    engine = create_engine(url)
    sessions = sessionmaker(engine)
    capture = Capture(Base.metadata, source=os.environ.get("ROWCAST_SOURCE", "shop"))  # (1)
    capture.install(sessions)  # (2)
    Base.metadata.create_all(engine)  # (3) the outbox tables are made with the shop's own

    shop = Shop(sessions, seed=time.time_ns())
    rows, transactions, told = shop.open(), 1, time.monotonic()
    print(f"the shop is open: {engine.url}", flush=True)
    for changed in shop.trade():
        rows, transactions = rows + changed, transactions + 1
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            print(f"{rows:,} row changes in {transactions:,} transactions", flush=True)
        if closing.wait(1 / TRANSACTIONS_PER_S):
            break
    print(f"the shop is closed after {rows:,} row changes in {transactions:,} transactions", flush=True)


if __name__ == "__main__":
    main()
