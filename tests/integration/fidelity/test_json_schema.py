"""Messages with schemas carry the values of plain messages, also to the worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase, replicas_of
from rowcast.shared.errors import DataError
from servers import Broker, DatabaseServer
from support.fidelity.pipeline import Fidelity
from support.fidelity.type_case import Family, Kind
from support.fidelity.types_generic import generic


def test_a_worker_takes_messages_with_schemas_and_without_from_the_same_topics(
    primary_url: str,
    request: pytest.FixtureRequest,
    kafka: Broker,
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    mysql: DatabaseServer,
    new_database: NewDatabase,
    source_name: str,
    campaign: bool,
) -> None:
    """Write, change and delete rows in both forms.

    Every replica has the rows that the plain form alone would give, and verify finds no difference. A new replica is
    built from both forms.
    """
    primary = request.node.callspec.params["primary_url"]
    replicas = {engine: new_database(engine) for engine in replicas_of(primary, campaign=campaign)}
    replicas["late"] = new_database("sqlite")
    with Fidelity(source_name, kafka.bootstrap_servers, primary_url, replicas, generic()) as fidelity:
        late = fidelity.replicas.pop("late")
        fidelity.round(20, 0, "json-schema")
        fidelity.round(20, 1_000, "json")
        fidelity.replicas["late"] = late
        fidelity.round(20, 2_000, "json-schema")
        found = {name: fidelity.differences(name) for name in replicas}
        assert not any(found.values()), "\n".join(f"to {n}: {d}" for n, ds in found.items() for d in ds)
        assert {name: fidelity.verified(name) for name in replicas} == {name: [] for name in replicas}


@pytest.fixture
def floats(kafka: Broker, source_name: str, new_database: NewDatabase) -> Iterator[Fidelity]:
    """Create a table of floating-point numbers on PostgreSQL, and a replica."""
    family = Family("floats", [Kind("x", sa.Double(), "double", None)])  # type: ignore[arg-type]
    urls = {"copy": new_database("postgresql")}
    with Fidelity(source_name, kafka.bootstrap_servers, new_database("postgresql"), urls, [family]) as fidelity:
        yield fidelity


def test_what_connect_cannot_carry_stops_the_relay_and_goes_on_in_the_plain_form(floats: Fidelity) -> None:
    with floats.primary.begin() as connection:
        connection.execute(sa.insert(floats.table("floats")), [{"id": 1, "x": 0.1}])
    with floats.primary.begin() as connection:
        connection.execute(sa.insert(floats.table("floats")), [{"id": 2, "x": float("nan")}])

    with pytest.raises(DataError, match=r'public\.floats, column x: .*floating-point number.*format = "json"'):
        floats.publish("json-schema")
    floats.publish("json")
    floats.apply()

    assert floats.differences("copy") == []
