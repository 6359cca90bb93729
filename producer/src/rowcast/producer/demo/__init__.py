"""``rowcast demo``: a small shop, its relay, its worker and its replica, on this machine, for a few seconds."""
