"""Find out what a campaign can do on this machine."""

from __future__ import annotations

from chaos.cluster import FAKETIME
from chaos.disks import can_mount
from chaos.plan import Layout


def layout_of(*, small: bool) -> Layout:
    """Return what can run here. ``small``: one broker and two replicas, as in the tests."""
    can_fake_clock = FAKETIME is not None
    if small:
        return Layout(
            brokers=1,
            replicas=("postgresql", "sqlite"),
            standby=False,
            can_mount=can_mount(),
            can_fake_clock=can_fake_clock,
        )
    return Layout(can_mount=can_mount(), can_fake_clock=can_fake_clock)
