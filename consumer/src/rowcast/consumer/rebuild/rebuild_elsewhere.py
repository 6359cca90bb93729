"""Rebuild a replica in another database, under the names that readers use."""

from __future__ import annotations

import threading

from pydantic import ValidationError

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.fresh_tables import FreshTables
from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.progress import OnRebuildProgress, ReadRecords
from rowcast.consumer.rebuild.swapped_table import recorded_shapes
from rowcast.consumer.rebuild.topics import lacks, read_topics
from rowcast.consumer.replica.dialects import LIVE, replica_dialect
from rowcast.consumer.replica.worker_tables import create_tables
from rowcast.shared.config.settings import ReplicaSettings, Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError


def rebuild_into(
    settings: Settings,
    replica: str,
    url: str,
    options: RebuildOptions,
    *,
    stop: threading.Event,
    on_progress: OnRebuildProgress | None = None,
) -> RebuildResult:
    """Fill the tables of a replica in another database, under the names that readers use. See ``rebuild``.

    A worker whose configuration has this URL goes on there.
    """
    elsewhere = _with_url(settings, replica, url)
    target = elsewhere.replica(replica).sqlalchemy_url
    if target == settings.replica(replica).sqlalchemy_url:
        raise ConfigurationError(f"--into names the database of replica {replica!r} itself. Leave --into out.")
    engine = open_engine(target, "the database of --into", pooled=False)
    reach(engine, "the database of --into")
    layouts = RowLayouts(elsewhere.replica(replica).tables)
    if reasons := list(lacks(elsewhere, layouts, read_topics(elsewhere, layouts), {})):
        raise ConfigurationError("the topics do not give every row:\n" + "\n".join(f"- {r}." for r in reasons))
    records = ReadRecords(on_progress)
    create_tables(engine, replica_dialect(engine.dialect.name))
    fresh = FreshTables(elsewhere, replica, settings.source, LIVE, records, stop, options.skip)
    fresh.load(engine)
    verified_rows = fresh.verify() if options.is_verified else None
    records.begin("done")
    with engine.connect() as connection:
        return RebuildResult(tuple(recorded_shapes(connection, settings.source)), records.progress.total, verified_rows)


def _with_url(settings: Settings, replica: str, url: str) -> Settings:
    try:
        options = ReplicaSettings.model_validate({**settings.replica(replica).model_dump(), "url": url})
    except ValidationError as error:
        raise ConfigurationError(f"--into: {error.errors()[0]['msg']}") from error
    return settings.model_copy(update={"replicas": {**settings.replicas, replica: options}})
