"""Let MLflow create its tables and its default experiment."""

import sys

from mlflow import MlflowClient

MlflowClient(sys.argv[1], sys.argv[1]).search_experiments()
