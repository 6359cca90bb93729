"""Messages with their schemas carry the same values, to the worker itself too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from fix_databases import ENGINES, NewDatabase
from integration.fidelity.kinds import Family, Kind
from integration.fidelity.kinds_generic import generic
from integration.fidelity.pipeline import Fidelity
from rowcast.shared.errors import DataError
from servers import Broker, DatabaseServer


def test_a_worker_takes_messages_with_schemas_and_without_from_the_same_topics(
    primary_url: str,
    kafka: Broker,
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    new_database: NewDatabase,
    source_name: str,
) -> None:
    """Rows are written, changed and deleted in one form and in the other; every replica has what it had by the plain
    form alone, and verify finds no difference. A new one is built from both."""
    replicas = {engine: new_database(engine) for engine in ENGINES} | {"late": new_database("sqlite")}
    with Fidelity(source_name, kafka.bootstrap_servers, primary_url, replicas, generic()) as fidelity:
        late = fidelity.replicas.pop("late")
        fidelity.round(40, 0, "json-schema")
        fidelity.round(40, 1_000, "json")
        fidelity.replicas["late"] = late
        fidelity.round(40, 2_000, "json-schema")
        found = {name: fidelity.differences(name) for name in replicas}
        assert not any(found.values()), "\n".join(f"to {n}: {d}" for n, ds in found.items() for d in ds)
        assert {name: fidelity.verified(name) for name in replicas} == {name: [] for name in replicas}


@pytest.fixture
def floats(kafka: Broker, source_name: str, new_database: NewDatabase) -> Iterator[Fidelity]:
    """A table of floating-point numbers on PostgreSQL, and its replica."""
    family = Family("floats", [Kind("x", sa.Double(), "double", None)])  # type: ignore[arg-type]
    urls = {"copy": new_database("postgresql")}
    with Fidelity(source_name, kafka.bootstrap_servers, new_database("postgresql"), urls, [family]) as fidelity:
        yield fidelity


def test_what_connect_cannot_carry_stops_the_relay_and_goes_on_in_the_plain_form(floats: Fidelity) -> None:
    with floats.primary.begin() as connection:
        connection.execute(sa.insert(floats.table("floats")), [{"id": 1, "x": 0.1}])
    with floats.primary.begin() as connection:
        connection.execute(sa.insert(floats.table("floats")), [{"id": 2, "x": float("nan")}])

    with pytest.raises(DataError, match=r'public\.floats, key \{"id":2\}, column x: .*NaN.*format = "json"'):
        floats.publish("json-schema")
    floats.publish("json")
    floats.apply()

    assert floats.differences("copy") == []
