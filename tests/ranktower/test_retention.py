"""Which releases go, and that one of them is never half there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ranktower.retention
from ranktower.errors import ConfigError, ReleaseError
from ranktower.pointer import Pointer, Variation
from ranktower.registry import Registry, hold_release
from ranktower.retention import Removed, collect

RELEASES = tuple(f"202611{day:02d}T100000Z-0123abcd" for day in range(1, 9))
Publish = Callable[..., object]


@pytest.fixture
def registry(tmp_path: Path, publish_small: Publish) -> Registry:
    """Eight releases, none of them promoted."""
    for release in RELEASES:
        publish_small(tmp_path, release)
    return Registry(tmp_path)


def names(removed: tuple[Removed, ...]) -> list[str]:
    return [one.name for one in removed]


def test_the_latest_stay(registry: Registry) -> None:
    size = sum(path.stat().st_size for path in registry.release_dir("demo", RELEASES[0]).rglob("*") if path.is_file())
    collected = collect(registry, "demo", keep=3)
    assert collected.removed == tuple(Removed(release, size) for release in RELEASES[:5])
    assert collected.held == ()
    assert registry.releases("demo") == list(RELEASES[5:])
    assert list((registry.root / "demo" / ".trash").iterdir()) == []
    assert collect(registry, "demo", keep=3).removed == ()


def test_what_the_pointers_name_stays_and_the_rest_is_forgotten(registry: Registry, publish_small: Publish) -> None:
    for release in RELEASES[:4]:
        registry.promote("demo", release)
    registry.vary("demo", "canary", Variation(release=RELEASES[4], share=0.1))
    publish_small(registry.root, RELEASES[0], model="other")
    registry.promote("other", RELEASES[0])
    registry.vary("other", "shadow", Variation(release=RELEASES[5], share=0.1, model="demo"))
    collected = collect(registry, "demo", keep=1)
    assert names(collected.removed) == [RELEASES[0], RELEASES[1], RELEASES[6]]
    assert registry.releases("demo") == [RELEASES[index] for index in (2, 3, 4, 5, 7)]
    assert registry.current("demo") == Pointer(
        release=RELEASES[3], previous=(RELEASES[2],), canary=Variation(release=RELEASES[4], share=0.1)
    )
    assert registry.releases("other") == [RELEASES[0]]
    assert registry.rollback("demo").release == RELEASES[2]


def test_what_a_process_holds_stays_until_it_lets_go(registry: Registry) -> None:
    code = f"""
import sys
from pathlib import Path
from ranktower.registry import hold_release
held = hold_release(Path({str(registry.release_dir("demo", RELEASES[1]))!r}))
print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        collected = collect(registry, "demo", keep=6)
        assert (names(collected.removed), collected.held) == ([RELEASES[0]], (RELEASES[1],))
        holder.kill()  # however it ends
    assert names(collect(registry, "demo", keep=6).removed) == [RELEASES[1]]


def test_a_dry_run_changes_nothing(registry: Registry) -> None:
    for release in RELEASES[:2]:
        registry.promote("demo", release)
    (registry.root / "demo" / ".deltas" / RELEASES[2]).mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in registry.root.rglob("*") if path.name != ".gc.lock"}
    told = collect(registry, "demo", keep=2, dry_run=True)
    after = {path: path.stat().st_mtime_ns for path in registry.root.rglob("*") if path.name != ".gc.lock"}
    del before[registry.root / "demo"], after[registry.root / "demo"]  # .gc.lock is new in it
    assert after == before
    assert names(told.removed) == [RELEASES[2], f"{RELEASES[2]}.deltas", *RELEASES[3:6]]
    assert told == collect(registry, "demo", keep=2)


def test_a_service_opens_a_release_during_a_dry_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    size, opened = ranktower.retention._size_bytes, []

    def open_it(folder: Path) -> int:
        with hold_release(folder):
            opened.append(folder.name)
        return size(folder)

    monkeypatch.setattr(ranktower.retention, "_size_bytes", open_it)
    collected = collect(registry, "demo", keep=6, dry_run=True)
    assert names(collected.removed) == opened == list(RELEASES[:2])


