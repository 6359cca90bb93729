"""Keep jobs in APScheduler's SQLAlchemy job store."""

import datetime
import sys

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

FAR = datetime.datetime(2099, 1, 1)

scheduler = BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(url=sys.argv[1])})
scheduler.start(paused=True)
for n in range(5):
    scheduler.add_job("builtins:print", "date", run_date=FAR, args=[n], id=f"job {n} ä😀")
scheduler.reschedule_job("job 1 ä😀", trigger="interval", hours=5)
scheduler.modify_job("job 2 ä😀", name="renamed")
scheduler.pause_job("job 3 ä😀")
scheduler.remove_job("job 4 ä😀")
scheduler.add_job("builtins:print", "date", run_date=FAR, id="job 0 ä😀", replace_existing=True)
assert len(scheduler.get_jobs()) == 4
scheduler.shutdown()
