"""One migration of many tables at once: a primary with its application before and after, and a replica on each engine.

Each kind of change has a table of its own, so that each kind can be tested apart from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer import Capture
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.relay import Relay
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine

Row = dict[str, Any]


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)


@dataclass(frozen=True)
class Change:
    """A change of a table.

    ``before`` and ``after``: columns and constraints in the application's models, besides the key. ``ddl``: the
    migration of the primary. ``old`` and ``new``: the rows that are written before and afterwards. ``columns``: those
    that a replica has afterwards, with whether they may be NULL. ``unique`` and ``foreign``: the columns of constraints
    that a replica has afterwards.
    """

    before: Sequence[Any]
    after: Sequence[Any]
    ddl: Sequence[str]
    old: Sequence[Row]
    new: Sequence[Row]
    columns: Mapping[str, bool]
    unique: Sequence[str] = ()
    foreign: Sequence[str] = ()


_NOTE = sa.String(20)


@dataclass(frozen=True)
class Unique:
    """A unique key of one column."""

    column: str
    name: str

    def _copy(self) -> sa.UniqueConstraint:
        return sa.UniqueConstraint(self.column, name=self.name)


def _column(name: str, type_: Any = _NOTE, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, **options)


def _parent(**options: Any) -> sa.Column[Any]:
    return sa.Column("parent_id", sa.ForeignKey("parent.id", name=options.pop("name")), **options)


_TITLE = Unique("title", "column_renamed_n")

CHANGES: dict[str, Change] = {
    "column_added": Change(
        [], [_column("more")], ["ALTER TABLE {t} ADD more varchar(20)"],
        [{"id": 1}], [{"id": 2, "more": "x"}], {"more": True},
    ),
    "column_added_with_default": Change(
        [],
        [
            _column("n", sa.Integer, nullable=False, server_default="7"),
            _column("s", nullable=False, server_default="it's 50% :x"),
            _column("b", sa.Boolean, nullable=False, server_default=sa.true()),
        ],
        [
            "ALTER TABLE {t} ADD n integer NOT NULL DEFAULT 7, ADD b boolean NOT NULL DEFAULT true",
            "ALTER TABLE {t} ADD s varchar(20) NOT NULL DEFAULT 'it''s 50% :x'",
        ],
        [{"id": 1}], [{"id": 2, "n": 8, "s": "y", "b": False}], {"n": True, "s": True, "b": True},
    ),
    "column_dropped": Change(
        [_column("gone", nullable=False), _column("kept")], [_column("kept")], ["ALTER TABLE {t} DROP gone"],
        [{"id": 1, "gone": "a", "kept": "b"}], [{"id": 2, "kept": "c"}], {"gone": True, "kept": True},
    ),
    "column_renamed": Change(
        [_column("name", nullable=False), Unique("name", "column_renamed_n"), _column("kept")],
        [_column("kept"), _column("title", nullable=False, info={"rowcast": {"was": "name"}}), _TITLE],
        ["ALTER TABLE {t} RENAME name TO title"],
        [{"id": 1, "name": "a", "kept": "k"}], [{"id": 2, "title": "b", "kept": "l"}],
        {"title": False, "kept": True}, unique=["title"],
    ),
    "column_relaxed": Change(
        [_column("note", nullable=False)], [_column("note")], ["ALTER TABLE {t} ALTER note DROP NOT NULL"],
        [{"id": 1, "note": "a"}], [{"id": 2, "note": None}], {"note": True},
    ),
    "column_not_null": Change(
        [_column("note")], [_column("note", nullable=False)],
        ["ALTER TABLE {t} ALTER note SET NOT NULL"],
        [{"id": 1, "note": "a"}], [{"id": 2, "note": "b"}], {"note": True},
    ),
    "column_widened": Change(
        [_column("s", sa.String(5)), _column("n", sa.Integer), _column("d", sa.Numeric(6, 2))],
        [_column("s", sa.String(50)), _column("n", sa.BigInteger), _column("d", sa.Numeric(12, 4))],
        ["ALTER TABLE {t} ALTER s TYPE varchar(50), ALTER n TYPE bigint, ALTER d TYPE numeric(12, 4)"],
        [{"id": 1, "s": "a", "n": 1, "d": 1}], [{"id": 2, "s": "b" * 50, "n": 2**40, "d": "1.2345"}],
        {"s": True, "n": True, "d": True},
    ),
    "column_narrowed": Change(
        [_column("s", sa.String(50))], [_column("s", sa.String(5))], ["ALTER TABLE {t} ALTER s TYPE varchar(5)"],
        [{"id": 1, "s": "a"}], [{"id": 2, "s": "b"}], {"s": True},
    ),
    "default_changed": Change(
        [_column("n", sa.Integer, nullable=False, server_default="7")],
        [_column("n", sa.Integer, nullable=False, server_default="9")],
        ["ALTER TABLE {t} ALTER n SET DEFAULT 9"],
        [{"id": 1, "n": 1}], [{"id": 2, "n": 2}], {"n": False},
    ),
    "label_added": Change(
        [_column("e", sa.Enum("a", "b", name="label_added_e"))],
        [_column("e", sa.Enum("a", "b", "c", name="label_added_e"))],
        ["ALTER TYPE label_added_e ADD VALUE 'c'"],
        [{"id": 1, "e": "a"}], [{"id": 2, "e": "c"}], {"e": True},
    ),
    "unique_dropped": Change(
        [_column("u", sa.Integer), Unique("u", "unique_dropped_u")], [_column("u", sa.Integer)],
        ["ALTER TABLE {t} DROP CONSTRAINT unique_dropped_u"],
        [{"id": 1, "u": 1}], [{"id": 2, "u": 1}], {"u": True},
    ),
    "unique_added": Change(
        [_column("u", sa.Integer)], [_column("u", sa.Integer), Unique("u", "unique_added_u")],
        ["ALTER TABLE {t} ADD CONSTRAINT unique_added_u UNIQUE (u)"],
        [{"id": 1, "u": 1}], [{"id": 2, "u": 2}], {"u": True}, unique=["u"],
    ),
    "foreign_key_dropped": Change(
        [_parent(name="foreign_key_dropped_p")], [sa.Column("parent_id", sa.Integer)],
        ["ALTER TABLE {t} DROP CONSTRAINT foreign_key_dropped_p"],
        [{"id": 1, "parent_id": 1}], [{"id": 2, "parent_id": 99}], {"parent_id": True},
    ),
    "foreign_key_added": Change(
        [sa.Column("parent_id", sa.Integer)], [_parent(name="foreign_key_added_p")],
        ["ALTER TABLE {t} ADD CONSTRAINT foreign_key_added_p FOREIGN KEY (parent_id) REFERENCES parent (id)"],
        [{"id": 1, "parent_id": 1}], [{"id": 2, "parent_id": 1}], {"parent_id": True}, foreign=["parent_id"],
    ),
    "parent_loses_unique": Change(
        [_column("code", sa.Integer), Unique("code", "parent_loses_unique_c")],
        [_column("code", sa.Integer)],
        ["ALTER TABLE child DROP CONSTRAINT child_c", "ALTER TABLE {t} DROP CONSTRAINT parent_loses_unique_c"],
        [{"id": 1, "code": 1}], [{"id": 2, "code": 1}], {"code": True},
    ),
    "all_at_once": Change(
        [
            _column("gone", nullable=False), _column("note", nullable=False), _column("n", sa.Integer, nullable=False),
            _parent(name="all_at_once_p"), Unique("n", "all_at_once_n"),
        ],
        [
            _column("note"), _column("n", sa.BigInteger), sa.Column("parent_id", sa.Integer),
            _column("more", sa.Integer, server_default="5"),
        ],
        [
            "ALTER TABLE {t} DROP CONSTRAINT all_at_once_n, DROP CONSTRAINT all_at_once_p, DROP gone",
            "ALTER TABLE {t} ALTER note DROP NOT NULL, ALTER n DROP NOT NULL, ALTER n TYPE bigint",
            "ALTER TABLE {t} ADD more integer DEFAULT 5",
        ],
        [{"id": 1, "gone": "g", "note": "a", "n": 1, "parent_id": 1}],
        [
            {"id": 2, "note": None, "n": 2**40, "parent_id": 99, "more": None},
            {"id": 3, "note": None, "n": 2**40, "parent_id": None, "more": 6},
        ],
        {"gone": True, "note": True, "n": True, "parent_id": True, "more": True},
    ),
}  # fmt: skip


def metadata(*, migrated: bool) -> sa.MetaData:
    """Return the application's tables before or after the migration."""
    found = sa.MetaData()
    sa.Table("parent", found, _id())
    for kind, change in CHANGES.items():
        parts = change.after if migrated else change.before
        sa.Table(kind, found, _id(), *(part._copy() for part in parts))
    code = [] if migrated else [sa.ForeignKey("parent_loses_unique.code", name="child_c")]
    sa.Table("child", found, _id(), sa.Column("code", sa.Integer, *code))
    if migrated:
        sa.Table("table_added", found, _id(), _column("note"))
    else:
        sa.Table("table_dropped", found, _id(), _column("note", nullable=False))
    return found


