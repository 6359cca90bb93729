"""Log runs, metrics that are no numbers, and registered models."""

import math
import sys
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType

url = sys.argv[1]
folder = str(Path.cwd())
mlflow.set_tracking_uri(url)
client = MlflowClient(url, url)
experiment = client.create_experiment("tuning", artifact_location=folder, tags={"team": "ä😀"})
runs = []
for number in range(4):
    run = client.create_run(experiment, tags={"n": str(number)}).info.run_id
    runs.append(run)
    now = int(time.time() * 1000)
    values = enumerate([1.5, math.nan, math.inf, -math.inf, 1e-300])
    client.log_batch(
        run,
        metrics=[Metric("loss", value, now + step, step) for step, value in values],
        params=[Param("lr", str(10.0**-number)), Param("text", 'it\'s \\ "q"\n')],
        tags=[RunTag("a", "1"), RunTag("b", "2")],
    )
    client.log_metric(run, "loss", math.nan, step=9)
    client.log_metric(run, "loss", 0.25, step=10)
    client.set_tag(run, "a", "changed")
    client.delete_tag(run, "b")
    client.set_terminated(run, "FAILED" if number == 2 else "FINISHED")
client.delete_run(runs[1])
client.delete_run(runs[3])
client.restore_run(runs[3])
client.rename_experiment(experiment, "renamed")
gone = client.create_experiment("gone", artifact_location=folder)
client.delete_experiment(gone)
client.create_registered_model("m", tags={"k": "v"}, description="d")
for number in range(2):
    client.create_model_version("m", source=folder, run_id=runs[0], tags={"t": str(number)})
client.set_registered_model_alias("m", "champion", 1)
client.set_registered_model_alias("m", "champion", 2)
client.update_model_version("m", 1, description="x")
client.delete_model_version("m", 1)
client.rename_registered_model("m", "m2")
assert len(client.search_runs([experiment], run_view_type=ViewType.ALL)) == 4
