"""Run a server as a container of its image in docker-compose.yml."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from functools import cache

from .guard import Guard
from .paths import REPOSITORY


@cache
def docker_answers() -> bool:
    """Return whether a Docker engine answers. With TEST_SERVERS=local, return False."""
    if os.environ.get("TEST_SERVERS") == "local" or not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def compose_image(service: str) -> str:
    """Return the image of a service of docker-compose.yml, because only one file names the versions."""
    import yaml

    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    image: str = compose["services"][service]["image"]
    return image


def pull(image: str) -> None:
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
        subprocess.run(["docker", "pull", "--quiet", image], stdout=subprocess.DEVNULL, check=True)


class Container:
    """Run a container, and start it again with the same data and port after a stop or a kill."""

    def __init__(
        self,
        image: str,
        *,
        ports: Mapping[int, int],
        guard: Guard,
        environment: Mapping[str, str],
        arguments: Sequence[str] = (),
        network: str | None = None,
    ) -> None:
        self.name = f"rowcast-test-{uuid.uuid4().hex[:12]}"
        self._guard = guard
        self._created = False
        self._create = ["create", "--name", self.name, "--label", "rowcast.test=1"]
        if network is not None:
            self._create += ["--network", network]
        for here, inside in ports.items():
            self._create += ["--publish", f"127.0.0.1:{here}:{inside}"]
        for name, value in environment.items():
            self._create += ["--env", f"{name}={value}"]
        self._create += [image, *arguments]

    def start(self) -> None:
        with self._guard.starting():
            if not self._created:
                self._guard.watch_container(self.name)
                _docker(*self._create)
                self._created = True
            _docker("start", self.name)

    def stop(self) -> None:
        _docker("stop", "--time", "60", self.name)

    def kill(self) -> None:
        """End the container like a crash."""
        _docker("kill", self.name)

    def pause(self) -> None:
        _docker("pause", self.name)

    def resume(self) -> None:
        if self._state("Paused"):
            _docker("unpause", self.name)

    def is_running(self) -> bool:
        return self._state("Running")

    def output(self) -> str:
        return _docker("logs", "--tail", "40", self.name)

    def reap(self) -> None:
        """Do nothing, because the guard has removed the container."""

    def _state(self, name: str) -> bool:
        return _docker("inspect", "--format", f"{{{{.State.{name}}}}}", self.name).strip() == "true"


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]}: {done.stdout.strip()}")
    return done.stdout
