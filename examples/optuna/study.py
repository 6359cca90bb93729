"""A hyper-parameter study whose replica opens with Optuna. Optuna is unchanged and does not know rowcast.

python examples/optuna/study.py                    SQLite files and the embedded Kafka: needs no server
python examples/optuna/study.py --primary postgresql+psycopg://… --replica mysql+pymysql://… --kafka 127.0.0.1:9092
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy.orm import Session

from rowcast.consumer import run_worker
from rowcast.producer import Capture, load, relay

NAME = "polynomial"

# Optuna's models lack the version table of Optuna's migrations. Captured with the models, this table shows on a
# replica that the schema is up to date.
sa.Table("alembic_version", BaseModel.metadata, sa.Column("version_num", sa.String(32), primary_key=True))


@contextmanager
def captured_storage(url: str, capture: Capture) -> Iterator[RDBStorage]:
    """Open Optuna's storage with the capture installed.

    The constructor of RDBStorage creates engine, tables and first rows. Therefore install the capture on the class of
    all sessions before, and only on the storage's sessions afterwards.
    """
    capture.install(Session)
    storage = RDBStorage(url)
    capture.install(storage.scoped_session)
    capture.uninstall(Session)
    try:
        yield storage
    finally:
        capture.uninstall(storage.scoped_session)
        storage.remove_session()
        storage.engine.dispose()


def fit_polynomial(trial: optuna.Trial) -> float:
    """Fit noisy points of a sine by gradient descent. Return the error on the remaining points."""
    degree = trial.suggest_int("degree", 1, 9)
    rate = trial.suggest_float("rate", 1e-3, 1.0, log=True)
    penalty = trial.suggest_float("penalty", 1e-6, 1.0, log=True)
    basis = trial.suggest_categorical("basis", ["powers", "chebyshev"])
    x = np.linspace(-1, 1, 80)
    y = np.sin(3 * x) + np.random.default_rng(1).normal(0, 0.1, x.size)
    columns = np.polynomial.chebyshev.chebvander(x, degree) if basis == "chebyshev" else np.vander(x, degree + 1)
    weights = np.zeros(degree + 1)
    trial.set_user_attr("weights", degree + 1)
    error = float("inf")
    for step in range(5):
        for _ in range(40):
            residual = columns[::2] @ weights - y[::2]
            weights -= rate * (columns[::2].T @ residual / residual.size + penalty * weights)
        error = float(np.mean((columns[1::2] @ weights - y[1::2]) ** 2))
        trial.report(error, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return error


def run_study(storage: RDBStorage, trials: int) -> optuna.Study:
    study = optuna.create_study(
        study_name=NAME,
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=1),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    study.set_user_attr("data", "80 noisy points of a sine")
    study.optimize(fit_polynomial, n_trials=trials)
    return study


def open_replica(url: str) -> optuna.Study:
    """Open the study from the replica, as any program with Optuna can.

    Skip the creation of tables, because in this process the outbox tables are among Optuna's.
    """
    return optuna.load_study(study_name=NAME, storage=RDBStorage(url, skip_table_creation=True))


def show(where: str, study: optuna.Study) -> None:
    states = Counter(trial.state.name.lower() for trial in study.trials)
    best = ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in study.best_params.items()
    )
    print(f"{where}: {len(study.trials)} trials ({', '.join(f'{n} {state}' for state, n in sorted(states.items()))})")
    print(f"{' ' * len(where)}  best is trial {study.best_trial.number}, error {study.best_value:.5f}: {best}")


def configuration(directory: Path, kafka: str, primary: str, replica: str) -> Path:
    """Write the ``rowcast.toml`` for relay, worker and ``rowcast verify replica``. Return its path."""
    path = directory / "rowcast.toml"
    path.write_text(
        f"source = {json.dumps(directory.name)}\n\n"
        f'[kafka]\n"bootstrap.servers" = {json.dumps(kafka)}\n\n'
        f"[primary]\nurl = {json.dumps(primary)}\n\n"
        f"[replicas.replica]\nurl = {json.dumps(replica)}\n"
    )
    return path


@contextmanager
def kafka_at(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with relay.embedded_kafka() as address:
        yield address


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--primary", default=os.environ.get("PRIMARY_URL"), help="an empty database (default: a file)")
    parser.add_argument("--replica", default=os.environ.get("REPLICA_URL"), help="another one (default: a file)")
    parser.add_argument("--kafka", default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), help="(default: embedded)")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    directory = Path(tempfile.mkdtemp(prefix="optuna-"))
    primary = options.primary or f"sqlite:///{directory}/primary.db"
    replica = options.replica or f"sqlite:///{directory}/replica.db"
    with kafka_at(options.kafka) as kafka:
        settings = load(configuration(directory, kafka, primary, replica))
        capture = Capture(BaseModel.metadata, source=settings.source)
        with captured_storage(primary, capture) as storage:
            with relay.running(settings, capture):
                study = run_study(storage, options.trials)
            relay.run_relay(settings, once=True, stop=threading.Event())
            run_worker(settings, "replica", once=True)
            copy = open_replica(replica)
            show("primary", study)
            show("replica", copy)
            equal = study.trials == copy.trials and study.best_params == copy.best_params
    print("The replica has the same trials." if equal else "THE REPLICA DIFFERS.")
    print(f"Configuration and databases: {directory}")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
