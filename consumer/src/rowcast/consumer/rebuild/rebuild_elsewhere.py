"""Rebuild a replica in another database, under the names that readers use."""

from __future__ import annotations

import threading

from pydantic import ValidationError
from sqlalchemy.engine import Engine

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.fresh_tables import FreshTables
from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.progress import OnRebuildProgress, ReadRecords
from rowcast.consumer.rebuild.swapped_table import recorded_shapes, strangers
from rowcast.consumer.rebuild.topics import lacks, read_topics
from rowcast.consumer.rebuild.whole_snapshot import is_from_snapshot, publish_all_rows
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
    """Fill the tables of a replica in another database, under the names for readers. See ``rebuild``.

    A worker with this URL in the configuration goes on in the database.
    """
    elsewhere = _with_url(settings, replica, url)
    target = elsewhere.replica(replica).sqlalchemy_url
    if target == settings.replica(replica).sqlalchemy_url:
        raise ConfigurationError(f"--into names the database of replica {replica!r} itself. Leave --into out.")
    engine = open_engine(target, "the database of --into", pooled=False)
    reach(engine, "the database of --into")
    records = ReadRecords(on_progress)
    create_tables(engine, replica_dialect(engine.dialect.name))
    if not options.with_snapshot:
        _require_whole_topics(elsewhere, replica, engine)
    elif not is_from_snapshot(engine, settings.source):
        publish_all_rows(elsewhere, replica, engine, settings.source, records, stop)
    fresh = FreshTables(elsewhere, replica, settings.source, LIVE, records, stop, options.skip)
    fresh.load(engine)
    verified_rows = fresh.verify() if options.is_verified else None
    records.begin("done")
    with engine.connect() as connection:
        return RebuildResult(tuple(recorded_shapes(connection, settings.source)), records.progress.total, verified_rows)


def _require_whole_topics(settings: Settings, replica: str, engine: Engine) -> None:
    """Raise ConfigurationError if the topics lack rows, or if the database has tables of somebody else."""
    layouts = RowLayouts(settings.replica(replica).tables)
    ends = read_topics(settings, layouts)
    after = {shape.full_name: shape for shape in layouts.latest_shapes()}
    with engine.connect() as connection:
        own = recorded_shapes(connection, settings.source, created=True)
    reasons = [] if is_from_snapshot(engine, settings.source) else list(lacks(settings, layouts, ends, own))
    again = "Publish all rows again with --snapshot"
    listed = [f"{reason}. {again}" for reason in reasons] + strangers(engine, settings.source, own, after)
    if listed:
        raise ConfigurationError("the replica cannot be rebuilt there:\n" + "\n".join(f"- {line}." for line in listed))


def _with_url(settings: Settings, replica: str, url: str) -> Settings:
    try:
        options = ReplicaSettings.model_validate({**settings.replica(replica).model_dump(), "url": url})
    except ValidationError as error:
        raise ConfigurationError(f"--into: {error.errors()[0]['msg']}") from error
    return settings.model_copy(update={"replicas": {**settings.replicas, replica: options}})
