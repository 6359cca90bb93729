"""Inject the faults of a plan."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions

from chaos import bank
from chaos.cluster import Cluster
from chaos.databases import Wait
from chaos.plan import Fault
from servers import Server, ServerError
from support.kafka_admin import finish

_IN_SYNC_S = 60.0
_STARTS = 5
_JUMPS_S = (-86_400, -3_600, -30, 30, 3_600, 86_400)

Injection = Callable[[Cluster, Fault, Wait], None]


class NotInjectedError(Exception):
    """Report that the fault met nothing that it could harm."""


def inject(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    """Begin the fault, wait for its time, and end it. Raises NotInjectedError."""
    try:
        _INJECTIONS[fault.kind](cluster, fault, wait)
    except KafkaException as error:
        raise NotInjectedError(f"Kafka: {error.args[0].str()}") from error
    except sa.exc.DBAPIError as error:
        # Another fault has the server. Settings of this fault end with the server.
        raise NotInjectedError(f"{fault.target}: {error.orig}") from error


def start_again(server: Server) -> None:
    """Start a server, and try again if it ends, as a supervisor of servers does."""
    for _ in range(_STARTS):
        try:
            server.ensure_running()
        except ServerError as error:
            print(f"{server.name} did not start: {str(error).splitlines()[0]}", flush=True)
            time.sleep(2)
        else:
            return
    raise ServerError(f"{server.name} does not start, see the lines above")


def _kill_process(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.services[fault.target].kill()


def _suspend_process(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    service = cluster.services[fault.target]
    service.suspend()
    wait(fault.seconds)
    service.resume()


def _kill_server(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    server = cluster.server(fault.target)
    server.kill()
    wait(fault.seconds)
    start_again(server)


def _suspend_server(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    server = cluster.server(fault.target)
    server.pause()
    wait(fault.seconds)
    server.resume()


def _restart_server(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    server = cluster.server(fault.target)
    server.stop()
    wait(fault.seconds)
    start_again(server)


def _restart_brokers(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    """Restart each broker when all copies are in sync, as an operator does for an upgrade."""
    for broker in cluster.brokers:
        _wait_until_in_sync(cluster)
        broker.stop()
        start_again(broker)


def _suspend_coordinator(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    """Suspend the broker that coordinates the transactions of a relay."""
    partitions = (
        admin_of(cluster).list_topics("__transaction_state", timeout=20).topics["__transaction_state"].partitions
    )
    if not partitions:
        raise NotInjectedError("no transaction has begun")
    leader = partitions[_java_hash(f"rowcast.{bank.SOURCE}-0") % len(partitions)].leader
    if not 1 <= leader <= len(cluster.brokers):
        raise NotInjectedError("the coordinator is away already")
    broker = cluster.brokers[leader - 1]
    broker.pause()
    wait(fault.seconds)
    broker.resume()


def _silence(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.doors[fault.target].silence()


def _no_network(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    door = cluster.doors[fault.target]
    door.silence_all()
    wait(fault.seconds)
    door.carry_again()


def _cut(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.doors[fault.target].cut()


def _disk_full(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    disk = cluster.disk(fault.target)
    disk.fill()
    wait(fault.seconds)
    disk.free()
    if fault.target in cluster.servers:
        # Some servers end themselves without space for their log.
        start_again(cluster.server(fault.target))


def _read_only(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.databases[fault.target].read_only(fault.seconds, wait)


def _lock_table(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.databases[fault.target].lock_table(fault.seconds, wait)


def _shift_process(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.services[fault.target].shift_clock(_jump(fault))


def _shift_primary(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    cluster.shift_primary_clock(_jump(fault))


def _add_partition(cluster: Cluster, fault: Fault, wait: Wait) -> None:
    topic = f"{bank.SOURCE}.public.{fault.target}"
    admin = admin_of(cluster)
    partitions = admin.list_topics(topic, timeout=20).topics[topic].partitions
    if not partitions:
        raise NotInjectedError("the topic does not exist")
    finish(admin.create_partitions([NewPartitions(topic, len(partitions) + 1)]))


_INJECTIONS: dict[str, Injection] = {
    "kill a process": _kill_process,
    "suspend a process": _suspend_process,
    "kill a server": _kill_server,
    "suspend a server": _suspend_server,
    "restart a server in good order": _restart_server,
    "restart the brokers one by one": _restart_brokers,
    "suspend the coordinator": _suspend_coordinator,
    "half-open connections": _silence,
    "no network": _no_network,
    "broken connections": _cut,
    "disk full": _disk_full,
    "read-only database": _read_only,
    "locked table": _lock_table,
    "clock of a process jumps": _shift_process,
    "clock of the primary jumps": _shift_primary,
    "partitions added": _add_partition,
}


def _jump(fault: Fault) -> int:
    """Choose by how much a clock is wrong, from the fault alone."""
    return _JUMPS_S[int(fault.dice * len(_JUMPS_S))]


def admin_of(cluster: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})


def _wait_until_in_sync(cluster: Cluster) -> None:
    deadline = time.monotonic() + _IN_SYNC_S
    admin = admin_of(cluster)
    while time.monotonic() < deadline:
        topics = admin.list_topics(timeout=20).topics.values()
        if all(len(p.isrs) == len(p.replicas) for topic in topics for p in topic.partitions.values()):
            return
        time.sleep(0.5)


def _java_hash(text: str) -> int:
    """Hash a text as Java does, without the sign, because Kafka chooses the partition of a coordinator so."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF
