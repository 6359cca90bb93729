"""Capture Optuna's RDB storage, an independent application, and open its studies from the replicas."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy.orm import Session

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from servers import Broker
from support.command_line import environment, succeed, write_configuration
from support.pipeline.database_diff import assert_same_rows
from support.pipeline.pipeline import Pipeline
from support.project import EXAMPLES

TRIALS = 25
# With a failed trial, NaN and infinity.
FEW_TRIALS = 10
EXAMPLE = EXAMPLES / "optuna"

# Optuna's models lack the version table of Optuna's migrations.
if "alembic_version" not in BaseModel.metadata.tables:
    sa.Table("alembic_version", BaseModel.metadata, sa.Column("version_num", sa.String(32), primary_key=True))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@contextmanager
def captured_storage(url: str, source: str) -> Iterator[RDBStorage]:
    """Open Optuna's storage with the capture installed.

    The constructor of RDBStorage creates engine, tables and first rows. Therefore install the capture on the class of
    all sessions before, and only on the storage's sessions afterwards.
    """
    capture = Capture(BaseModel.metadata, source=source)
    capture.install(Session)
    try:
        storage = RDBStorage(url, heartbeat_interval=60)
        capture.install(storage.scoped_session)
    finally:
        capture.uninstall(Session)
    try:
        yield storage
    finally:
        capture.uninstall(storage.scoped_session)
        storage.remove_session()
        storage.engine.dispose()


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    layers = trial.suggest_int("layers", 1, 5)
    kind = trial.suggest_categorical("kind", ["sgd", "ädäm 😀", None])
    trial.set_user_attr("note", {"text": 'it\'s \\ "quoted"\n', "layers": layers})
    trial.set_user_attr("attempt", 1)
    trial.set_user_attr("attempt", 2)
    if trial.number == 7:
        raise ValueError("this trial fails")
    loss = math.inf
    for step in range(5):
        loss = (x - 2) ** 2 + layers / 3 + abs(math.log10(rate) + 3) + (0.1 if kind == "sgd" else 0.7) + 5 / (step + 1)
        trial.report(math.nan if trial.number == 5 and step == 0 else loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return math.inf if trial.number == 9 else loss


def run_study(storage: RDBStorage, trials: int = TRIALS) -> optuna.Study:
    study = optuna.create_study(
        study_name="tuning",
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=11),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )
    study.set_user_attr("owner", "first")
    study.set_user_attr("owner", ["second", 2])
    study.enqueue_trial({"x": 1.5, "layers": 2}, user_attrs={"by": "hand"})
    study.optimize(objective, n_trials=trials, catch=(ValueError,))
    other = optuna.create_study(study_name="deleted", storage=storage, directions=["minimize", "maximize"])
    other.optimize(lambda trial: (trial.suggest_float("a", 0, 1), 1.0), n_trials=3)
    optuna.delete_study(study_name="deleted", storage=storage)
    return study


# The reader has Optuna and the replicas' URLs, and does not import rowcast.
READER = """
import pickle, sys, optuna
def read_study(url):
    study = optuna.load_study(study_name="tuning", storage=url)
    return {
        "trials": study.get_trials(), "best": study.best_trial.number, "params": study.best_params,
        "value": study.best_value, "user_attrs": study.user_attrs, "directions": study.directions,
        "names": optuna.get_all_study_names(url),
    }
found = [read_study(url) for url in sys.argv[1:]]
assert "rowcast" not in sys.modules
sys.stdout.buffer.write(pickle.dumps(found))
"""


def read_in_another_process(*urls: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", READER, *urls], env=environment(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: list[dict[str, Any]] = pickle.loads(done.stdout)
    return found


def plain(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Return all attributes of a trial, with NaN as text so that two NaNs compare equal."""

    def value(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: value(inner) for key, inner in found.items()}
        return "NaN" if isinstance(found, float) and math.isnan(found) else found

    return {name: value(found) for name, found in vars(trial).items()}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_opens_from_each_replica_as_it_is_on_the_primary(
    tmp_path: Path, kafka: Broker, new_database: NewDatabase, postgresql: object, source_name: str
) -> None:
    primary = new_database("postgresql")
    replicas = {"reporting": new_database("postgresql"), "laptop": new_database("sqlite")}
    with (
        Pipeline(
            tmp_path, source=source_name, kafka=kafka.bootstrap_servers, primary=primary, replicas=replicas
        ) as pipeline,
        captured_storage(primary, source_name) as storage,
    ):
        for command in (("relay",), ("worker", "reporting"), ("worker", "laptop")):
            pipeline.start(*command)
        study = run_study(storage)
        trials = study.get_trials()
        states = {trial.state.name for trial in trials}
        assert len(trials) == TRIALS
        assert states == {"COMPLETE", "PRUNED", "FAIL"}, "the study does not show what it is meant to"
        pipeline.wait_until_caught_up()
        for name, read in zip(replicas, read_in_another_process(*replicas.values()), strict=True):
            assert [plain(t) for t in read["trials"]] == [plain(t) for t in trials]
            assert read["best"] == study.best_trial.number
            assert read["params"] == study.best_params
            assert read["value"] == study.best_value
            assert read["user_attrs"] == study.user_attrs == {"owner": ["second", 2]}
            assert read["directions"] == study.directions
            assert read["names"] == ["tuning"]
            rows = assert_same_rows(pipeline.primary, pipeline.replicas[name], BaseModel.metadata)
            assert {table for table, _ in rows} >= {
                "alembic_version", "version_info", "studies", "trials", "trial_params", "trial_values",
                "trial_intermediate_values", "trial_user_attributes", "trial_heartbeats",
            }  # fmt: skip
            pipeline.verify(name)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_goes_on_in_a_promoted_replica_of_another_engine(
    tmp_path: Path, kafka: Broker, new_database: NewDatabase, source_name: str
) -> None:
    first, second, third = new_database("postgresql"), new_database("mariadb"), new_database("sqlite")
    write_configuration(tmp_path, source_name, kafka.bootstrap_servers, first, {"copy": second})
    with captured_storage(first, source_name) as storage:
        run_study(storage, FEW_TRIALS)
    succeed(tmp_path, "relay", "--once")
    succeed(tmp_path, "worker", "copy", "--once")
    succeed(tmp_path, "promote", "copy")
    write_configuration(tmp_path, source_name, kafka.bootstrap_servers, second, {"next": third})
    with captured_storage(second, source_name) as storage:
        study = optuna.load_study(study_name="tuning", storage=storage)
        assert len(study.trials) == FEW_TRIALS
        study.optimize(objective, n_trials=3)
        assert [trial.number for trial in study.trials] == list(range(FEW_TRIALS + 3))
    succeed(tmp_path, "relay", "--once", "--new-timeline", "2")
    succeed(tmp_path, "worker", "next", "--once")
    succeed(tmp_path, "verify", "next")
    assert len(read_in_another_process(third)[0]["trials"]) == FEW_TRIALS + 3


def test_the_example_prints_what_its_readme_shows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE / "study.py"],
        env=environment(TMPDIR=str(tmp_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "for demonstrations and tests only" in done.stderr
    shown = (EXAMPLE / "README.md").read_text().partition("$ python examples/optuna/study.py\n")[2].partition("```")[0]
    *lines, last = shown.splitlines()
    assert len(lines) == 5
    assert done.stdout.splitlines()[:-1] == lines
    assert last.startswith("Configuration and databases: ")
