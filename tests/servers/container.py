"""A server as a container, of the image that docker-compose.yml names for it."""

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
    """Whether a Docker engine is there to use; TEST_SERVERS=local says not to."""
    if os.environ.get("TEST_SERVERS") == "local" or not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def compose_image(service: str) -> str:
    """The image of a service of docker-compose.yml, so that its version stands in one place."""
    import yaml

    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    image: str = compose["services"][service]["image"]
    return image


def pull(image: str) -> None:
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
        subprocess.run(["docker", "pull", "--quiet", image], stdout=subprocess.DEVNULL, check=True)


class Container:
    """Can be started again after it was stopped or killed; its data and its port stay."""

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
        """Ends it as a crash would."""
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
        """The guard has removed it."""

    def _state(self, name: str) -> bool:
        return _docker("inspect", "--format", f"{{{{.State.{name}}}}}", self.name).strip() == "true"


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]}: {done.stdout.strip()}")
    return done.stdout
