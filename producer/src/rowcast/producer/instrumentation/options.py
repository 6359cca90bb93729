"""Carry the options of ``rowcast instrument`` to the program and its child processes."""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rowcast.producer.capture.notes.strictness import Strictness

VARIABLE = "ROWCAST_INSTRUMENT"
"""The environment variable that holds the options as JSON."""

CaptureBy = Literal["listeners", "triggers"]


@dataclass(frozen=True, slots=True)
class Options:
    """Hold the options. Paths are absolute, because the program may change its working directory.

    ``metadata``: names such as ``shop.models:Base``, empty to read the tables from the database. ``url_match``: shell
    patterns, empty for the primary of the configuration.
    """

    config: str | None = None
    folder: str = "."
    metadata: tuple[str, ...] = ()
    url_match: tuple[str, ...] = ()
    capture_by: CaptureBy = "listeners"
    strict: Strictness = "warn"
    create_outbox: bool = False
    migrations: bool = True

    def put_into(self, environment: MutableMapping[str, str]) -> None:
        """Set the variables that let Python find the instrumentation at the start."""
        environment[VARIABLE] = json.dumps(asdict(self))
        path = [str(SITE_PATH), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)


SITE_PATH = Path(__file__).parent / "path"
"""The folder of ``sitecustomize``."""


def options_of_process() -> Options:
    """Return the options of ``rowcast instrument`` from the environment."""
    values: dict[str, Any] = json.loads(os.environ[VARIABLE])
    lists = {name: tuple(values[name]) for name in ("metadata", "url_match")}
    return Options(**{**values, **lists})
