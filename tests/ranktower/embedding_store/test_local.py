"""Local tables and the store over them, read back from what the writer wrote."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.codec import ARRAYS, RowLayout
from ranktower.embedding_store.local import LocalStore, LocalTable, read_fallback_user, write_fallback_user
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ReleaseError
from ranktower.release import Manifest

Arrays = dict[str, NDArray[np.float32]]
MakeArrays = Callable[..., Arrays]
LAYOUT = RowLayout(heads=2, width=3, attention_width=4, dtype="float16", tag=b"release1")


def write(folder: Path, ids: list[Any], arrays: Arrays, layout: RowLayout = LAYOUT) -> None:
    write_table(
        folder, ids, lambda rows: {array: values[rows] for array, values in arrays.items()}, layout, batch_size=3
    )


@pytest.mark.parametrize("ids", [[30, -1, 20, 7], ["item-c", "é", "item-a", "b"], ["9", "10", 8, "7"]])
def test_fetch_gives_each_id_its_row(ids: list[Any], tmp_path: Path, random_arrays: MakeArrays) -> None:
    arrays = random_arrays(LAYOUT, 4)
    write(tmp_path, ids, arrays)
    table = LocalTable(tmp_path, LAYOUT)
    assert len(table) == 4
    found = table.fetch([ids[2], "nobody", ids[0], str(ids[3]), ids[2]])
    assert found.present.tolist() == [True, False, True, True, True]
    assert found.num_rejected == 0
    decoded = LAYOUT.decode(found.raw)
    for array in ARRAYS:
        np.testing.assert_array_equal(decoded[array], arrays[array][[2, 0, 3, 2]])


def test_a_row_of_another_release_is_rejected(tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [1, 2, 3], random_arrays(LAYOUT, 3))
    with (tmp_path / "rows.bin").open("r+b") as file:
        file.seek(LAYOUT.row_size + 7)  # the last byte of row 1's tag
        file.write(b"2")
    found = LocalTable(tmp_path, LAYOUT).fetch([3, 2, 99, 1])
    assert found.present.tolist() == [True, False, False, True]
    assert len(found.raw) == 2
    assert found.num_rejected == 1


@pytest.mark.parametrize(("ids", "npy_dtype"), [([30, -1, 200], "<i8"), (["b", "aa", "c"], "|S8")])
def test_a_reader_without_project_code_finds_a_row(
    ids: list[Any], npy_dtype: str, tmp_path: Path, random_arrays: MakeArrays
) -> None:
    arrays = random_arrays(LAYOUT, 3)
    write(tmp_path, ids, arrays)
    stored_ids = np.load(tmp_path / "ids.npy")
    assert stored_ids.dtype.str == npy_dtype
    assert sorted(stored_ids.tolist()) == stored_ids.tolist()
    row_size = 8 + 2 * 2 * (3 + 4 * 4)
    content = (tmp_path / "rows.bin").read_bytes()
    assert len(content) == 3 * row_size
    for number, one in enumerate(ids):
        row = stored_ids.tolist().index(one.encode() if isinstance(one, str) else one)
        tag, *values = struct.unpack_from("<8s38e", content, row * row_size)
        assert tag == b"release1"
        np.testing.assert_array_equal(values[:6], arrays["embedding"][number].ravel())
        np.testing.assert_array_equal(values[30:38], arrays["gate"][number].ravel())


def test_rows_and_ids_by_row_number(tmp_path: Path, random_arrays: MakeArrays) -> None:
    arrays = random_arrays(LAYOUT, 3)
    write(tmp_path, ["c", "a", "b"], arrays)
    table = LocalTable(tmp_path, LAYOUT)
    rows, present = table.find(["b", "x", "c"])
    assert rows.tolist() == [1, 2]
    assert present.tolist() == [True, False, True]
    assert table.ids_at(rows) == ["b", "c"]
    np.testing.assert_array_equal(LAYOUT.decode(table.rows_at(rows))["query"], arrays["query"][[2, 0]])


def test_batches_go_through_the_whole_table(tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [5, 3, 1, 2, 4], random_arrays(LAYOUT, 5))
    table = LocalTable(tmp_path, LAYOUT)
    batches = list(table.batches(2))
    assert [ids for ids, _ in batches] == [["1", "2"], ["3", "4"], ["5"]]
    np.testing.assert_array_equal(np.concatenate([raw for _, raw in batches]), table.fetch([1, 2, 3, 4, 5]).raw)
    assert [ids for ids, _ in table.batches(2, start=3)] == [["4", "5"]]


def test_an_empty_table(tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [], random_arrays(LAYOUT, 0))
    found = LocalTable(tmp_path, LAYOUT).fetch([1, "a"])
    assert found.raw.shape == (0, LAYOUT.row_size)
    assert found.present.tolist() == [False, False]


def test_opening_ten_million_rows_takes_no_time(tmp_path: Path) -> None:
    num_rows, layout = 10_000_000, RowLayout(4, 32, 32, "float16", b"release1")
    np.save(tmp_path / "ids.npy", np.arange(num_rows, dtype=np.int64))
    with (tmp_path / "rows.bin").open("wb") as file:
        file.truncate(num_rows * layout.row_size)  # sparse: 12 GiB long, empty on the disk
        file.seek((num_rows - 1) * layout.row_size)
        file.write(b"release1")
    write_sparse_slots(tmp_path, num_rows, [0, num_rows - 1])
    start = time.perf_counter()
    table = LocalTable(tmp_path, layout)
    found = table.fetch([num_rows - 1, 0, num_rows] * 4)  # more than the few that are found without the slots
    elapsed_s = time.perf_counter() - start
    assert found.present.tolist() == [True, False, False] * 4
    assert found.num_rejected == 4  # row 0 is a hole: zeros, and no tag
    assert elapsed_s < 0.5


def write_sparse_slots(folder: Path, num_rows: int, rows: list[int]) -> None:
    """``slots.npy`` of ids equal to their row numbers, as docs/formats.md has it, with the slots of a few rows only."""
    shape = (4 * num_rows + 1,)
    slots = np.lib.format.open_memmap(folder / "slots.npy", mode="w+", dtype="<u8", shape=shape, version=(1, 0))
    for row in rows:
        folded = (row ^ row >> 32) * 0x9E3779B97F4A7C15 % 2**64
        hashed = (folded ^ folded >> 32) * 0x9E3779B97F4A7C15 % 2**64
        home = (hashed >> 32) * 4 * num_rows >> 32
        slots[home] = (hashed % 2**32) << 32 | row + 1
    slots.flush()


def test_rows_cannot_be_changed_through_the_mapping(tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [1, 2], random_arrays(LAYOUT, 2))
    table = LocalTable(tmp_path, LAYOUT)
    found = table.fetch([1, 2])
    found.raw[:] = 0  # a copy, the caller's own
    assert LAYOUT.valid(table.fetch([1, 2]).raw).all()
    assert not table.fetch([1]).raw.flags.writeable  # a single row is the mapping itself


@pytest.mark.parametrize("ids", [[30, -1, 20, 7], ["item-c", "é", "item-a", "30"], ["9", "10", 8, "7"]])
def test_one_id_is_found_as_among_others(ids: list[Any], tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, ids, random_arrays(LAYOUT, 4))
    with (tmp_path / "rows.bin").open("r+b") as file:
        file.write(b"x")  # row 0 is of no release
    table = LocalTable(tmp_path, LAYOUT)
    odd = ["", "a\0", "x" * 257, "030", "+30", " 30", "30.0", True, None, 2**63, -(2**63), 1.0, "\ud800", "nobody"]
    for one in [*ids, *map(str, ids), *odd]:
        alone, among = table.fetch([one]), table.fetch([one, "nobody"])
        assert alone.present.tolist() == among.present.tolist()[:1]
        assert alone.num_rejected == among.num_rejected
        np.testing.assert_array_equal(alone.raw, among.raw)
    assert sum(table.fetch([one]).num_rejected for one in ids) == 1


def test_arrays_outlive_the_table_and_its_files(tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [1, 2], random_arrays(LAYOUT, 2))
    table = LocalTable(tmp_path, LAYOUT)
    before = table.fetch([2]).raw
    for path in list(tmp_path.iterdir()):
        path.unlink()  # as when an old release is removed under a service that still holds it
    np.testing.assert_array_equal(table.fetch([2]).raw, before)
    del table
    assert LAYOUT.valid(before).all()


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("rows.bin", b"x" * 100, "rows.bin: 100 bytes are not whole rows of 84 bytes"),
        ("rows.bin", b"x" * 84, "3 ids in ids.npy, 1 rows in rows.bin"),
        ("rows.bin", None, "rows.bin: cannot be read: No such file or directory"),
        ("ids.npy", None, "ids.npy: cannot be read: No such file or directory"),
        ("ids.npy", b"not numpy at all", "ids.npy: not a NumPy file: "),
        ("ids.npy", b"", "ids.npy: not a NumPy file: "),
        ("ids.npy", b"PK\x03\x04 a zip archive", "ids.npy: not a NumPy file: "),
        (
            "ids.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (3,)}",
            "not a NumPy file: ",
        ),
    ],
)
def test_a_damaged_table(
    file: str, content: bytes | None, text: str, tmp_path: Path, random_arrays: MakeArrays
) -> None:
    write(tmp_path, [1, 2, 3], random_arrays(LAYOUT, 3))
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ReleaseError) as caught:
        LocalTable(tmp_path, LAYOUT)
    assert text in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("keys", [np.zeros(3, dtype="<i4"), np.zeros((3, 1), dtype="<i8"), np.array(["a", "b", "c"])])
def test_ids_of_another_type(keys: NDArray[Any], tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [1, 2, 3], random_arrays(LAYOUT, 3))
    np.save(tmp_path / "ids.npy", keys)
    with pytest.raises(ReleaseError, match=r"expected int64 or S<width> and one axis$"):
        LocalTable(tmp_path, LAYOUT)


def test_pickled_ids_are_never_loaded(tmp_path: Path, random_arrays: MakeArrays) -> None:
    write(tmp_path, [1, 2, 3], random_arrays(LAYOUT, 3))
    np.save(tmp_path / "ids.npy", np.array([1, "2", None], dtype=object), allow_pickle=True)
    with pytest.raises(ReleaseError, match=r"not a NumPy file: .*Python objects in dtype"):
        LocalTable(tmp_path, LAYOUT)


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest]) -> Manifest:
    files = {"items/rows.bin": {"sha256": "0" * 64, "size_bytes": 1}}
    return make_manifest(num_users=0, num_items=2, files=files, fallback_user=True)


async def test_the_store_serves_the_sides_the_release_has(
    manifest: Manifest, tmp_path: Path, random_arrays: MakeArrays
) -> None:
    layout = manifest.layout("item")
    write(tmp_path / "items", ["a", "b"], random_arrays(layout, 2), layout)
    store = LocalStore(tmp_path, manifest)
    await store.ping()
    found = await store.fetch("item", ["b", "z"], timeout_s=0.0)
    assert found.present.tolist() == [True, False]
    assert found.raw.shape == (1, layout.row_size)
    nobody = await store.fetch("user", ["b", 1], timeout_s=0.0)
    assert nobody.present.tolist() == [False, False]
    assert nobody.raw.shape == (0, manifest.layout("user").row_size)
    await store.close()


def test_a_table_that_is_not_the_manifests(manifest: Manifest, tmp_path: Path, random_arrays: MakeArrays) -> None:
    layout = manifest.layout("item")
    write(tmp_path / "items", ["a", "b", "c"], random_arrays(layout, 3), layout)
    with pytest.raises(ReleaseError, match=r"items: 3 rows, manifest says 2$"):
        LocalStore(tmp_path, manifest)


def test_the_fallback_user(manifest: Manifest, tmp_path: Path, random_arrays: MakeArrays) -> None:
    layout = manifest.layout("user")
    arrays = random_arrays(layout, 1)
    write_fallback_user(tmp_path, layout, arrays)
    raw = read_fallback_user(tmp_path, manifest)
    assert raw is not None
    np.testing.assert_array_equal(layout.decode(raw)["embedding"], arrays["embedding"])
    assert (tmp_path / "fallback_user.bin").stat().st_size == layout.row_size
    with pytest.raises(ValueError, match=r"^arrays: 2 rows, the fallback user is one$"):
        write_fallback_user(tmp_path, layout, random_arrays(layout, 2))


def test_a_release_without_fallback_user(make_manifest: Callable[..., Manifest], tmp_path: Path) -> None:
    assert read_fallback_user(tmp_path, make_manifest()) is None


@pytest.mark.parametrize(("content", "text"), [(None, "cannot be read"), (b"x" * 9, "not a user row of release 2026")])
def test_a_broken_fallback_user(content: bytes | None, text: str, manifest: Manifest, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "fallback_user.bin").write_bytes(content)
    with pytest.raises(ReleaseError, match=text):
        read_fallback_user(tmp_path, manifest)
