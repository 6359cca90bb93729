"""Rebuild a replica in another database, under the names that readers use."""

from __future__ import annotations

import logging
import threading

from pydantic import ValidationError
from sqlalchemy.engine import Engine

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.catch_up_live import applied_lsn
from rowcast.consumer.rebuild.fresh_tables import FreshTables
from rowcast.consumer.rebuild.later_events import require_held
from rowcast.consumer.rebuild.moment import Moment, find_moment
from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.progress import OnRebuildProgress, ReadRecords
from rowcast.consumer.rebuild.swapped_table import recorded_shapes, strangers
from rowcast.consumer.rebuild.topics import lacks, read_topics
from rowcast.consumer.rebuild.whole_snapshot import is_from_snapshot, publish_all_rows
from rowcast.consumer.replica.dialects import LIVE, replica_dialect
from rowcast.consumer.replica.positions import mark_suspect
from rowcast.consumer.replica.worker_tables import create_tables
from rowcast.consumer.views.replica_view import replica_shapes
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError, DataError

_log = logging.getLogger("rowcast.rebuild")


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
    filtered = [table for table, view in elsewhere.replica(replica).view.items() if view.where is not None]
    if filtered and options.until is not None:
        raise ConfigurationError(
            f"--until: the view of {filtered[0]} takes some of the rows, so nobody can know whether the topics still "
            "hold all of them. Leave --until out, or name a replica without `where`."
        )
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
    processes = options.processes if options.until is None else 1
    fresh = FreshTables(elsewhere, replica, settings.source, LIVE, records, stop, options.skip, processes)
    if options.until is not None:
        moment = _copy_until(elsewhere, replica, engine, fresh, options.until)
        records.begin("done")
        return _result(engine, settings, records, None, moment)
    fresh.load(engine)
    verified_rows = fresh.verify() if options.is_verified else None
    records.begin("done")
    return _result(engine, settings, records, verified_rows, None)


def _result(
    engine: Engine, settings: Settings, records: ReadRecords, verified_rows: int | None, moment: Moment | None
) -> RebuildResult:
    with engine.connect() as connection:
        tables = tuple(recorded_shapes(connection, settings.source))
    read = records.progress.total if moment is None else records.progress.records
    return RebuildResult(tables, read, verified_rows, moment)


def _copy_until(settings: Settings, replica: str, engine: Engine, fresh: FreshTables, until: str) -> Moment:
    """Fill the tables up to a moment, and make sure that the topics still hold it. Raise DataError if not."""
    moment = find_moment(settings, until)
    _require_present(settings, replica, moment)
    if applied_lsn(engine, settings.source) > moment.lsn:
        raise ConfigurationError(
            f"the database of --into has later transactions than {moment} already. Use an empty database."
        )
    _log.info("copying the state after %s", moment)
    if moment.out_of_order:
        _log.warning(
            "%d transactions before this one in the order of the topics have a time after --until, and are included",
            moment.out_of_order,
        )
    fresh.load_until(engine, moment.lsn)
    try:
        require_held(settings, replica, engine, moment)
    except DataError as error:
        reason = f"the topics do not hold the state after {moment} any more: {f'{error}'.removesuffix('.')}"
        with engine.begin() as connection:
            mark_suspect(connection, settings.source, reason)
        raise DataError(
            f"{reason}. Choose a later moment, and an empty database. The present one is no copy."
        ) from error
    return moment


def _require_present(settings: Settings, replica: str, moment: Moment) -> None:
    """Raise ConfigurationError for a moment of an ended timeline."""
    layouts = RowLayouts(settings.replica(replica).tables)
    read_topics(settings, layouts)
    if moment.lsn < layouts.notes.first_lsn:
        raise ConfigurationError(
            f"{moment} belongs to a timeline that has ended: the source has published all rows again from lsn "
            f"{layouts.notes.first_lsn} on, and a copy leaves out everything before. Name a later moment."
        )


def _require_whole_topics(settings: Settings, replica: str, engine: Engine) -> None:
    """Raise ConfigurationError if the topics lack rows, or if the database has tables of somebody else."""
    layouts = RowLayouts(settings.replica(replica).tables)
    ends = read_topics(settings, layouts)
    after = {shape.full_name: shape for shape in replica_shapes(settings.replica(replica), layouts)}
    with engine.connect() as connection:
        own = recorded_shapes(connection, settings.source, created=True)
    reasons = [] if is_from_snapshot(engine, settings.source) else list(lacks(settings, layouts, ends, own))
    again = "Publish all rows again with --snapshot"
    listed = [f"{reason}. {again}" for reason in reasons] + strangers(engine, settings.source, own, after)
    if listed:
        raise ConfigurationError("the replica cannot be rebuilt there:\n" + "\n".join(f"- {line}." for line in listed))


def _with_url(settings: Settings, replica: str, url: str) -> Settings:
    try:
        options = ReplicaSettings.model_validate({**settings.replica(replica).model_dump(by_alias=True), "url": url})
    except ValidationError as error:
        raise ConfigurationError(f"--into: {error.errors()[0]['msg']}") from error
    return settings.model_copy(update={"replicas": {**settings.replicas, replica: options}})
