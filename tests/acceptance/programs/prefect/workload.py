"""Run flows on a temporary server of Prefect, with artifacts, variables and a task that fails."""

import asyncio

from prefect import flow, get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.variables import Variable


@task(retries=1)
def number(n: int) -> int:
    if n == 2:
        raise ValueError("ä😀")
    return n


@flow(log_prints=True)
def numbers() -> list:
    print("ä😀")
    create_markdown_artifact("# x", key="k")
    return [number.submit(n) for n in range(3)]


@flow
def everything() -> None:
    for value in (1, 2):
        Variable.set("v", {"a": value}, overwrite=True)
    numbers(return_state=True)


async def change() -> None:
    async with get_client() as client:
        await client.create_concurrency_limit("tag", 3)
        await client.delete_concurrency_limit_by_tag("tag")
        runs = await client.read_flow_runs()
        await client.delete_flow_run(runs[0].id)


if __name__ == "__main__":
    everything(return_state=True)
    asyncio.run(change())
