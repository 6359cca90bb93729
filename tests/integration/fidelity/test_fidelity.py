"""Values of every type arrive on every engine as the documentation of types says, compared in the databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from fix_databases import ENGINES, NewDatabase
from integration.fidelity import kinds_mariadb, kinds_postgresql, kinds_sqlite
from integration.fidelity.kinds import Family
from integration.fidelity.pipeline import Fidelity
from servers import Broker, DatabaseServer

FAMILIES: dict[str, Callable[[], list[Family]]] = {
    "postgresql": kinds_postgresql.families,
    "mariadb": kinds_mariadb.families,
    "sqlite": kinds_sqlite.families,
}


SETTINGS = {
    "postgresql": {
        "options": "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata -c intervalstyle=sql_standard -c bytea_output=escape"
    },
    "mariadb": {"init_command": "SET time_zone = '+05:30'"},
}
"""Of the application's sessions: what is captured must not depend on them."""


def with_settings(url: str, engine: str) -> str:
    return sa.make_url(url).update_query_dict(SETTINGS.get(engine, {})).render_as_string(hide_password=False)


@pytest.mark.campaign
@pytest.mark.parametrize("primary", ENGINES)
def test_what_is_stored_arrives(
    primary: str,
    kafka: Broker,
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    new_database: NewDatabase,
    source_name: str,
    campaign: bool,
) -> None:
    """Rows of random values, inserted, changed and deleted; each holds a value of every type. The slice: 100 of them,
    always the same; the campaign: 10,000 to each replica. The same engine holds the very same; another one what the
    documentation says; and verify finds no difference."""
    rounds, rows = (10, 1_000) if campaign else (2, 50)
    replicas = {engine: new_database(engine) for engine in ENGINES}
    families = FAMILIES[primary]()
    url = with_settings(new_database(primary), primary)
    with Fidelity(source_name, kafka.bootstrap_servers, url, replicas, families) as fidelity:
        for number in range(rounds):
            fidelity.round(rows, 1_000 * number)
            found = {name: fidelity.differences(name) for name in replicas}
            assert not any(found.values()), "\n".join(f"to {n}: {d}" for n, ds in found.items() for d in ds)
        assert {name: fidelity.verified(name) for name in replicas} == {name: [] for name in replicas}