def test_where_nothing_can_be_held_only_keep_protects(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = ranktower.retention.fcntl.flock

    def fail_on_manifests(file: Any, operation: int) -> None:
        if not isinstance(file, int):  # the model's own locks are descriptors
            raise OSError(errno.ENOLCK, "No locks available")
        lock(file, operation)

    monkeypatch.setattr(ranktower.retention.fcntl, "flock", fail_on_manifests)
    with hold_release(registry.release_dir("demo", RELEASES[0])):
        collected = collect(registry, "demo", keep=7)
    assert (names(collected.removed), collected.held) == ([RELEASES[0]], ())


def test_others_may_name_what_stays(registry: Registry) -> None:
    assert names(collect(registry, "demo", keep=6, also={RELEASES[0]}).removed) == [RELEASES[1]]


def test_rows_computed_later_go_with_their_release(registry: Registry) -> None:
    deltas = registry.root / "demo" / ".deltas"
    for release in RELEASES[-3:]:
        (deltas / release / "1" / "items").mkdir(parents=True)
        (deltas / release / "1" / "items" / "rows.bin").write_bytes(b"delta")
    (deltas / "notes").mkdir()
    collected = collect(registry, "demo", keep=2)
    assert Removed(f"{RELEASES[-3]}.deltas", 5) in collected.removed
    assert sorted(path.name for path in deltas.iterdir()) == [*RELEASES[-2:], "notes"]


GC = """
import sys
from pathlib import Path
from ranktower.registry import Registry
from ranktower.retention import collect

collect(Registry(Path(sys.argv[1])), "demo", keep=1)
"""


def test_a_killed_run_is_finished_by_the_next(
    tmp_path: Path, publish_small: Publish, kill_when: Callable[..., None]
) -> None:
    registry = Registry(tmp_path)
    for release in RELEASES[:2]:
        publish_small(tmp_path, release)
    folder, trash = registry.release_dir("demo", RELEASES[0]), tmp_path / "demo" / ".trash"
    for number in range(20_000):  # to be killed in the middle of
        (folder / f"{number}").touch()
    kill_when([sys.executable, "-c", GC, str(tmp_path)], (trash / RELEASES[0]).exists)
    assert registry.releases("demo") == [RELEASES[1]]  # gone at once, and not bit by bit
    left = list((trash / RELEASES[0]).rglob("*"))
    assert left
    assert names(collect(registry, "demo", keep=1).removed) == [RELEASES[0]]
    assert list(trash.iterdir()) == []


def test_a_file_that_cannot_be_removed_is_left_to_the_next_run(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(ranktower.retention.shutil, "rmtree", fail)
    with pytest.raises(PermissionError):
        collect(registry, "demo", keep=7)
    monkeypatch.undo()
    assert names(collect(registry, "demo", keep=7).removed) == [RELEASES[0]]


def test_a_release_that_comes_back_while_it_lies_in_the_trash(registry: Registry, publish_small: Publish) -> None:
    trash = registry.root / "demo" / ".trash"
    trash.mkdir()
    os.rename(registry.release_dir("demo", RELEASES[0]), trash / RELEASES[0])
    publish_small(registry.root, RELEASES[0])
    assert names(collect(registry, "demo", keep=7).removed) == [RELEASES[0], RELEASES[0]]


def test_promoted_after_the_first_look_it_stays(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    named, looks = Registry.named, []

    def promote_after_the_first(self: Registry, model: str) -> set[str]:
        found = named(self, model)
        looks.append(found)
        if len(looks) == 1:
            Registry(registry.root).promote("demo", RELEASES[0])
        return found

    monkeypatch.setattr(Registry, "named", promote_after_the_first)
    collected = collect(registry, "demo", keep=6)
    assert names(collected.removed) == [RELEASES[1]]
    assert RELEASES[0] in registry.releases("demo")


def test_a_pointer_that_cannot_be_read_stops_everything(registry: Registry) -> None:
    (registry.root / "other").mkdir()
    (registry.root / "other" / "current").write_text("nonsense")
    with pytest.raises(ReleaseError, match="other/current: not a pointer"):
        collect(registry, "demo", keep=1)
    assert registry.releases("demo") == list(RELEASES)


def test_nothing_to_do(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="--keep must be at least 1, got 0"):
        collect(registry, "demo", keep=0)
    assert collect(registry, "nobody", keep=1).removed == ()
    assert not (registry.root / "nobody").exists()
    assert collect(registry, "demo", keep=8).removed == ()
