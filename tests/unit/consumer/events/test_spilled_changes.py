"""A temporary file gives back the changes of a large transaction, in the order of their lsns."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events import spilled_changes
from rowcast.consumer.events.change import Change
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.replica.pieces import pieces
from rowcast.shared.errors import UnreachableError
from support.kafka_source import column, shape

LAYOUTS = {name: RowLayout(shape(name, column("n")), ("id", "n")) for name in "abc"}


def change(table: str, lsn: int, partition: int = 0, *, delete: bool = False) -> Change:
    image = None if delete else b'{"id":%d,"n":"\xc3\xbc"}' % lsn
    return Change(LAYOUTS[table], b'{"id":%d}' % lsn, image, lsn, "7", lsn + 1, (table, partition), lsn + 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=60), st.integers(1, 9))
def test_what_went_in_comes_out(events: list[tuple[str, int, bool]], block: int) -> None:
    changes = [change(table, lsn, n, delete=delete) for lsn, (table, n, delete) in enumerate(events)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spilled_changes, "_BLOCK_EVENTS", block)
        spilled = SpilledChanges("7", changes[:5])
        # The partitions are read at different speeds.
        for one in sorted(changes[5:], key=lambda c: c.partition):
            spilled.append(one)
    for _ in range(2):
        assert list(spilled) == changes
    assert len(spilled) == len(changes)
    assert set(spilled.layouts) == {c.layout for c in changes}
    for table, count in spilled.counts.items():
        assert list(spilled.of_table(table)) == [c for c in changes if c.layout.table == table]
        assert count == len(list(spilled.of_table(table)))


def test_pieces_are_small_and_in_an_order_that_foreign_keys_allow() -> None:
    changes = [change("a", 1), change("b", 2, delete=True), change("c", 3, delete=True), change("a", 4, delete=True)]
    changes += [change("a", 5), change("b", 6, delete=True)]
    found = list(pieces(SpilledChanges("7", changes), ["public.a", "public.b", "public.c"], 2))
    assert [[(c.layout.table[-1], c.lsn) for c in piece] for piece in found] == [
        [("c", 3)], [("b", 2), ("b", 6)], [("a", 1), ("a", 4)], [("a", 5)],
    ]  # fmt: skip


def test_a_piece_of_large_rows_has_few_events() -> None:
    large = change("a", 1)._replace(after=b"x" * 5_000_000)
    found = list(pieces(SpilledChanges("7", [large._replace(lsn=n) for n in range(5)]), ["public.a"], 100))
    assert [len(piece) for piece in found] == [2, 2, 1]


def test_a_full_folder_of_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spilled = SpilledChanges("7", [])
    monkeypatch.setattr(spilled_changes, "_BLOCK_EVENTS", 1)

    def is_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", is_full)
    with pytest.raises(UnreachableError, match=rf"files, {tmp_path}: No space left on device\. Make room .*TMPDIR"):
        spilled.append(change("a", 1))


def test_changes_of_a_renamed_table_get_its_present_name() -> None:
    changes = [change("a", 1), change("b", 2), change("a", 3, delete=True), change("c", 4)]
    spilled = SpilledChanges("7", changes)
    spilled.replace_layouts(lambda layout: LAYOUTS["b"] if layout is LAYOUTS["a"] else layout)
    assert list(spilled) == [c._replace(layout=LAYOUTS["b"]) if c.layout is LAYOUTS["a"] else c for c in changes]
    assert spilled.counts == {"public.b": 3, "public.c": 1}
    assert [c.lsn for c in spilled.of_table("public.b")] == [1, 2, 3]
