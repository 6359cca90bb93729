"""Start and end the test servers by hand: `cd tests && python -m servers up`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from types import FrameType
from typing import NoReturn

from .broker import archive_classes
from .container import docker_answers
from .guard import is_alive, wait_until_gone
from .install import install_available
from .paths import CACHE, TESTS
from .server import DatabaseServer, ServerError
from .session import SERVERS, Servers

_ONLY_IF_NAMED = ("mysql", "newest_postgresql", "connect")
_STATE = CACHE / "up.json"
_LOG = CACHE / "up.log"


@dataclass(frozen=True)
class _State:
    """Describe the running servers of `up`. A file keeps the state until `down`."""

    pid: int
    environment: dict[str, str]


def main() -> int:
    arguments = _parser().parse_args(_before_dashes())
    names: list[str] = getattr(arguments, "names", None) or [
        name for name in SERVERS if name not in _ONLY_IF_NAMED or arguments.command == "install"
    ]
    try:
        match arguments.command:
            case "install":
                for name, reason in install_available(*names).items():
                    print(f"{name} cannot be installed here, so tests skip it: {reason}", file=sys.stderr)
                if "kafka" in names and not docker_answers():
                    archive_classes()
            case "up":
                _up(names, arguments.durable)
            case "serve":
                _serve(names, arguments.durable)
            case "down":
                _down()
            case "env":
                _print_environment()
            case "run":
                return _run(names, arguments.durable, _after_dashes())
    except ServerError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, help_text in {
        "install": "install what the servers need and is missing",
        "up": "start them in the background and print where they are",
        "down": "end those that `up` started and remove their data",
        "env": "print where they are again, as environment variables",
        "run": "run the command after -- while they are up, with those environment variables",
        "serve": "start them and stay in the foreground (this is what `up` runs)",
    }.items():
        sub = commands.add_parser(command, help=help_text, description=help_text)
        if command not in ("down", "env"):
            sub.add_argument("names", nargs="*", type=_server_name, metavar="NAME", help=f"of {', '.join(SERVERS)}")
        if command in ("up", "run", "serve"):
            sub.add_argument("--durable", action="store_true", help="as in production: fsync on, full compiler")
    return parser


def _server_name(name: str) -> str:
    if name not in SERVERS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(SERVERS)}")
    return name


def _before_dashes() -> list[str]:
    arguments = sys.argv[1:]
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _after_dashes() -> list[str]:
    arguments = sys.argv[1:]
    return arguments[arguments.index("--") + 1 :] if "--" in arguments else []


def _environment(servers: Servers, names: list[str]) -> dict[str, str]:
    """Start the servers, create an empty database `rowcast` on each database server, and return the addresses as
    environment variables.
    """
    servers.start(*names)
    environment = {}
    if "kafka" in names:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = servers.kafka().bootstrap_servers
    for name in names:
        if isinstance(server := servers.get(name), DatabaseServer):
            environment[f"{name.upper()}_URL"] = server.create_database("rowcast")
    if "connect" in names:
        connect = servers.connect()
        environment["CONNECT_URL"] = f"http://{connect.host}:{connect.port}"
    return environment


def _up(names: list[str], durable: bool) -> None:
    if _state() is not None:
        raise ServerError("servers are up already: `down` ends them, `env` says where they are")
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "servers", "serve", *(["--durable"] if durable else []), *names]
    with _LOG.open("w") as log:
        child = subprocess.Popen(
            command, cwd=TESTS, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    while _state() is None:
        if child.poll() is not None:
            raise ServerError(_LOG.read_text())
        time.sleep(0.05)
    child.returncode = 0  # Do not wait for the child, because the servers outlive the current process.
    _print_environment()


def _serve(names: list[str], durable: bool) -> None:
    signal.signal(signal.SIGTERM, _leave)
    servers = Servers(durable=durable)
    try:
        servers.start(*names)
        servers.remove_at_end(_STATE)
        state = _State(os.getpid(), _environment(servers, names))
        unfinished = _STATE.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(state)))
        unfinished.rename(_STATE)
        signal.pause()
    finally:
        servers.close()


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _down() -> None:
    if state := _state():
        os.kill(state.pid, signal.SIGTERM)
        if not wait_until_gone(state.pid, 60):
            raise ServerError(f"process {state.pid} does not end")


def _print_environment() -> None:
    state = _state()
    if state is None:
        raise ServerError("no servers are up: `python -m servers up` starts them")
    for name, value in state.environment.items():
        print(f"export {name}={shlex.quote(value)}")


def _state() -> _State | None:
    if not _STATE.exists():
        return None
    state = _State(**json.loads(_STATE.read_text()))
    return state if is_alive(state.pid) else None


def _run(names: list[str], durable: bool, command: list[str]) -> int:
    if not command:
        raise ServerError("what is to run? `python -m servers run -- COMMAND`")
    signal.signal(signal.SIGTERM, _leave)
    servers = Servers(durable=durable)
    try:
        environment = _environment(servers, names)
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
    finally:
        servers.close()


if __name__ == "__main__":
    raise SystemExit(main())
