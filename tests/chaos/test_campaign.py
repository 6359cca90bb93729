"""A slice of the campaign: one broker, two replicas, two short storms."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from chaos import bank
from chaos.campaign import Campaign
from chaos.cluster import running_cluster
from chaos.layouts import layout_of
from chaos.report import text_of

SEED = 5


@pytest.mark.campaign
def test_no_consistent_replica_is_wrong_under_faults() -> None:
    with (
        # The servers' user must be able to enter the folder.
        tempfile.TemporaryDirectory(prefix="rowcast-chaos-") as folder,
        running_cluster(layout_of(small=True), Path(folder), SEED) as cluster,
    ):
        campaign = Campaign(cluster, SEED)
        outcome = campaign.run(25, faults_of_a_round=6, storm_s=10)
        assert outcome.violations == [], text_of(outcome)
        assert sum(outcome.injected.values()) >= 6
        assert outcome.reads["sqlite, consistent"] > 0
        # The campaign must be able to fail.
        cluster.databases["replica-sqlite"].execute("UPDATE account SET balance = balance + 1 WHERE id = 1")
        [found, *_] = campaign.look("sqlite")
    assert f"the balances are {bank.ACCOUNTS * bank.OPENING + 1} together" in found.what
