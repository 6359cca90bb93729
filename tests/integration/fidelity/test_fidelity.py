"""Values of every type arrive on every engine as docs/reference/types.md says. The databases compare the values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase, replicas_of
from rowcast.consumer.replica.dialects import postgresql as postgresql_dialect
from rowcast.consumer.replica.dialects import postgresql_copy
from servers import Broker, DatabaseServer
from support.fidelity import types_mariadb, types_mysql, types_postgresql, types_sqlite
from support.fidelity.pipeline import Fidelity
from support.fidelity.type_case import Family

FAMILIES: dict[str, Callable[[], list[Family]]] = {
    "postgresql": types_postgresql.families,
    "mariadb": types_mariadb.families,
    "mysql": types_mysql.families,
    "sqlite": types_sqlite.families,
}


SETTINGS = {
    "postgresql": {
        "options": "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata -c intervalstyle=sql_standard -c bytea_output=escape"
    },
    "mariadb": {"init_command": "SET time_zone = '+05:30'"},
    # MySQL accepts zero dates only without the modes NO_ZERO_DATE and NO_ZERO_IN_DATE.
    "mysql": {"init_command": "SET time_zone = '+05:30', sql_mode = 'STRICT_ALL_TABLES'"},
}
"""Settings of the application's sessions. Captured values must not depend on them."""


def with_settings(url: str, engine: str) -> str:
    return sa.make_url(url).update_query_dict(SETTINGS.get(engine, {})).render_as_string(hide_password=False)


@pytest.mark.campaign
@pytest.mark.parametrize("primary", ENGINES)
def test_what_is_stored_arrives(
    primary: str,
    kafka: Broker,
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    mysql: DatabaseServer,
    new_database: NewDatabase,
    source_name: str,
    campaign: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Insert, change and delete rows of random values of every type.

    The default run has 60 fixed rows. The campaign has 10,000 for each replica. A replica on an equal engine holds
    identical values, and a replica on another engine holds the documented values. Verify finds no difference. In every
    second round, new rows reach PostgreSQL by COPY.
    """
    rounds, rows = (10, 1_000) if campaign else (2, 30)
    replicas = {engine: new_database(engine) for engine in replicas_of(primary, campaign=campaign)}
    families = FAMILIES[primary]()
    url = with_settings(new_database(primary), primary)
    with Fidelity(source_name, kafka.bootstrap_servers, url, replicas, families) as fidelity:
        for number in range(rounds):
            for module in (postgresql_dialect, postgresql_copy):
                monkeypatch.setattr(module, "COPIED_ROWS", 1 if number % 2 else 1_000_000)
            fidelity.round(rows, 1_000 * number)
            found = {name: fidelity.differences(name) for name in replicas}
            assert not any(found.values()), "\n".join(f"to {n}: {d}" for n, ds in found.items() for d in ds)
        assert {name: fidelity.verified(name) for name in replicas} == {name: [] for name in replicas}
