"""Run a primary and its replicas in the test's process. Rows take the whole way, in batches."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa

from rowcast.consumer.running.run_worker import run_worker
from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.relay.embedded import run_relay
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.tables.type_mapping import engine_family
from support.fidelity.stored_values import READ_BACK, meaning, read_back, rows
from support.fidelity.type_case import Family

_SHOWN = 5


class Fidelity:
    """Create the tables of all families on the primary.

    A replica on a different engine gets only the families that every engine can hold.
    """

    def __init__(
        self, source: str, bootstrap: str, primary_url: str, replica_urls: dict[str, str], families: Sequence[Family]
    ) -> None:
        self.families = families
        self.primary = open_engine(primary_url, "primary", pooled=False)
        self.family = engine_family(self.primary.dialect.name)
        self.replicas = {name: open_engine(url, name, pooled=False) for name, url in replica_urls.items()}
        for engine in (self.primary, *self.replicas.values()):
            if engine.dialect.name == "postgresql":
                with engine.begin() as connection:
                    for extension in ("hstore", "citext"):
                        connection.exec_driver_sql(f"CREATE EXTENSION {extension}")
        metadata = sa.MetaData()
        self._tables = {family.name: family.table(metadata) for family in families}
        self._capture = Capture(metadata, source=source)
        self._capture.install(self.primary)
        metadata.create_all(self.primary)
        self.settings = Settings(
            source=source,
            kafka={"bootstrap.servers": bootstrap},
            primary=PrimarySettings(url=primary_url),
            replicas={
                name: ReplicaSettings(url=url, tables=tuple(f"*.{f.name}" for f in self.families_of(name)))
                for name, url in replica_urls.items()
            },
        )
        self._ids = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.uninstall(self.primary)
        for engine in (self.primary, *self.replicas.values()):
            engine.dispose()

    def families_of(self, replica: str) -> list[Family]:
        """Return the families of this replica."""
        same = engine_family(self.replicas[replica].dialect.name) == self.family
        return [f for f in self.families if same or not f.name.startswith("alone_")]

    def round(self, count: int, number: int, form: Literal["json", "json-schema"] = "json") -> None:
        """Write ``count`` new rows to each table, change the rows of the last round, and delete a few.

        Then publish in the given form and apply to every replica.
        """
        first, self._ids = self._ids, self._ids + count
        for i, family in enumerate(self.families):
            table = self._tables[family.name]
            values = family.parameters()
            new = family.rows(count, number + i)
            old = family.rows(count, number + 500 + i) if first else []
            with self.primary.begin() as connection:
                connection.execute(
                    sa.insert(table).values(values), [{"id": first + n, **row} for n, row in enumerate(new)]
                )
            if old:
                changed = {
                    c.name: sa.bindparam(f"v_{c.name}", type_=c.type) for c in table.c if c.name != "id"
                } | values
                with self.primary.begin() as connection:
                    connection.execute(
                        sa.update(table).where(table.c.id == sa.bindparam("b_id")).values(changed),
                        [{"b_id": first - count + n, **_all_prefixed(row)} for n, row in enumerate(old)],
                    )
                    connection.execute(sa.delete(table).where(table.c.id == first - count))
        self.publish(form)
        self.apply()

    def table(self, family: str) -> sa.Table:
        return self._tables[family]

    def publish(self, form: Literal["json", "json-schema"]) -> None:
        """Publish everything committed, in messages of the given form."""
        settings = self.settings.model_copy(update={"relay": RelaySettings(format=form)})
        run_relay(settings, once=True, stop=threading.Event())

    def apply(self) -> None:
        """Apply everything published to every replica."""
        for name in self.replicas:
            run_worker(self.settings, name, once=True)

    def differences(self, replica: str) -> list[str]:
        """Return the differences of all tables as sentences, with at most five examples for each column."""
        found: list[str] = []
        engine = self.replicas[replica]
        same = engine_family(engine.dialect.name) == self.family
        for family in self.families_of(replica):
            with self.primary.connect() as ours_, engine.connect() as theirs_:
                ours, theirs = rows(ours_, family), rows(theirs_, family)
                if ours.keys() != theirs.keys():
                    found.append(f"{family.name}: {len(ours)} rows, but {len(theirs)} on the replica")
                    continue
                for position, kind in enumerate(family.kinds):
                    a, b = ([side[id_][position] for id_ in ours] for side in (ours, theirs))
                    there = [(i, x, y) for i, x, y in zip(ours, a, b, strict=True)]
                    if same:
                        wrong = [(i, x, y) for i, x, y in there if x != y or type(x) is not type(y)]
                    else:
                        nulls = [(i, x, y) for i, x, y in there if (x is None) != (y is None)]
                        both = [(i, x, y) for i, x, y in there if x is not None and y is not None]
                        other = engine_family(engine.dialect.name)
                        meant = [(i, meaning(self.family, kind, x), meaning(other, kind, y)) for i, x, y in both]
                        if kind.means in READ_BACK:
                            back = read_back(ours_, kind, [y for _, _, y in meant])
                            meant = [(i, x, y) for (i, x, _), y in zip(meant, back, strict=True)]
                        if self.family == "sqlite" and kind.means in ("decimal", "document"):
                            meant = [(i, _as_double(x), _as_double(y)) for i, x, y in meant]
                        wrong = nulls + [(i, x, y) for i, x, y in meant if x != y]
                    if wrong:
                        some = "; ".join(f"{i}: {_short(x)} became {_short(y)}" for i, x, y in wrong[:_SHOWN])
                        found.append(f"{family.name}.{kind.name}: {len(wrong)} of {len(a)} differ: {some}")
        return found

    def verified(self, replica: str) -> list[Any]:
        """Return the differences found by ``verify``."""
        return [d for table in verify(self.settings, replica).tables for d in table.differences]


def _all_prefixed(row: dict[str, Any]) -> dict[str, Any]:
    return {name if name.startswith("v_") else f"v_{name}": value for name, value in row.items()}


def _as_double(value: Any) -> Any:
    """Return a number as a double, because SQLite holds doubles, whatever the number of digits in the text."""
    text = str(value)
    return float(text) if re.fullmatch(r"-?[0-9.]+([eE][-+]?[0-9]+)?", text) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:120]}…"
