"""A block has every value byte for byte as an outbox line has it, under all settings of the session."""

from __future__ import annotations

import sqlalchemy as sa

from fixtures.databases import NewDatabase
from integration.fidelity.test_fidelity import with_settings
from rowcast.producer import Capture
from rowcast.producer.capture.drain.bulk_update import BULK_UPDATE_MIN_ROWS
from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.line_parser import Change
from rowcast.producer.outbox.line_writer import row_line
from rowcast.producer.tables.captured import CapturedTable
from support.fidelity import types_postgresql
from support.fidelity.type_case import Family, Kind

VALUES = 25
"""The number of different values in each column. At most 11 are edges and NULL, the others are random."""

# Arrays, bytes, UUIDs stored as text, and types that travel as PostgreSQL's own text.
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
    url = new_database("postgresql")
    engine, other = sa.create_engine(with_settings(url, "postgresql")), sa.create_engine(url)
    with engine.begin() as connection:
        for extension in ("hstore", "citext"):
            connection.exec_driver_sql(f"CREATE EXTENSION {extension}")
    kinds = [(family, kind) for family in types_postgresql.families() for kind in family.kinds]
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
            rows = [{"id": i, **row} for i, row in enumerate(family.rows(VALUES, n))]
            connection.execute(sa.insert(table).values(family.parameters()), rows)
        _repeat_rows(other, table)
        _taken(engine, metadata)
        with engine.begin() as connection:
            connection.execute(sa.update(table).values({kind.name: table.c[kind.name]}))
        texts = _taken(engine, metadata)
        if not texts[0].startswith('{"rows":'):
            by_lines.add(_type(kind))
        found = _by_key([change for text in texts for change in ChangeSplitter().split(text)])
        assert found == _by_key(_lines(engine, table)), family.name
    capture.uninstall(engine)
    engine.dispose()
    other.dispose()
    assert sorted(by_lines) == sorted(BY_LINES)


def _know(engine: sa.Engine, table: sa.Table) -> None:
    """Commit two transactions, because the capture knows only from the second on that the shapes are committed."""
    for id_ in (-1, -2):
        with engine.begin() as connection:
            connection.execute(sa.insert(table).values(id=id_))
    with engine.begin() as connection:
        connection.execute(sa.delete(table))


def _repeat_rows(engine: sa.Engine, table: sa.Table) -> None:
    """Copy the rows in the database until a statement has enough of them for a block."""
    copy = sa.literal_column("copy", sa.Integer())
    copies = sa.func.generate_series(1, BULK_UPDATE_MIN_ROWS // VALUES - 1).alias("copy")
    rows = sa.select(table.c.id + copy * VALUES, *list(table.c)[1:]).join_from(table, copies, sa.true())
    with engine.begin() as connection:
        connection.execute(sa.insert(table).from_select(table.c.keys(), rows))


def _taken(engine: sa.Engine, metadata: sa.MetaData) -> list[str]:
    outbox = metadata.tables["rowcast_outbox"]
    with engine.begin() as connection:
        texts = connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)).all()
        connection.execute(sa.delete(outbox))
    return list(texts)


def _lines(engine: sa.Engine, table: sa.Table) -> list[Change]:
    """Return the changes in the form of lines."""
    line = row_line(CapturedTable(table, engine.dialect, "public"), "u")
    with engine.connect() as connection:
        found = connection.scalars(sa.select(line).select_from(table))
        return ChangeSplitter().split("".join(found))


def _by_key(changes: list[Change]) -> dict[bytes, Change]:
    found = {change[1]: change for change in changes}
    assert len(found) == len(changes) == BULK_UPDATE_MIN_ROWS
    return found


def _type(kind: Kind) -> str:
    return str(sa.types.to_instance(kind.type_).compile(dialect=sa.dialects.postgresql.dialect()))
