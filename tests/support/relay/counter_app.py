"""Run an application of counters.

Each transaction adds 1 to some counters and writes the changes to the outbox. For each counter, the topics must then
contain 1, 2, 3, … and no number twice.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from support.relay.primary import ORDERS, Primary, line

COUNTERS = 7

_metadata = sa.MetaData()
_counter = sa.Table(
    "counter",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer, nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)


class Counters:
    """Hold the counters of one primary."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        _metadata.create_all(primary.engine)
        primary.add_shapes(ORDERS)
        with primary.engine.begin() as connection:
            connection.execute(sa.insert(_counter), [{"id": n, "n": 0} for n in range(COUNTERS)])

    def raise_some(self, rng: random.Random) -> None:
        """Run a transaction with up to four outbox rows. Some transactions roll back."""
        outbox, tx = self._primary.tables.outbox, uuid.uuid4().hex
        # The counters are changed in order of id. Otherwise two transactions would wait for each other.
        chosen = sorted(rng.sample(range(COUNTERS), rng.randint(1, 4)))
        with self._primary.engine.connect() as connection, connection.begin() as transaction:
            for key in chosen:
                connection.execute(sa.update(_counter).where(_counter.c.id == key).values(n=_counter.c.n + 1))
            marked = rng.random() < 0.7
            for key in chosen:
                n = connection.execute(sa.select(_counter.c.n).where(_counter.c.id == key)).scalar_one()
                row = {"tx": tx, "ts_ms": 1, "complete": True if marked and key == chosen[-1] else None}
                connection.execute(sa.insert(outbox), {**row, "changes": line(ORDERS, "u", key, str(n))})
            if rng.random() < 0.1:
                transaction.rollback()

    @contextmanager
    def at_work(self, seed: int, writers: int = 3) -> Iterator[None]:
        """Run several concurrent writers until the block ends."""
        stop = threading.Event()

        def write(rng: random.Random) -> None:
            while not stop.is_set():
                self.raise_some(rng)

        threads = [threading.Thread(target=write, args=(random.Random(seed + n),)) for n in range(writers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def expected(self) -> dict[int, list[int]]:
        """Return all numbers of each counter that has changed."""
        with self._primary.engine.connect() as connection:
            rows = connection.execute(sa.select(_counter.c.id, _counter.c.n)).all()
        return {id_: list(range(1, n + 1)) for id_, n in rows if n}
