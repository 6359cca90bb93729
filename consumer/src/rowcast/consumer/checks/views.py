"""Compare the views of a replica with the tables of the source, for ``rowcast check``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rowcast.consumer.events.row_layout import matches_any
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.consumer.views.unused import unused_names
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.shape import TableShape


def replica_view(replica: ReplicaSettings, shapes: Iterable[TableShape]) -> ReplicaView:
    """Return the view of a replica over newest shapes of the source."""
    return ReplicaView(replica, {shape.full_name: shape for shape in shapes}.get)


def viewed_shapes(replica: ReplicaSettings, shapes: Sequence[TableShape]) -> list[TableShape]:
    """Return the shapes of a replica's tables. Raise ConfigurationError for a view that does not fit."""
    wanted = [shape for shape in shapes if matches_any(shape.full_name, replica.tables)]
    return replica_view(replica, wanted).shapes(wanted)


def view_findings(replica: ReplicaSettings, shapes: Sequence[TableShape], area: str) -> Iterator[Finding]:
    """Yield the views that match no table or do not fit, and the missing parts of the replica because of views.

    ``shapes``: the newest shapes of the source's tables in the replica.
    """
    for unused in unused_names(replica.view, shapes):
        yield view_fault(area, unused)
    # A fault of a view shows again at each table that refers to the view's.
    yield from dict.fromkeys(_of_tables(replica_view(replica, shapes), shapes, area))


def _of_tables(view: ReplicaView, shapes: Sequence[TableShape], area: str) -> Iterator[Finding]:
    for shape in shapes:
        try:
            viewed = view.viewed(shape)
        except ConfigurationError as error:
            yield view_fault(area, error)
            continue
        for constraint in viewed.left_out:
            lacking = f"table {shape.full_name} does not have {constraint}"
            yield Finding(area, Verdict.ok, lacking, table=shape.full_name)


def view_fault(area: str, error: ConfigurationError | str) -> Finding:
    """Return the finding about an unsuitable view."""
    fault, _, hint = str(error).removesuffix(".").partition(". ")
    return Finding(area, Verdict.configuration, fault, hint.removesuffix(".") or "correct the view")
