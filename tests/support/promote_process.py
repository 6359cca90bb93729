"""Promote a replica in a process that kills itself: `python -m support.promote_process NUMBER SETTINGS`."""

from __future__ import annotations

import sys
import threading

import orjson

from rowcast.consumer.promotion.promote import PromotionOptions, promote
from rowcast.shared.config.settings import Settings
from support.rebuild_process import kill_at
from support.worker_runs import NAME


def main() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    kill_at(int(sys.argv[1]), phase="start")
    promote(Settings(**orjson.loads(sys.argv[2])), NAME, PromotionOptions(), stop=threading.Event())


if __name__ == "__main__":
    main()