@dataclass
class EvolutionWorld:
    """The primary, whose tables are migrated once, and its topics."""

    source: str
    bootstrap: str
    url: str
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = open_engine(self.url, "primary", pooled=False)

    def settings(self, replica_url: str, **options: Any) -> Settings:
        """Return settings with one replica."""
        return Settings(
            source=self.source,
            kafka={"bootstrap.servers": self.bootstrap},
            primary={"url": self.url},
            relay=RelaySettings(poll_max_ms=10),
            replicas={"copy": ReplicaSettings(url=replica_url, **options)},
        )

    def begin(self) -> None:
        """Create the tables, and write the first rows."""
        tables = metadata(migrated=False)
        outbox_tables(created := metadata(migrated=False))
        created.create_all(self.engine)
        with self._process(tables) as connection:
            connection.execute(sa.insert(tables.tables["parent"]), {"id": 1})
            for kind, change in CHANGES.items():
                connection.execute(sa.insert(tables.tables[kind]), list(change.old))
            connection.execute(sa.insert(tables.tables["child"]), {"id": 1, "code": 1})
            connection.execute(sa.insert(tables.tables["table_dropped"]), {"id": 1, "note": "a"})
        self.publish()

    def migrate(self) -> None:
        """Change the tables of the primary, and write further rows by an application with new models."""
        tables = metadata(migrated=True)
        with self.engine.begin() as connection:
            for kind, change in CHANGES.items():
                for statement in change.ddl:
                    connection.exec_driver_sql(statement.format(t=kind).replace("%", "%%"))
            connection.exec_driver_sql("DROP TABLE table_dropped")
            tables.tables["table_added"].create(connection)
        with self._process(tables) as connection:
            for kind, change in CHANGES.items():
                for row in change.new:
                    connection.execute(sa.insert(tables.tables[kind]), row)
            connection.execute(sa.insert(tables.tables["table_added"]), {"id": 1, "note": "a"})
            connection.execute(sa.insert(tables.tables["child"]), {"id": 2, "code": 99})
        self.publish()

    def _process(self, tables: sa.MetaData) -> Any:
        engine = open_engine(self.url, "application", pooled=False)
        Capture(tables, source=self.source).install(engine)
        return engine.begin()

    def publish(self) -> None:
        """Publish the outbox."""
        Relay(self.settings("sqlite://"), self.engine).run_once()

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table, as texts where the engines have different types."""
        wanted = metadata(migrated=True).tables[table]
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(wanted).order_by(wanted.c.id)).mappings()]
