"""Run a campaign: ``cd tests && python -m chaos --minutes 30 --seed 1``."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

from chaos.campaign import Campaign
from chaos.cluster import running_cluster
from chaos.layouts import layout_of
from chaos.report import text_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="the plan of faults follows from it (default: random)")
    parser.add_argument("--small", action="store_true", help="one broker and two replicas, as in the tests")
    parser.add_argument("--folder", type=Path, help="where logs and data are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="rowcast-chaos-"))
    layout = layout_of(small=arguments.small)
    print(f"seed {seed}, logs in {folder}, {layout}", flush=True)
    with running_cluster(layout, folder, seed) as cluster:
        outcome = Campaign(cluster, seed).run(arguments.minutes * 60)
    print(text_of(outcome))
    return 1 if outcome.violations else 0


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
