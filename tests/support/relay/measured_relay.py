"""Publish everything once, and print the most memory that the process has had, in kB."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from rowcast.producer.relay import run_relay
from rowcast.shared.config import load

if __name__ == "__main__":
    run_relay(load(Path("rowcast.toml")), once=True, stop=threading.Event(), on_progress=lambda _: None)
    # Not ru_maxrss, which begins with what the parent had.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(found[1])
