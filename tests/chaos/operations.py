"""Faults that need an operator, who acts as the documentation says after rowcast has asked for it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import sqlalchemy as sa

from chaos import bank
from chaos.cluster import Cluster
from chaos.faults import admin_of
from chaos.observer import state_of
from chaos.plan import Fault
from support.pipeline.pipeline import Command, NotInTimeError, wait_for

_SAID_S = 120.0
"""rowcast must have asked for the operator within this time."""
_COMMAND_S = 120.0
_NEW_TIMELINE = re.compile(r"rowcast relay --new-timeline (\d+)")
_NEXT_LSN = sa.text("SELECT published_lsn FROM rowcast_lease WHERE source = :source")


class Operator:
    """Act on a cluster as an operator does."""

    def __init__(self, cluster: Cluster, progress: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._progress = progress
        self._commands = 0

    def run(self, operation: Fault) -> None:
        """Cause the operation's fault, and take the documented steps. Raises NotInTimeError if rowcast is silent."""
        {
            "failover to a current copy": self._fail_over_current,
            "failover to a lagging copy": self._fail_over_lagging,
            "topic created again": self._recreate_topic,
        }[operation.kind](operation)

    def _fail_over_current(self, _operation: Fault) -> None:
        """Stop the primary in good order, so that its standby has everything. rowcast needs nobody."""
        self._cluster.primary.stop()
        self._cluster.fail_over()
        self._cluster.add_standby()

    def _fail_over_lagging(self, operation: Fault) -> None:
        """Lose transactions that the relay has published: the source needs a new timeline, the replicas new rows."""
        cluster = self._cluster
        assert cluster.standby is not None
        logs = {relay.name: len(relay.text()) for relay in cluster.services.named("relay")}
        cluster.standby.stop_following()
        before = self._published()
        deadline = time.monotonic() + operation.seconds
        wait_for(
            "the relay has published what the copy lacks",
            lambda: self._published() > before and time.monotonic() > deadline,
            _SAID_S,
        )
        cluster.primary.kill()
        cluster.fail_over()
        number = self._asked_timeline(logs)
        self._progress(f"the relay asks for timeline {number}")
        self._rowcast("relay", "--new-timeline", str(number), "--once")
        for engine in cluster.layout.replicas:
            self._wait_for_state(engine, "suspect", "")
        self._must_report("suspect", cluster.layout.replicas)
        for engine in cluster.layout.replicas:
            self._rebuild(engine)
        cluster.add_standby()

    def _recreate_topic(self, operation: Fault) -> None:
        """Delete a topic, which the relay creates again. Every worker must refuse the new topic."""
        name = operation.target
        topic = f"{bank.SOURCE}.{name}" if name == "transaction" else f"{bank.SOURCE}.public.{name}"
        # The answer is lost with the client, so the client must outlive the wait.
        admin = admin_of(self._cluster)
        admin.delete_topics([topic], operation_timeout=30)[topic].result(60)
        for engine in self._cluster.layout.replicas:
            self._wait_for_state(engine, None, "ebuild the replica")
        self._must_report("stopped", self._cluster.layout.replicas)
        for engine in self._cluster.layout.replicas:
            self._rebuild(engine, "--snapshot")

    # -- what an operator sees

    def _published(self) -> int:
        with self._cluster.databases["primary"].snapshot() as connection:
            return int(connection.scalar(_NEXT_LSN, {"source": bank.SOURCE}) or 0)

    def _asked_timeline(self, logs: dict[str, int]) -> int:
        """Return the number of the timeline that a relay has asked for since its log had this length."""
        found: list[str] = []

        def asked() -> bool:
            for name, length in logs.items():
                found.extend(_NEW_TIMELINE.findall(self._cluster.services[name].text()[length:]))
            return bool(found)

        wait_for("a relay says that the primary has lost transactions", asked, _SAID_S)
        return int(found[-1])

    def _wait_for_state(self, engine: str, state: str | None, reason: str) -> None:
        """Wait until the replica says so. ``state``: None for any. ``reason``: a part of the text."""
        last = ""

        def said() -> bool:
            nonlocal last
            try:
                with self._cluster.databases[f"replica-{engine}"].snapshot() as connection:
                    found = state_of(connection)
            except sa.exc.DBAPIError as error:
                last = str(error.orig)
                return False
            last = f"{found.state}: {found.reason}"
            return (state is None or found.state == state) and reason in (found.reason or "")

        try:
            wait_for(f"the replica {engine} is {state or 'stopped'}", said, _SAID_S)
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}, but {last}") from None
        self._progress(f"{engine} says {last[:120]}")

    def _must_report(self, state: str, engines: tuple[str, ...]) -> None:
        """Check that ``rowcast status`` shows the state of each replica."""
        status = json.loads(self._rowcast("status", "--json", may_fail=True))
        shown = {engine: status["replicas"][engine].get("state") for engine in engines}
        if set(shown.values()) != {state}:
            raise NotInTimeError(f"`rowcast status` shows {shown} in place of {state}")

    # -- what an operator does

    def _rebuild(self, engine: str, *options: str) -> None:
        """Rebuild a replica, and start its workers again. The rows of a new timeline may still be on their way."""
        deadline = time.monotonic() + _COMMAND_S
        while True:
            try:
                self._rowcast("rebuild", engine, "--no-verify", *options)
                break
            except NotInTimeError:
                if time.monotonic() > deadline:
                    raise
        for worker in self._cluster.services.named(f"worker-{engine}-"):
            worker.stop()
            worker.start()

    def _rowcast(self, *arguments: str, may_fail: bool = False) -> str:
        """Run a command and return its output. Raises NotInTimeError if it fails or does not end."""
        self._commands += 1
        log = self._cluster.folder / "logs" / f"operator-{self._commands:03}-{arguments[0]}.log"
        command = Command(
            ["-m", "rowcast.shared.cli", *arguments, f"--config={self._cluster.config}"], log, self._cluster.guard
        )
        wait_for(f"rowcast {arguments[0]} ends", lambda: command.exit_code is not None, _COMMAND_S)
        if command.exit_code and not may_fail:
            raise NotInTimeError(f"rowcast {' '.join(arguments)}: {command.exit_code}\n{command.last_lines()}")
        return log.read_text()
