"""Map a task over a list, so that Airflow writes keys with negative numbers."""

import datetime

from airflow.sdk import dag, task


@dag(dag_id="small", start_date=datetime.datetime(2026, 1, 1), schedule=None)
def small() -> None:
    @task
    def number(n: int) -> int:
        return n

    @task
    def total(numbers: list) -> None:
        print(list(numbers))

    total(number.expand(n=[1, 2]))


small()
