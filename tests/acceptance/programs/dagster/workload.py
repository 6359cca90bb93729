"""Run jobs and assets, one of which fails."""

import dagster


@dagster.op
def one() -> int:
    return 1


@dagster.op
def fail(number: int) -> None:
    raise ValueError(f"ä😀 {number}")


@dagster.job(tags={"a": "b"})
def good() -> None:
    one()


@dagster.job
def bad() -> None:
    fail(one())


@dagster.asset
def table():
    return dagster.MaterializeResult(metadata={"rows": 3})


with dagster.DagsterInstance.get() as instance:
    for _ in range(2):
        assert good.execute_in_process(instance=instance).success
    assert not bad.execute_in_process(instance=instance, raise_on_error=False).success
    dagster.materialize([table], instance=instance)
    runs = instance.get_runs()
    instance.delete_run(runs[0].run_id)
    instance.add_run_tags(runs[1].run_id, {"x": "y"})
    instance.wipe_assets([dagster.AssetKey("table")])
    dagster.materialize([table], instance=instance)
    instance.run_storage.set_cursor_values({"c": "1"})
    instance.run_storage.set_cursor_values({"c": "2"})
