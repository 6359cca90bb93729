"""Run a small shop that writes orders until it is stopped: the application of docker-compose.yml.

    DATABASE_URL=postgresql+psycopg://user:password@host/shop python examples/shop/app.py

The three lines marked (1), (2) and (3) install the capture. The shop itself, with its models and transactions, is that
of `rowcast demo` and does not know rowcast.
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
from rowcast.producer.demo.models import Base
from rowcast.producer.demo.traffic import Shop

TRANSACTIONS_PER_S = float(os.environ.get("SHOP_TRANSACTIONS_PER_S", "5"))
REPORT_EVERY_S = 10


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
    Base.metadata.create_all(engine)  # (3) creates the outbox tables with the shop's own
    if "--create-tables" in sys.argv:
        # The owner of the tables has created them, and the shop runs with fewer rights.
        return

    shop = Shop(sessions, seed=time.time_ns())
    rows, transactions, reported_at = shop.open(), 1, time.monotonic()
    print(f"the shop is open: {engine.url}", flush=True)
    for changed in shop.trade():
        rows, transactions = rows + changed, transactions + 1
        if time.monotonic() - reported_at > REPORT_EVERY_S:
            reported_at = time.monotonic()
            print(f"{rows:,} row changes in {transactions:,} transactions", flush=True)
        if closing.wait(1 / TRANSACTIONS_PER_S):
            break
    print(f"the shop is closed after {rows:,} row changes in {transactions:,} transactions", flush=True)


if __name__ == "__main__":
    main()
