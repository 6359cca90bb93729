"""The course of the demo: the shop trades, and a worker, some rows and a whole replica are lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import orjson
from sqlalchemy.engine import Engine

from rowcast.producer.demo.bank_watch import BankWatch
from rowcast.producer.demo.open_shop import OpenShop
from rowcast.producer.demo.processes import Processes, RealProcess
from rowcast.producer.demo.replica_state import CHANGES_BY_HAND, ReplicaState, change_by_hand, throw_away
from rowcast.producer.demo.tally import Tally
from rowcast.producer.demo.workspace import REPLICA_NAME
from rowcast.shared.errors import RowcastError

_WAIT_S = 60.0
_POLL_S = 0.05


class StoppedError(Exception):
    """Stop the demo after a signal."""


class Course:
    """Let the shop trade, and do the accidents one after the other. All other parts run as separate processes.

    Each step raises RowcastError if a process ends by itself, or if the step waits for more than a minute.
    """

    def __init__(
        self, tally: Tally, processes: Processes, shop: OpenShop, bank: BankWatch, state: ReplicaState, replica: Engine,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self._tally = tally
        self._processes = processes
        self._shop = shop
        self._bank = bank
        self._state = state
        self._replica = replica
        self._stop = stop
        self._relay = processes.start("relay", "relay")
        self._workers = [processes.start(f"worker-{n}", "worker", REPLICA_NAME) for n in (1, 2)]
        self._lasting = [self._relay, *self._workers]

    def kill_the_worker(self) -> None:
        """Kill the active worker with SIGKILL in the middle of the traffic, and wait until the standby works."""
        tally = self._tally
        tally.phase = "the shop is open"
        self._wait(self._state.has_accounts, "the replica is not consistent")
        self._bank.begin()
        self._wait(lambda: len(self._ready()) == 2, "the second worker does not start")
        self._wait(lambda: tally.traded_s > tally.planned_s / 2, "the shop does not trade")
        victim = self._active()
        assert victim is not None
        tally.phase = "kill -9 of the active worker"
        self._kill(victim)
        killed = time.monotonic()
        self._wait(lambda: self._active() is not None, "no other worker has taken over")
        took_s = time.monotonic() - killed
        tally.promises.killed.settle(f"by kill -9, the standby took over in {took_s:.1f} s", kept=True)
        tally.phase = "the shop is open"
        self._wait(lambda: tally.traded_s > tally.planned_s, "the shop does not trade")

    def change_rows_by_hand(self, visitor: int) -> None:
        """Change rows of the replica behind the worker's back. Let verify find and repair them."""
        tally = self._tally
        tally.phase = "rows are changed by hand, verify looks for them"
        change_by_hand(self._replica, visitor)
        found = orjson.loads(self._run("verify", "verify", REPLICA_NAME, "--json").output)
        counts = {kind: sum(table[kind] for table in found["tables"]) for kind in CHANGES_BY_HAND}
        tally.phase = "verify --repair sends the rows again"
        repair = self._run("repair", "verify", REPLICA_NAME, "--repair", "--json")
        sent = repair.figures()
        tally.repaired = sent.get("rows", 0) + sent.get("deletes", 0)
        tally.promises.repaired.settle(
            f"by hand, verify found {sum(counts.values())} of {sum(CHANGES_BY_HAND.values())}, "
            f"--repair sent {tally.repaired}",
            kept=counts == CHANGES_BY_HAND and repair.exit_code == 0 and orjson.loads(repair.output)["equal"],
        )

    def lose_the_replica(self) -> None:
        """Kill the worker, delete the replica, and rebuild it from the topics alone. The shop trades on."""
        tally = self._tally
        tally.phase = "the replica is deleted"
        self._bank.pause()
        for worker in list(self._workers):
            self._kill(worker)
        throw_away(self._replica)
        tally.phase = "rowcast rebuild"
        began = time.monotonic()
        rebuild = self._run("rebuild", "rebuild", REPLICA_NAME)
        took_s = time.monotonic() - began
        self._bank.begin()
        result = rebuild.output.strip() or "it failed"
        tally.promises.rebuilt.settle(f"{result}, {took_s:.1f} s", kept=rebuild.exit_code == 0)
        tally.phase = "a worker goes on"
        self._workers.append(self._processes.start("worker-3", "worker", REPLICA_NAME))
        self._lasting.append(self._workers[-1])
        self._wait(lambda: self._active() is not None, "no worker goes on with the rebuilt replica")

    def close_the_shop(self) -> None:
        """Wait until the replica has all rows of the primary."""
        self._tally.phase = "the shop is closed, the replica catches up"
        self._shop.close()
        self._wait(self._state.has_caught_up, "the replica has not caught up")

    def compare(self) -> str:
        """Compare both databases. Return the output of ``rowcast verify``. Relay and worker finish meanwhile."""
        tally = self._tally
        tally.phase = "rowcast verify"
        result = self._run("verify", "verify", REPLICA_NAME)
        lines = result.output.splitlines()
        tally.promises.equal.settle(lines[-1] if lines else "it failed", kept=result.exit_code == 0)
        tally.phase = "relay and worker finish"
        for process in self._lasting:
            process.ask_to_stop()
        stopping, self._lasting = self._lasting, []
        self._wait(lambda: all(process.exit_code is not None for process in stopping), "relay and worker do not stop")
        for process in stopping:
            process.require_exit_code(0)
        self._bank.settle()
        return result.output

    def _run(self, name: str, *arguments: str) -> RealProcess:
        """Run a command to its end. Raise RowcastError unless it answers yes or no (exit code 0 or 1)."""
        process = self._processes.start(name, *arguments)
        self._wait(lambda: process.exit_code is not None, f"`rowcast {arguments[0]}` does not end")
        process.require_exit_code(0, 1)
        return process

    def _kill(self, worker: RealProcess) -> None:
        worker.kill()
        self._workers.remove(worker)
        self._lasting.remove(worker)

    def _ready(self) -> list[RealProcess]:
        """Return the workers at work or standing by."""
        return [worker for worker in self._workers if "active" in worker.figures()]

    def _active(self) -> RealProcess | None:
        return next((worker for worker in self._workers if worker.figures().get("active")), None)

    def _read_progress(self) -> None:
        tally = self._tally
        tally.published = self._relay.figures().get("events", 0)
        tally.lag = self._state.lag() or 0
        active = self._active()
        tally.behind_ms = active.figures().get("behind_ms", 0) if active is not None else 0

    def _wait(self, done: Callable[[], bool], failure: str) -> None:
        given_up = time.monotonic() + _WAIT_S
        while not done():
            if self._stop.is_set():
                raise StoppedError
            self._shop.require_open()
            for process in self._lasting:
                process.require_alive()
            self._read_progress()
            if time.monotonic() > given_up:
                raise RowcastError(f"{failure} after {_WAIT_S:.0f} s. See {self._relay.log.parent}/*.log.")
            time.sleep(_POLL_S)
