"""Check docker-compose.yml as far as possible without a container engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rowcast.shared.config.settings import load
from servers.paths import REPOSITORY

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIGURATION = REPOSITORY / "examples/compose/rowcast.toml"


# These run once, and another service waits for their success.
ONCE = {
    needed
    for service in SERVICES.values()
    for needed, how in service.get("depends_on", {}).items()
    if how["condition"] == "service_completed_successfully"
}


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONCE))
def test_every_service_says_whether_it_is_healthy(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_open_to_other_machines(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_until_those_it_needs_are_healthy(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert needed in SERVICES
        assert how == {"condition": "service_completed_successfully" if needed in ONCE else "service_healthy"}


def test_each_service_has_a_database_user_of_its_own() -> None:
    users = {
        name: set(re.findall(r"//(\w+):", " ".join(map(str, service.get("environment", {}).values()))))
        for name, service in SERVICES.items()
        if service.get("image") == "rowcast"
    }
    assert users == {
        "tables": {"shop_owner"},
        "app": {"shop_app"},
        "relay": {"rowcast_relay"},
        "worker-reporting": {"rowcast_worker"},
        "worker-archive": {"rowcast_worker"},
    }
    # The file that all services share has the user that may only read.
    assert set(re.findall(r"//(\w+):", CONFIGURATION.read_text())) == {"rowcast_reader"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_mounted_file_exists(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        assert (REPOSITORY / volume.split(":")[0]).is_file()


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_names_its_version_or_is_built_here(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or re.fullmatch(r"[\w./-]+:\d[\w.]*", service["image"])


def test_each_replica_of_the_configuration_has_a_worker_and_each_url_names_a_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ROWCAST_CONFIG", raising=False)
    settings = load(CONFIGURATION)

    workers = [service["command"][2] for service in SERVICES.values() if service.get("command", [])[1:2] == ["worker"]]
    assert sorted(workers) == sorted(settings.replicas)
    hosts = [database.sqlalchemy_url.host for database in (settings.require_primary(), *settings.replicas.values())]
    brokers = str(settings.require_kafka()["bootstrap.servers"]).split(":")[0]
    assert {*hosts, brokers} <= SERVICES.keys()


def test_the_configuration_is_mounted_where_the_commands_look_for_it() -> None:
    relay = SERVICES["relay"]
    mounted = relay["environment"]["ROWCAST_CONFIG"]

    assert f"./{CONFIGURATION.relative_to(REPOSITORY)}:{mounted}:ro" in relay["volumes"]
