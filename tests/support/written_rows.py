"""Record every row that a worker writes to `item`, by triggers."""

from __future__ import annotations

import sqlalchemy as sa

from support.worker_runs import Database


def audit(replica: Database) -> None:
    """Create triggers that record every row written to `item`, with its `n`."""
    # A server may refuse tables without a primary key.
    columns = (
        sa.Column("item_id", sa.BigInteger),
        sa.Column("n", sa.BigInteger),
        sa.Column("number", sa.Integer, primary_key=True),
    )
    sa.Table("audit", sa.MetaData(), *columns).create(replica.engine)
    note = "INSERT INTO audit (item_id, n) VALUES (NEW.id, NEW.n)"
    if replica.engine.dialect.name == "postgresql":
        replica.execute(
            f"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {note}; RETURN NEW; END $$",
            "CREATE TRIGGER written AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION note()",
        )
        return
    body = f"BEGIN {note}; END" if replica.engine.dialect.name == "sqlite" else note
    for action in ("INSERT", "UPDATE"):
        replica.execute(f"CREATE TRIGGER written_{action} AFTER {action} ON item FOR EACH ROW {body}")


def written(replica: Database) -> dict[int, list[int]]:
    """Return the values of `n` that were written to each row, in order."""
    rows = sorted(replica.rows("audit", "number", "item_id", "n"))
    found: dict[int, list[int]] = {}
    for _, item, n in rows:
        found.setdefault(item, []).append(n)
    return found
