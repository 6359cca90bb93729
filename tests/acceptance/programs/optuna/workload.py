"""Run a study in Optuna's RDB storage."""

import math
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    trial.suggest_categorical("kind", ["sgd", "ädäm 😀", None])
    trial.set_user_attr("note", {"text": 'it\'s \\ "quoted"\n'})
    trial.report(math.nan if trial.number == 1 else x, 0)
    trial.report(math.inf, 1)
    return x * x


study = optuna.create_study(study_name="tuning", storage=sys.argv[1], sampler=optuna.samplers.RandomSampler(seed=1))
study.optimize(objective, n_trials=4)
study.set_user_attr("owner", "second")
optuna.create_study(study_name="gone", storage=sys.argv[1])
optuna.delete_study(study_name="gone", storage=sys.argv[1])
