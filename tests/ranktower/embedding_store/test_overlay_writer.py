"""Overlays one after the other: what each holds, what stays on the disk, and that one process writes at a time."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.overlay import Overlay, read_overlay_pointer
from ranktower.embedding_store.overlay_writer import (
    NewRows,
    alone_with_overlays,
    current_overlay,
    point_to,
    write_overlay,
)
from ranktower.errors import DataError, ReleaseError
from ranktower.release import Manifest


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest]) -> Manifest:
    return make_manifest()


@pytest.fixture
def rows(random_arrays: Callable[..., Any]) -> Callable[..., NDArray[np.uint8]]:
    """``rows(layout, n, seed)``: encoded rows."""
    return lambda layout, num_rows, seed: layout.encode(random_arrays(layout, num_rows, seed))


def stored(overlay: Overlay, layout: RowLayout) -> dict[str, tuple[bytes, int]]:
    """Id to bytes and time, of the overlay's items."""
    table = overlay.tables["item"]
    assert table.layout == layout
    everything = np.arange(len(table))
    raw = table.rows_at(everything)
    return {one: (raw[row].tobytes(), int(table.times_s[row])) for row, one in enumerate(table.ids_at(everything))}


@pytest.mark.parametrize("names", [("1", "20", "3"), ("a", "20", "long-" * 20)])
def test_each_overlay_holds_the_one_before(
    names: tuple[str, str, str], manifest: Manifest, rows: Callable[..., Any], tmp_path: Path
) -> None:
    layout = manifest.layout("item")
    first, second = rows(layout, 2, 0), rows(layout, 2, 1)
    overlays: list[Overlay] = []
    for number, (ids, raw) in enumerate([(names[:2], first), (names[1:], second)]):
        before = overlays[-1] if overlays else None
        overlays.append(write_overlay(tmp_path, manifest, before, {"item": NewRows(ids, raw)}, created_s=100 + number))
    assert [one.pointer.sequence for one in overlays] == [1, 2]
    assert stored(overlays[0], layout) == {
        names[0]: (first[0].tobytes(), 100),
        names[1]: (first[1].tobytes(), 100),
    }
    assert stored(overlays[1], layout) == {
        names[0]: (first[0].tobytes(), 100),
        names[1]: (second[0].tobytes(), 101),
        names[2]: (second[1].tobytes(), 101),
    }
    assert (overlays[1].pointer.num_users, overlays[1].pointer.num_items) == (0, 3)
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["items"]


def test_more_rows_than_are_written_at_once(manifest: Manifest, rows: Callable[..., Any], tmp_path: Path) -> None:
    layout = manifest.layout("item")
    ids, raw = [str(number) for number in range(10_000)], rows(layout, 10_000, 0)
    first = write_overlay(tmp_path, manifest, None, {"item": NewRows(ids, raw)}, created_s=1)
    newer = rows(layout, 5000, 1)
    second = write_overlay(tmp_path, manifest, first, {"item": NewRows(ids[::2], newer)}, created_s=2)
    expected = {one: (row.tobytes(), 1) for one, row in zip(ids, raw, strict=True)}
    expected |= {one: (row.tobytes(), 2) for one, row in zip(ids[::2], newer, strict=True)}
    assert stored(second, layout) == expected


def test_nothing_counts_before_the_pointer_names_it_and_one_older_stays(
    manifest: Manifest, rows: Callable[..., Any], tmp_path: Path
) -> None:
    layout = manifest.layout("item")
    overlay: Overlay | None = None
    for number in range(1, 5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "half").write_text("of a killed run")
        before, overlay = (
            overlay,
            write_overlay(
                tmp_path, manifest, overlay, {"item": NewRows([str(number)], rows(layout, 1, number))}, created_s=number
            ),
        )
        assert read_overlay_pointer(tmp_path) == (before.pointer if before else None)
        point_to(tmp_path, overlay.pointer)
        found = current_overlay(tmp_path, manifest)
        assert found is not None
        assert found.pointer == overlay.pointer
        kept = {"current", str(number), *([str(number - 1)] if number > 1 else [])}
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert current_overlay(tmp_path / "elsewhere", manifest) is None


def test_a_duplicate_leaves_no_overlay(manifest: Manifest, rows: Callable[..., Any], tmp_path: Path) -> None:
    raw = rows(manifest.layout("user"), 2, 0)
    with pytest.raises(DataError, match="duplicate id 'a'"):
        write_overlay(tmp_path, manifest, None, {"user": NewRows(["a", "a"], raw)}, created_s=1)
    assert read_overlay_pointer(tmp_path) is None


def test_a_damaged_overlay_is_no_ground_to_build_on(
    manifest: Manifest, rows: Callable[..., Any], tmp_path: Path
) -> None:
    raw = rows(manifest.layout("user"), 1, 0)
    point_to(tmp_path, write_overlay(tmp_path, manifest, None, {"user": NewRows(["a"], raw)}, created_s=1).pointer)
    (tmp_path / "1" / "users" / "rows.bin").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"users/rows\.bin: 0 bytes"):
        current_overlay(tmp_path, manifest)


def test_the_lock_is_a_file_that_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS gives no exclusive lock on a descriptor that only reads, and none on a folder."""
    lock, locked = fcntl.flock, []

    def keep(descriptor: int, operation: int) -> None:
        locked.append((os.readlink(f"/proc/self/fd/{descriptor}"), fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", keep)
    with alone_with_overlays(tmp_path / "deltas"):
        assert locked == [(str(tmp_path / "deltas" / ".lock"), os.O_RDWR)]


def hold(folder: Path, seconds: float, ready: Any) -> None:
    with alone_with_overlays(folder):
        ready.set()
        time.sleep(seconds)


def test_the_second_process_waits_for_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=hold, args=(tmp_path / "new" / "folder", 600, ready))
    first.start()
    assert ready.wait(60)
    waiting = context.Event()
    second = context.Process(target=hold, args=(tmp_path / "new" / "folder", 0, waiting))
    second.start()
    assert not waiting.wait(1)
    first.kill()  # the system gives its lock back
    assert waiting.wait(60)
    for process in (first, second):
        process.join()
