"""The plan of faults is a pure function of the seed, and holds what it promises."""

from __future__ import annotations

from itertools import islice

import pytest

from chaos.plan import KINDS, OPERATIONS, STORM_S, Layout, Round, rounds

FULL = Layout()


def _first(count: int, seed: int = 1, layout: Layout = FULL) -> list[Round]:
    return list(islice(rounds(seed, layout), count))


def test_the_same_seed_gives_the_same_plan_and_another_seed_another_plan() -> None:
    assert _first(50) == _first(50)
    assert _first(3) != _first(3, seed=2)


def test_a_longer_campaign_begins_with_the_rounds_of_a_shorter_one() -> None:
    assert _first(30)[:10] == _first(10)


def test_an_hour_has_every_kind_of_fault_and_every_operation() -> None:
    plan = _first(60)
    assert {fault.kind for each in plan for fault in each.faults} == KINDS.keys()
    assert {each.operation.kind for each in plan if each.operation} == OPERATIONS.keys()
    assert all(0 <= fault.begin_s <= STORM_S for each in plan for fault in each.faults)


@pytest.mark.parametrize("seed", range(5))
def test_two_faults_of_one_process_never_overlap(seed: int) -> None:
    for each in _first(100, seed):
        ends: dict[tuple[str, str], float] = {}
        for fault in each.faults:
            for member in FULL.broker_names if fault.target == "brokers" else [fault.target]:
                place = (member, KINDS[fault.kind].part)
                assert fault.begin_s >= ends.get(place, 0), f"round {each.number}: {fault}"
                ends[place] = fault.begin_s + fault.seconds


def test_a_machine_without_rights_or_libraries_has_a_plan_without_their_faults() -> None:
    layout = Layout(brokers=1, replicas=("sqlite",), standby=False, can_mount=False, can_fake_clock=False)
    plan = _first(200, layout=layout)
    found = {fault.kind for each in plan for fault in each.faults}
    assert KINDS.keys() - found == {
        "clock of the primary jumps", "disk full", "restart the brokers one by one", "suspend the coordinator"
    }  # fmt: skip
    assert {each.operation.kind for each in plan if each.operation} == {"topic created again"}
    targets = {fault.target for each in plan for fault in each.faults}
    assert not any(target.startswith(("replica-postgresql", "broker-2", "worker-mariadb")) for target in targets)


def test_topics_do_not_get_partitions_without_end() -> None:
    added = sum(fault.kind == "partitions added" for each in _first(2_000) for fault in each.faults)
    assert 12 <= added < 20
