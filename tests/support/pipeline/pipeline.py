"""Run a whole pipeline as users run it, with relay and workers as processes on a ``rowcast.toml``."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy import exc

from servers.guard import Guard
from support.command_line import environment, rowcast
from support.forked_python import ForkedPython
from support.project import TESTS as _TESTS

_LOOK_S = 0.05
_STOP_S = 30.0

UNREACHABLE = 3
"""The exit code of a command that cannot begin because a server does not answer."""

_BACKLOG = sa.text("SELECT count(*) FROM rowcast_outbox")
_NEXT_LSN = sa.text("SELECT next_lsn FROM rowcast_lease WHERE source = :source")
_APPLIED = sa.text(
    "SELECT state, (SELECT coalesce(max(lsn), 0) FROM rowcast_position p WHERE p.source = r.source) AS lsn "
    "FROM rowcast_replica r WHERE r.source = :source"
)


class NotInTimeError(AssertionError):
    """Report that a condition did not become true in time."""


def wait_for(what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until ``holds`` returns true. Raises NotInTimeError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise NotInTimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_LOOK_S)


class Command:
    """Run ``rowcast <command>`` or any Python program in a new process. The output goes to ``log``."""

    def __init__(self, arguments: list[str], log: Path, guard: Guard) -> None:
        self.name = log.stem
        self.log = log
        self._process = ForkedPython(
            arguments, log, guard, cwd=log.parent, environment=environment(PYTHONPATH=str(_TESTS))
        )

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._process.kill()

    def stop(self) -> int:
        """Send SIGTERM, let the process finish its batch, and return the exit code."""
        try:
            return self._process.end(_STOP_S)
        except TimeoutError as error:
            raise NotInTimeError(f"{self.name}: {error}\n{self.last_lines()}") from None

    def pause(self) -> None:
        """Send SIGSTOP. The process stands still and does not know of the pause."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def last_lines(self) -> str:
        """Return the last 25 lines of the output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def has_logged(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def must_be_running(self) -> None:
        assert self.exit_code is None, f"{self.name} ended by itself with {self.exit_code}:\n{self.last_lines()}"

    def reap(self) -> None:
        """Wait for a process that the guard has ended."""
        self._process.wait(10)


class Pipeline:
    """Run a source with its replicas. Leaving the block stops every process of the pipeline.

    ``client``: further properties of the Kafka client.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        kafka: str,
        primary: str,
        replicas: Mapping[str, str],
        relay: Mapping[str, int] | None = None,
        topics: Mapping[str, int] | None = None,
        client: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.source = source
        self.kafka = kafka
        self.config = folder / "rowcast.toml"
        self.primary = engine(primary)
        self.replicas = {name: engine(url) for name, url in replicas.items()}
        self._guard = Guard()
        self._commands: list[Command] = []
        self._started = 0
        self.config.write_text(_toml(source, kafka, primary, replicas, relay or {}, topics or {}, client or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        codes: dict[str, int] = {}
        try:
            if kind is None:
                codes = {command.name: command.stop() for command in self._commands}
            else:
                # pytest shows these lines once. It would repeat notes of the error in the summary.
                for command in self._commands:
                    print(f"--- {command.log} ({command.exit_code})\n{command.last_lines()}", file=sys.stderr)
        finally:
            self._guard.close()
            for command in self._commands:
                command.reap()
            for database in (self.primary, *self.replicas.values()):
                database.dispose()
        assert not any(codes.values()), f"exit codes: {codes}"

    def start(self, *arguments: str) -> Command:
        """Start ``rowcast ARGUMENTS`` on the configuration of this pipeline."""
        return self.run_python("-m", "rowcast.shared.cli", *arguments, f"--config={self.config}")

    def run_python(self, *arguments: str) -> Command:
        """Start a Python program beside relay and workers."""
        self._started += 1
        name = "-".join(Path(a).stem for a in arguments if a[0] != "-" and a != "rowcast.shared.cli")
        log = self.folder / f"{self._started:03}-{name[:40]}.log"
        command = Command(list(arguments), log, self._guard)
        self._commands.append(command)
        return command

    def kill(self, command: Command) -> None:
        """Send SIGKILL to a running command. The command can neither finish its work nor close connections."""
        command.must_be_running()
        self._commands.remove(command)
        command.kill()

    def stop(self, command: Command) -> None:
        """Send SIGTERM to a running command and check that the command ends with exit code 0."""
        command.must_be_running()
        self._commands.remove(command)
        assert command.stop() == 0, f"{command.name}: {command.exit_code}\n{command.last_lines()}"

    def ended_at_the_start(self, command: Command) -> bool:
        """Return whether the command could not reach a server at the start and ended with exit code 3.

        Then forget the command. After the start, a command waits for servers, and logs the wait.
        """
        if command.exit_code != UNREACHABLE or any(map(command.has_logged, (" rowcast.relay: ", " rowcast.worker: "))):
            return False
        self._commands.remove(command)
        command.reap()
        return True

    def must_be_running(self) -> None:
        """Check that no started process has ended by itself."""
        for command in self._commands:
            command.must_be_running()

    def wait_until_caught_up(self, seconds: float = 120.0) -> None:
        """Wait until every replica is consistent and has at least the rows of the primary at the time of the call."""

        def nothing_left() -> bool:
            self.must_be_running()
            return all(self.is_caught_up(name) for name in self.replicas)

        wait_for(f"the replicas {', '.join(self.replicas)} have caught up", nothing_left, seconds)

    def is_caught_up(self, replica: str) -> bool:
        """Return whether the outbox is empty, and the consistent replica has applied the last published event."""
        if self.backlog():
            return False
        with self.primary.connect() as connection:
            published = connection.scalar(_NEXT_LSN, {"source": self.source})
        lsn, state = self.applied(replica)
        return published is not None and state == "consistent" and lsn + 1 >= published

    def backlog(self) -> int:
        """Return the number of rows in the outbox."""
        with self.primary.connect() as connection:
            return int(connection.scalar(_BACKLOG) or 0)

    def applied(self, replica: str) -> tuple[int, str | None]:
        """Return the lsn reached by the replica, and the state of the replica.

        Return (0, None) before the replica has a state.
        """
        try:
            with self.replicas[replica].connect() as connection:
                row = connection.execute(_APPLIED, {"source": self.source}).one_or_none()
        except exc.DBAPIError:
            # The worker has not created the tables yet.
            return 0, None
        return (row.lsn, row.state) if row is not None else (0, None)

    def verify(self, replica: str) -> None:
        """Check that ``rowcast verify`` finds no difference."""
        done = rowcast("verify", replica, f"--config={self.config}", cwd=self.folder)
        assert done.returncode == 0, f"rowcast verify {replica}: {done.returncode}\n{done.stdout}\n{done.stderr}"


def engine(url: str) -> sa.Engine:
    """Create an engine for the many looks at a database. The pipeline disposes of it at its end."""
    made = sa.create_engine(url)
    if made.dialect.name == "sqlite":

        @sa.event.listens_for(made, "connect")
        def patient(connection: object, _record: object) -> None:
            connection.execute("PRAGMA busy_timeout=30000")  # type: ignore[attr-defined]
            connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]

    return made


def _toml(
    source: str,
    kafka: str,
    primary: str,
    replicas: Mapping[str, str],
    relay: Mapping[str, int],
    topics: Mapping[str, int],
    client: Mapping[str, int],
) -> str:
    """Write the configuration. A JSON string is also a TOML string."""
    lines = [f"source = {json.dumps(source)}", "[kafka]", f'"bootstrap.servers" = {json.dumps(kafka)}']
    lines += [f"{json.dumps(key)} = {value}" for key, value in client.items()]
    lines += ["[primary]", f"url = {json.dumps(primary)}"]
    for name, url in replicas.items():
        lines += [f"[replicas.{name}]", f"url = {json.dumps(url)}"]
    lines += ["[relay]", *(f"{key} = {value}" for key, value in relay.items())]
    lines += ["[topics]", *(f"{key} = {value}" for key, value in topics.items())]
    return "\n".join(lines) + "\n"
