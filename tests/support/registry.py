"""Capture a table of PostgreSQL by triggers, with roles of different rights."""

from __future__ import annotations

from typing import Any

import orjson
import sqlalchemy as sa

from rowcast.producer import Capture
from rowcast.producer.triggers.install import install
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.producer.triggers.state import trigger_states


class Registry:
    """Hold the table `person` on a PostgreSQL database, captured by triggers."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.metadata = sa.MetaData()
        sa.Table(
            "person",
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.Text),
            sa.Column("born", sa.DateTime(timezone=True)),
            info={"rowcast": "triggers"},
        )
        Capture(self.metadata, source="registry")
        self.metadata.create_all(engine)

    def install(self, settings: dict[str, Any] | None = None, **options: Any) -> None:
        with self.engine.begin() as connection:
            self.install_on(connection, settings, **options)

    def install_on(self, connection: sa.Connection, settings: dict[str, Any] | None = None, **options: Any) -> None:
        tables = {"person": {"mode": "triggers"} | (settings or {})}
        (table,) = ReflectedTables(self.metadata, tables).read(connection, [(None, "person")])
        install(connection, table, **options)

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def execute_as(self, role: str, *statements: str) -> None:
        """Execute the statements in a transaction of a session that the role opened."""
        self.execute(f"SET LOCAL SESSION AUTHORIZATION {role}", *statements)

    def scalar(self, query: str) -> Any:
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar()

    def lines(self) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            texts = connection.exec_driver_sql("SELECT changes FROM public.rowcast_outbox ORDER BY id").scalars().all()
        return [orjson.loads(line) for text in texts for line in text.splitlines()]

    def faults(self, settings: dict[str, Any] | None = None) -> tuple[str, ...]:
        tables = {"person": {"mode": "triggers"} | (settings or {})}
        with self.engine.connect() as connection:
            (state,) = trigger_states(connection, ReflectedTables(self.metadata, tables))
        return tuple(state.faults)
