"""Overlays in front of a local table, read back from what the writer wrote and from bytes written by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.codec import SIDES, Side
from ranktower.embedding_store.local import LocalStore
from ranktower.embedding_store.overlay import Overlay, OverlayPointer, deltas_dir, open_overlay, read_overlay_pointer
from ranktower.embedding_store.overlay_writer import NewRows, point_to, write_overlay
from ranktower.embedding_store.slots import build_slots
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ReleaseError
from ranktower.release import Manifest

MakeArrays = Callable[..., dict[str, NDArray[np.float32]]]
CREATED_S = 1_800_000_000
KEYS = {"integers": [30, -1, 200, 7], "strings": ["b", "aa", "é", "7"]}


class Release:
    """A release with the ids of ``KEYS`` on both sides; row k of seed s has the bytes of ``raw(side, s)[k]``."""

    def __init__(self, folder: Path, manifest: Manifest, ids: Sequence[Any], arrays: MakeArrays) -> None:
        self.folder, self.manifest, self.ids, self._arrays = folder, manifest, ids, arrays
        for side in SIDES:
            layout = manifest.layout(side)
            rows = arrays(layout, 4, 0)
            write_table(folder / f"{side}s", ids, lambda at, r=rows: {n: v[at] for n, v in r.items()}, layout)
        self.deltas = deltas_dir(folder)
        self.deltas.mkdir(parents=True)

    def raw(self, side: Side, seed: int) -> NDArray[np.uint8]:
        layout = self.manifest.layout(side)
        return layout.encode(self._arrays(layout, 4, seed))

    def overlay(self, ids: Sequence[str], *, seed: int = 1, before: Overlay | None = None, at: int = 0) -> Overlay:
        """Rows of a seed for items under ``ids``, in front of those of ``before``."""
        new: dict[Side, NewRows] = {"item": NewRows(ids, self.raw("item", seed)[: len(ids)])}
        overlay = write_overlay(self.deltas, self.manifest, before, new, created_s=CREATED_S + at)
        point_to(self.deltas, overlay.pointer)
        return overlay

    def store(self, overlay: Overlay | None = None) -> LocalStore:
        store = LocalStore(self.folder, self.manifest)
        store.use_overlay(overlay)
        return store


@pytest.fixture(params=KEYS)
def release(
    request: pytest.FixtureRequest, make_manifest: Callable[..., Manifest], tmp_path: Path, random_arrays: MakeArrays
) -> Release:
    files = {f"{side}s/rows.bin": {"sha256": "0" * 64, "size_bytes": 1} for side in SIDES}
    manifest = make_manifest(num_users=4, num_items=4, files=files)
    return Release(tmp_path / "demo" / manifest.release, manifest, KEYS[request.param], random_arrays)


def test_a_row_of_the_overlay_wins(release: Release) -> None:
    changed, kept = str(release.ids[1]), [release.ids[k] for k in (0, 2, 3)]
    store = release.store(release.overlay([changed, "brand-new", "12345678901234567890"]))
    old, new = release.raw("item", 0), release.raw("item", 1)
    asked = ["brand-new", kept[1], "nobody", changed, kept[0], "12345678901234567890", "brand-new"]
    expected = np.stack([new[1], old[2], new[0], old[0], new[2], new[1]])
    located, found = store.locate("item", asked), store.find("item", asked)
    for rows in (located, found):
        assert rows.present.tolist() == [True, True, False, True, True, True, True]
        np.testing.assert_array_equal(rows.whole(), expected)
        np.testing.assert_array_equal(rows.embeddings(), expected[:, : release.manifest.layout("item").embedding_size])
        np.testing.assert_array_equal(rows.whole(np.array([3, 0])), expected[[3, 0]])
        assert (len(rows), rows.num_rejected) == (6, 0)
    for one, row in zip(asked, [*expected[:2], None, *expected[2:]], strict=True):
        alone = store.find("item", [one])
        assert alone.present.tolist() == [row is not None]
        np.testing.assert_array_equal(alone.raw, [row] if row is not None else alone.raw[:0])


def test_without_rows_of_a_side_or_of_the_request_nothing_changes(release: Release) -> None:
    plain, store = release.store(), release.store(release.overlay(["brand-new"]))
    for side in SIDES:
        ours, other = (one.locate(side, [*release.ids, "nobody"]) for one in (store, plain))
        np.testing.assert_array_equal(ours.whole(), other.whole())
        assert ours.present.tolist() == other.present.tolist()
    store.use_overlay(None)
    assert not store.find("item", ["brand-new"]).present.any()


def test_an_overlay_over_nothing(make_manifest: Callable[..., Manifest], release: Release) -> None:
    """A side kept only in Redis has no table; one without users has an empty one."""
    overlay = release.overlay(["a", "b"])
    bare = LocalStore(release.folder, make_manifest())
    bare.use_overlay(overlay)
    assert bare.find("item", ["b", "c"]).present.tolist() == [True, False]
    assert not bare.find("user", ["b", "c"]).present.any()
    assert overlay.cover("item", None) is overlay.tables["item"]


def test_the_times_of_rows(release: Release) -> None:
    first = release.overlay(["brand-new", "later"], at=5)
    second = release.overlay(["later", str(release.ids[0])], seed=2, before=first, at=9)
    times_s = release.store(second).find_times("item", [*release.ids, "brand-new", "later", "nobody"])
    created_s = release.manifest.created.timestamp()
    expected = [CREATED_S + 9, created_s, created_s, created_s, CREATED_S + 5, CREATED_S + 9, np.nan]
    np.testing.assert_array_equal(times_s, expected)
    np.testing.assert_array_equal(release.store().find_times("item", ["brand-new", 7]), [np.nan, created_s])


async def test_a_closed_store_lets_go_of_the_overlay(release: Release) -> None:
    store = release.store(release.overlay(["brand-new"]))
    assert (await store.fetch("item", ["brand-new"], timeout_s=0)).present.all()
    assert (await store.fetch_times("item", ["brand-new"], timeout_s=0)).tolist() == [CREATED_S]
    await store.close()
    assert not store.find("item", ["brand-new"]).present.any()


def test_an_overlay_written_by_hand(release: Release) -> None:
    """docs/formats.md, written with NumPy alone but for the hash table."""
    folder = release.deltas / "1" / "items"
    folder.mkdir(parents=True)
    rows = release.raw("item", 1)[:2]
    keys = np.array([b"brand-new", b"zzz"], dtype="S16")
    rows.tofile(folder / "rows.bin")
    np.save(folder / "ids.npy", keys)
    np.save(folder / "slots.npy", build_slots(keys))
    np.save(folder / "times.npy", np.array([CREATED_S, CREATED_S + 1], dtype="<i8"))
    files = {
        f"items/{path.name}": {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size_bytes": path.stat().st_size,
        }
        for path in folder.iterdir()
    }
    content = {"release": release.manifest.release, "sequence": 1, "created_s": CREATED_S + 1, "num_users": 0}
    (release.deltas / "current").write_text(json.dumps(content | {"num_items": 2, "files": files}))
    pointer = read_overlay_pointer(release.deltas)
    assert pointer is not None
    store = release.store(open_overlay(release.deltas, pointer, release.manifest))
    np.testing.assert_array_equal(store.find("item", ["zzz", "brand-new"]).raw, rows[::-1])
    assert store.find_times("item", ["zzz", "brand-new"]).tolist() == [CREATED_S + 1, CREATED_S]


def test_no_overlay(release: Release) -> None:
    assert read_overlay_pointer(release.deltas) is None
    assert release.deltas == release.folder.parent / ".deltas" / release.manifest.release


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("half a line", "not an overlay's pointer: : Invalid JSON"),
        ("{}", "not an overlay's pointer: release: Field required"),
        ('{"release": "r", "sequence": 0}', "not an overlay's pointer: sequence: Input should be greater than"),
    ],
)
def test_a_broken_pointer(content: str, text: str, release: Release) -> None:
    (release.deltas / "current").write_text(content)
    with pytest.raises(ReleaseError) as caught:
        read_overlay_pointer(release.deltas)
    assert text in str(caught.value)
    assert str(release.deltas / "current") in str(caught.value)


@pytest.mark.parametrize("name", ["ids.npy", "rows.bin", "slots.npy", "times.npy"])
def test_every_byte_is_verified(name: str, release: Release) -> None:
    pointer = release.overlay(["brand-new", "other"]).pointer
    path = release.deltas / "1" / "items" / name
    good = path.read_bytes()
    for damaged in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ReleaseError, match=rf"items/{name}: {len(damaged)} bytes, SHA-256 .*; current says"):
            open_overlay(release.deltas, pointer, release.manifest)
    path.unlink()
    with pytest.raises(ReleaseError, match=rf"items/{name}: cannot be read: No such file"):
        open_overlay(release.deltas, pointer, release.manifest)


def resealed(release: Release, pointer: OverlayPointer, **changes: Any) -> OverlayPointer:
    """The pointer to the files as they are now."""
    folder = release.deltas / str(pointer.sequence)
    files = {
        path: {
            "sha256": hashlib.sha256((folder / path).read_bytes()).hexdigest(),
            "size_bytes": (folder / path).stat().st_size,
        }
        for path in pointer.files
    }
    return OverlayPointer.model_validate(pointer.model_dump() | {"files": files} | changes)


def test_a_sealed_overlay_that_is_none(release: Release) -> None:
    pointer = release.overlay(["brand-new", "other"]).pointer
    folder = release.deltas / "1" / "items"
    other = "20261123T100001Z-0123abcd"
    wrong = {
        "not of an overlay of release": [
            pointer.model_copy(update={"release": other}),
            pointer.model_copy(update={"num_users": 1}),
            resealed(release, pointer, files={}),
        ],
        "2 items, current says 3": [resealed(release, pointer, num_items=3)],
    }
    for text, pointers in wrong.items():
        for one in pointers:
            with pytest.raises(ReleaseError, match=text):
                open_overlay(release.deltas, one, release.manifest)
    for times in (np.zeros(3, dtype="<i8"), np.zeros(2, dtype="<i4"), np.zeros(2)):
        np.save(folder / "times.npy", times)
        with pytest.raises(ReleaseError, match=r"times\.npy: .* expected <i8 of shape \(2,\)"):
            open_overlay(release.deltas, resealed(release, pointer), release.manifest)
    np.save(folder / "times.npy", np.array([1, None]), allow_pickle=True)
    with pytest.raises(ReleaseError, match=r"times\.npy: cannot be read: Object arrays cannot be loaded"):
        open_overlay(release.deltas, resealed(release, pointer), release.manifest)
    np.save(folder / "times.npy", np.zeros(2, dtype="<i8"))
    rows = np.fromfile(folder / "rows.bin", dtype=np.uint8)
    rows[0] ^= 1
    rows.tofile(folder / "rows.bin")
    with pytest.raises(ReleaseError, match="holds rows of another release"):
        open_overlay(release.deltas, resealed(release, pointer), release.manifest)
