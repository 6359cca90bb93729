"""Change variables, pools and connections, and run a DAG with mapped tasks."""

import subprocess
import sys
from pathlib import Path

AIRFLOW = Path(sys.executable).with_name("airflow")

for arguments in (
    "variables set a 1",
    "variables set a 2",
    "pools set p 3 pool",
    "connections add c --conn-uri http://host",
    "dags test small",
    "connections delete c",
):
    subprocess.run([AIRFLOW, *arguments.split()], check=True)
