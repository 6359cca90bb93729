"""The name under which a process owns a lease or a replica."""

from __future__ import annotations

import os
import secrets
import socket

MAX_LENGTH = 255
"""Characters of the columns that hold the name."""


def new_process_name() -> str:
    """Return a new unique name: host, process id and a random part, so that an operator finds the process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-MAX_LENGTH:]
