"""A block has of every value, byte for byte, what a line has, whatever the session's settings are."""

from __future__ import annotations

import sqlalchemy as sa

from fix_databases import NewDatabase
from integration.fidelity import kinds_postgresql
from integration.fidelity.kinds import Family, Kind
from integration.fidelity.test_fidelity import with_settings
from rowcast.producer import Capture
from rowcast.producer.outbox_lines import row_line
from rowcast.producer.relay.blocks import ChangeSplitter
from rowcast.producer.relay.lines import Change
from rowcast.producer.returned_images import MANY
from rowcast.producer.tables import CapturedTable

# Arrays, bytes, UUIDs that are no UUIDs to the database, and what travels as PostgreSQL's own text.
BY_LINES = (
    """
BIGINT[]; BIT VARYING; BIT(8); BOOLEAN[]; BYTEA; BYTEA[]; CHAR(32); CHAR(4)[]; CIDR; CITEXT; DATEMULTIRANGE; DATERANGE;
DATERANGE[]; DATE[]; DOUBLE PRECISION[]; HSTORE; INET; INET[]; INT4MULTIRANGE; INT4RANGE; INT8RANGE; INTEGER[];
INTERVAL; INTERVAL DAY TO SECOND (3); INTERVAL[]; JSONB[]; JSONPATH; MACADDR; MACADDR8; MONEY; NUMERIC[]; NUMRANGE; OID;
REAL[]; TEXT[]; TIMESTAMP WITH TIME ZONE[]; TIMESTAMP WITHOUT TIME ZONE[]; TSMULTIRANGE; TSRANGE; TSTZMULTIRANGE;
TSTZRANGE; TSTZRANGE[]; TSVECTOR; UUID[]; mood_of_array[]
""".strip()
    .replace("\n", " ")
    .split("; ")
)


def test_values_of_every_type(new_database: NewDatabase) -> None:
    engine = sa.create_engine(with_settings(new_database("postgresql"), "postgresql"))
    with engine.begin() as connection:
        for extension in ("hstore", "citext"):
            connection.exec_driver_sql(f"CREATE EXTENSION {extension}")
    kinds = [(family, kind) for family in kinds_postgresql.families() for kind in family.kinds]
    metadata = sa.MetaData()
    of_one = [Family(f"{family.name}_{kind.name}", [kind]) for family, kind in kinds]
    tables = [family.table(metadata) for family in of_one]
    capture = Capture(metadata, source="shop")
    capture.install(engine)
    metadata.create_all(engine)
    _know(engine, tables[0])
    by_lines = set()
    for n, (family, table, (_, kind)) in enumerate(zip(of_one, tables, kinds, strict=True)):
        with engine.begin() as connection:
            some = family.rows(100, n)
            rows = [{"id": i, **some[i % len(some)]} for i in range(MANY)]
            connection.execute(sa.insert(table).values(family.parameters()), rows)
        _taken(engine, metadata)
        with engine.begin() as connection:
            connection.execute(sa.update(table).values({kind.name: table.c[kind.name]}))
        texts = _taken(engine, metadata)
        if not texts[0].startswith('{"rows":'):
            by_lines.add(_type(kind))
        told = _by_key([change for text in texts for change in ChangeSplitter().split(text)])
        assert told == _by_key(_lines(engine, table)), family.name
    capture.uninstall(engine)
    engine.dispose()
    assert sorted(by_lines) == sorted(BY_LINES)


def _know(engine: sa.Engine, table: sa.Table) -> None:
    """That the tables' shapes are committed is known from the second transaction on."""
    for id_ in (-1, -2):
        with engine.begin() as connection:
            connection.execute(sa.insert(table).values(id=id_))
    with engine.begin() as connection:
        connection.execute(sa.delete(table))


def _taken(engine: sa.Engine, metadata: sa.MetaData) -> list[str]:
    outbox = metadata.tables["rowcast_outbox"]
    with engine.begin() as connection:
        texts = connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)).all()
        connection.execute(sa.delete(outbox))
    return list(texts)


def _lines(engine: sa.Engine, table: sa.Table) -> list[Change]:
    """The changes as lines would tell them."""
    line = row_line(CapturedTable(table, engine.dialect, "public"), "u")
    with engine.connect() as connection:
        found = connection.scalars(sa.select(line).select_from(table))
        return ChangeSplitter().split("".join(found))


def _by_key(changes: list[Change]) -> dict[bytes, Change]:
    found = {change[1]: change for change in changes}
    assert len(found) == len(changes) == MANY
    return found


def _type(kind: Kind) -> str:
    return str(sa.types.to_instance(kind.type_).compile(dialect=sa.dialects.postgresql.dialect()))
