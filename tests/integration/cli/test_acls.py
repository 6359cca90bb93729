"""Relay, worker, status, verify and check work with the ACLs of docs/how-to/tls-sasl.md and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from rowcast.producer import Capture
from servers.broker import Broker
from servers.guard import Guard
from support.command_line import rowcast
from support.kafka_admin import finish

May = AclOperation
TOPIC, GROUP, ID = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    guard = Guard()
    (tmp_path / "broker").mkdir()
    broker = Broker.with_logins(tmp_path / "broker", guard, {"relay": "r", "worker": "w", "status": "s"})
    try:
        broker.start()
        yield broker
    finally:
        guard.close()


def grant(broker: Broker, user: str, kind: ResourceType, names: list[str], *operations: AclOperation) -> None:
    literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    acls = [AclBinding(kind, name, literal, f"User:{user}", "*", o, allow) for name in names for o in operations]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    finish(admin.create_acls(acls))


@pytest.mark.only_in_campaigns
def test_the_acls_of_the_docs_suffice(broker: Broker, new_database: Callable[[str], str], tmp_path: Path) -> None:
    tables, own = ["shop.main.item"], ["shop.transaction", "shop.schema"]
    grant(broker, "relay", ID, ["rowcast.shop-0", "rowcast.shop-1"], May.WRITE, May.DESCRIBE)
    topics = [*tables, *own, "__rowcast.shop", "__debezium-heartbeat.shop"]
    grant(broker, "relay", TOPIC, topics, May.WRITE, May.DESCRIBE, May.DESCRIBE_CONFIGS, May.CREATE)
    grant(broker, "relay", TOPIC, ["__rowcast.shop"], May.READ)
    grant(broker, "relay", GROUP, ["rowcast.shop"], May.READ)
    grant(broker, "worker", TOPIC, [*tables, *own], May.READ, May.DESCRIBE)
    grant(broker, "worker", TOPIC, tables, May.DESCRIBE_CONFIGS)
    grant(broker, "worker", GROUP, ["rowcast.shop.copy", "rowcast"], May.READ)
    grant(broker, "status", TOPIC, [*tables, *own], May.READ, May.DESCRIBE, May.DESCRIBE_CONFIGS)
    grant(broker, "status", GROUP, ["rowcast"], May.READ, May.DESCRIBE)
    grant(broker, "status", GROUP, ["rowcast.shop.copy"], May.DESCRIBE)
    primary, replica = new_database("sqlite"), new_database("sqlite")

    def run(user: str, *arguments: str) -> str:
        lines = ['source = "shop"', "[kafka]", f'"bootstrap.servers" = "{broker.host}:{broker.login_port}"']
        lines += ['"security.protocol" = "SASL_PLAINTEXT"', '"sasl.mechanism" = "PLAIN"']
        lines += [f'"sasl.username" = "{user}"', f'"sasl.password" = "{user[0]}"']
        lines += ["[primary]", f'url = "{primary}"', "[replicas.copy]", f'url = "{replica}"']
        lines += ["[relay]", "heartbeat_ms = 100"]
        (tmp_path / "rowcast.toml").write_text("\n".join(lines))
        done = rowcast(*arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{user}: {arguments}\n{done.stdout}{done.stderr}"
        return done.stdout

    engine = sa.create_engine(primary)
    capture = Capture(Base.metadata, source="shop")
    capture.install(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Item(id=1))
    engine.dispose()
    run("relay", "relay", "--once")
    run("worker", "worker", "copy", "--once")
    run("status", "verify", "copy")
    run("status", "check")
    status = json.loads(run("status", "status", "--json"))["replicas"]["copy"]
    assert (status["state"], status["records"], status["workers"]) == ("consistent", 0, 0)
