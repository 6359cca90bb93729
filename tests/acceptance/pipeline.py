"""A whole pipeline as its users run it: relay and workers are processes of their own, on a ``rowcast.toml``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.pool import NullPool

from command_line import environment
from servers.guard import Guard

_TESTS = Path(__file__).parent.parent
_LOOK_S = 0.05
_STOP_S = 30.0

UNREACHABLE = 3
"""The exit code of a command that cannot begin."""

_BACKLOG = sa.text("SELECT count(*) FROM rowcast_outbox")
_NEXT_LSN = sa.text("SELECT next_lsn FROM rowcast_lease WHERE source = :source")
_APPLIED = sa.text(
    "SELECT state, (SELECT coalesce(max(lsn), 0) FROM rowcast_position p WHERE p.source = r.source) AS lsn "
    "FROM rowcast_replica r WHERE r.source = :source"
)


class NotInTimeError(AssertionError):
    """What a test waits for has not come about."""


def wait_for(what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Looks again and again until ``holds``. Raises NotInTimeError."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise NotInTimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_LOOK_S)


class Command:
    """``rowcast <command>``, or another Python program, at work in a process of its own. Its output goes to ``log``."""

    def __init__(self, arguments: list[str], log: Path, guard: Guard) -> None:
        self.name = log.stem
        self.log = log
        self._guard = guard
        with guard.starting(), log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=log.parent,
                env=environment(PYTHONPATH=str(_TESTS)),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            guard.watch_process(self._process.pid, signal.SIGKILL)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM: the batch in hand, and the exit code."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it stands still and does not know it."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def told(self) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def has_told(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def must_be_running(self) -> None:
        assert self.exit_code is None, f"{self.name} ended by itself with {self.exit_code}:\n{self.told()}"

    def reap(self) -> None:
        """Takes note of its end, which the guard has brought about."""
        self._process.wait(10)
        self._close_input()

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _end(self, with_signal: signal.Signals) -> int:
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise NotInTimeError(f"{self.name} did not end within {_STOP_S:.0f} s:\n{self.told()}") from None
        finally:
            self._guard.forget_process(self._process.pid)
            self._close_input()
        return self._process.returncode


class Pipeline:
    """One source with its replicas. Leaving the block ends whatever it started, in good order."""

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
        self.config.write_text(_toml(source, kafka, primary, replicas, relay or {}, topics or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        codes: dict[str, int] = {}
        try:
            if kind is None:
                codes = {command.name: command.stop() for command in self._commands}
            else:
                for command in self._commands:
                    error.add_note(f"--- {command.log} ({command.exit_code})\n{command.told()}")  # type: ignore[union-attr]
        finally:
            self._guard.close()
            for command in self._commands:
                command.reap()
            for database in (self.primary, *self.replicas.values()):
                database.dispose()
        assert not any(codes.values()), f"exit codes: {codes}"

    def start(self, *arguments: str) -> Command:
        """``rowcast ARGUMENTS`` on this pipeline's configuration."""
        return self.run_python("-m", "rowcast.shared.cli", *arguments, f"--config={self.config}")

    def run_python(self, *arguments: str) -> Command:
        """Another program beside them."""
        self._started += 1
        name = "-".join(Path(a).stem for a in arguments if a[0] != "-" and a != "rowcast.shared.cli")
        log = self.folder / f"{self._started:03}-{name[:40]}.log"
        command = Command(list(arguments), log, self._guard)
        self._commands.append(command)
        return command

    def kill(self, command: Command) -> None:
        """SIGKILL, at no fault of its own: nothing is finished, nothing is closed."""
        command.must_be_running()
        self._commands.remove(command)
        command.kill()

    def stop(self, command: Command) -> None:
        """SIGTERM; it ends in good order."""
        command.must_be_running()
        self._commands.remove(command)
        assert command.stop() == 0, f"{command.name}: {command.exit_code}\n{command.told()}"

    def ended_at_the_start(self, command: Command) -> bool:
        """Whether it found a server away as it began, and so ended with 3, as promised; then it is forgotten.

        Once it has begun to work it waits for its servers, and says so.
        """
        if command.exit_code != UNREACHABLE or any(map(command.has_told, (" rowcast.relay: ", " rowcast.worker: "))):
            return False
        self._commands.remove(command)
        command.reap()
        self._guard.forget_process(command.pid)
        return True

    def must_be_running(self) -> None:
        """Nothing that was started has ended by itself."""
        for command in self._commands:
            command.must_be_running()

    def wait_until_caught_up(self, seconds: float = 120.0) -> None:
        """Every replica is consistent and has what the primary had when this was called, or more."""

        def nothing_left() -> bool:
            self.must_be_running()
            return all(self.is_caught_up(name) for name in self.replicas)

        wait_for(f"the replicas {', '.join(self.replicas)} have caught up", nothing_left, seconds)

    def is_caught_up(self, replica: str) -> bool:
        """Nothing is left in the outbox, and what was published last is what was applied last."""
        if self.backlog():
            return False
        with self.primary.connect() as connection:
            published = connection.scalar(_NEXT_LSN, {"source": self.source})
        lsn, state = self.applied(replica)
        return published is not None and state == "consistent" and lsn + 1 >= published

    def backlog(self) -> int:
        """Rows of the outbox."""
        with self.primary.connect() as connection:
            return int(connection.scalar(_BACKLOG) or 0)

    def applied(self, replica: str) -> tuple[int, str | None]:
        """The lsn that the replica has reached, and its state; 0 and None before it has any."""
        try:
            with self.replicas[replica].connect() as connection:
                row = connection.execute(_APPLIED, {"source": self.source}).one_or_none()
        except exc.DBAPIError:
            # The worker has not made its tables yet.
            return 0, None
        return (row.lsn, row.state) if row is not None else (0, None)

    def verify(self, replica: str) -> None:
        """``rowcast verify`` says that they are equal."""
        done = subprocess.run(
            [sys.executable, "-m", "rowcast.shared.cli", "verify", replica, f"--config={self.config}"],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"rowcast verify {replica}: {done.returncode}\n{done.stdout}\n{done.stderr}"


def engine(url: str) -> sa.Engine:
    """Each use connects anew, so that nothing keeps a database from being dropped."""
    made = sa.create_engine(url, poolclass=NullPool)
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
) -> str:
    """A JSON string is a TOML string."""
    lines = [f"source = {json.dumps(source)}", "[kafka]", f'"bootstrap.servers" = {json.dumps(kafka)}']
    lines += ["[primary]", f"url = {json.dumps(primary)}"]
    for name, url in replicas.items():
        lines += [f"[replicas.{name}]", f"url = {json.dumps(url)}"]
    lines += ["[relay]", *(f"{key} = {value}" for key, value in relay.items())]
    lines += ["[topics]", *(f"{key} = {value}" for key, value in topics.items())]
    return "\n".join(lines) + "\n"
