"""Write the result of a comparison into the replica, where ``rowcast status`` and the metrics find it."""

from __future__ import annotations

import time

from sqlalchemy import exc

from rowcast.consumer.replica.positions import Verified, record_verified
from rowcast.consumer.verification.results import VerifyResult
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.database.engines import open_engine


def record_result(settings: Settings, replica: str, result: VerifyResult) -> str | None:
    """Write the result. Return why it could not be written, for example without the right, or None."""
    differing = sum(table.differing for table in result.tables)
    verified = Verified(time.time_ns() // 1_000_000, result.verdict, result.rows, differing)
    engine = open_engine(settings.replica(replica).sqlalchemy_url, f"replica {replica!r}", pooled=False)
    try:
        with engine.begin() as connection:
            record_verified(connection, settings.source, verified)
    except exc.DBAPIError as error:
        return first_line(error)
    finally:
        engine.dispose()
    return None
