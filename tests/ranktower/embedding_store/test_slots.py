"""The hash table in ``slots.npy``: read as docs/formats.md says, filled with hostile keys, damaged, and missing."""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.slots import FEW, SlotTable, build_slots, hash_words, key_words
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ReleaseError

Arrays = dict[str, NDArray[np.float32]]
LAYOUT = RowLayout(heads=2, width=3, attention_width=4, dtype="float16", tag=b"release1")
MULTIPLIER, TWO_64 = 0x9E3779B97F4A7C15, 1 << 64
INVERSE = pow(MULTIPLIER, -1, TWO_64)
MILLION = np.arange(1_000_000, dtype=np.int64)
KEY_SETS = {
    "one": np.array([-7]),
    "sequential": MILLION,
    "negative": -MILLION[::-1],
    "differ in the upper bits only": MILLION[:500_000] << 40,
    "multiples of 2^32": MILLION[:100_000] << 32,
    "two numbers in one": (MILLION[:700, None] << 32 | MILLION[:700]).ravel(),
    "the ends of int64": np.array([-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 2, 2**63 - 1]),
    "short strings": np.array([b"%d" % number for number in range(20_000)], dtype="S8"),
    "differ in the last byte of each word": np.array(
        [b"product%cnumber-%c" % (first, last) for first in range(32, 127) for last in range(32, 127)], dtype="S16"
    ),
    "256 bytes": np.array([b"x" * 252 + b"%04d" % number for number in range(3000)], dtype="S256"),
}


def fold(number: int) -> int:
    """Its own inverse: the upper half is not changed, so the second time takes away what the first has put in."""
    return number ^ number >> 32


def find(keys: NDArray[Any], wanted: NDArray[Any], slots: NDArray[np.uint64] | None = None) -> list[int | None]:
    """Row of each wanted key, None where there is none."""
    table = SlotTable(keys, build_slots(keys) if slots is None else slots)
    words = key_words(np.ascontiguousarray(wanted, dtype=keys.dtype))
    if len(words) <= FEW:  # so few would not come to the slots
        words = np.tile(words, (FEW + 1, 1))
    rows, found = table.find(words)
    answers = [row if there else None for row, there in zip(rows.tolist(), found.tolist(), strict=True)]
    return answers[: len(wanted)]


def integers_of_hashes(hashes: list[int]) -> NDArray[np.int64]:
    """The int64 keys with those hashes, by running the definition backwards; ascending."""
    numbers = [fold(fold(one * INVERSE % TWO_64) * INVERSE % TWO_64) for one in hashes]
    return np.sort(np.array(numbers, dtype=np.uint64).view(np.int64))


def read_row(folder: Path, one: str | int) -> int | None:
    """Row of an id, in plain Python from the page's words alone."""

    def content(name: str) -> tuple[str, int, bytes]:
        raw = (folder / name).read_bytes()
        (length,) = struct.unpack_from("<H", raw, 8)
        header = ast.literal_eval(raw[10 : 10 + length].decode("latin-1").strip())
        assert raw[:8] == b"\x93NUMPY\x01\x00"
        assert len(header["shape"]) == 1
        return header["descr"], header["shape"][0], raw[10 + length :]

    key_type, num_rows, keys = content("ids.npy")
    slot_type, num_slots, slots = content("slots.npy")
    width = 8 if key_type == "<i8" else int(key_type.removeprefix("|S"))
    assert width % 8 == 0
    assert (slot_type, len(slots)) == ("<u8", 8 * num_slots)
    assert num_slots > 4 * num_rows
    key = struct.pack("<q", int(one)) if key_type == "<i8" else str(one).encode().ljust(width, b"\0")
    if len(key) > width:
        return None
    words = struct.unpack(f"<{width // 8}Q", key)
    total = sum(fold(word) * pow(MULTIPLIER, place + 1) for place, word in enumerate(words)) % TWO_64
    hashed = fold(total) * MULTIPLIER % TWO_64
    place = (hashed >> 32) * 4 * num_rows >> 32
    while slot := int.from_bytes(slots[8 * place : 8 * place + 8], "little"):
        tag, row = slot >> 32, slot % 2**32 - 1
        if tag == hashed % 2**32 and keys[row * width : (row + 1) * width] == key:
            return row
        place += 1
    return None


@pytest.mark.parametrize(
    ("ids", "others"),
    [
        (list(range(-500, 500)), [500, -501, 2**62]),
        ([f"item-{number}" for number in range(1000)], ["item-", "item-1000", "item-0001"]),
        ([17], [18]),
    ],
)
def test_a_reader_without_project_code_finds_every_id(
    ids: list[Any], others: list[Any], tmp_path: Path, random_arrays: Callable[..., Arrays]
) -> None:
    arrays = random_arrays(LAYOUT, len(ids))
    write_table(tmp_path, ids, lambda rows: {array: values[rows] for array, values in arrays.items()}, LAYOUT)
    stored = [one.decode() if isinstance(one, bytes) else one for one in np.load(tmp_path / "ids.npy").tolist()]
    assert [read_row(tmp_path, one) for one in stored] == list(range(len(ids)))
    assert [read_row(tmp_path, one) for one in others] == [None] * len(others)
    assert LocalTable(tmp_path, LAYOUT).fetch([*stored, *others]).present.sum() == len(ids)


@pytest.mark.parametrize("keys", KEY_SETS.values(), ids=KEY_SETS)
def test_every_key_is_found_and_no_other(keys: NDArray[Any]) -> None:
    keys = np.sort(keys)
    stored, left_out = keys[::2].copy(), keys[1::2].copy()
    assert find(stored, stored) == list(range(len(stored)))
    assert find(stored, left_out) == [None] * len(left_out)


@pytest.mark.parametrize("keys", KEY_SETS.values(), ids=KEY_SETS)
def test_keys_of_any_pattern_stand_close_to_home(keys: NDArray[Any]) -> None:
    """With one slot in four taken, a random hash leaves 2 keys in 10,000 outside a window of four."""
    slots = build_slots(np.sort(keys))
    hashes = hash_words(key_words(np.sort(keys)))
    places = np.flatnonzero(slots)
    rows = (slots[places] & np.uint64(2**32 - 1)).astype(np.int64) - 1
    homes = (hashes[rows] >> np.uint64(32)) * np.uint64(4 * len(keys)) >> np.uint64(32)
    distances = places - homes.astype(np.int64)
    assert sorted(rows.tolist()) == list(range(len(keys)))
    assert distances.min() >= 0
    assert (distances >= 4).mean() < 0.002
    taken = np.concatenate([[0], np.cumsum(slots != 0)])
    assert (taken[places] - taken[places - distances] == distances).all()  # no empty slot on the way


@given(st.data())
def test_lookup_is_that_of_a_dictionary(data: st.DataObject) -> None:
    numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9), st.integers(0, 9).map(lambda n: n << 56))
    texts = st.binary(min_size=1, max_size=20).map(lambda raw: raw.replace(b"\0", b"0"))
    keys, dtype = data.draw(st.sampled_from([(numbers, "i8"), (texts, "S24")]))
    stored = np.unique(np.array(data.draw(st.lists(keys, min_size=1, max_size=60)), dtype=dtype))
    wanted = np.concatenate([np.array(data.draw(st.lists(keys, max_size=30)), dtype=dtype), stored])
    expected = {key: row for row, key in enumerate(stored.tolist())}
    assert find(stored, wanted) == [expected.get(key) for key in wanted.tolist()]


@pytest.mark.parametrize("count", [1, FEW - 1, FEW, FEW + 1])
def test_a_few_keys_and_many_are_found_alike(count: int) -> None:
    keys = MILLION[:1000] * 3
    wanted = np.arange(0, count, dtype=np.int64) * 2
    rows, found = SlotTable(keys, build_slots(keys)).find(key_words(wanted))
    assert found.tolist() == [one % 3 == 0 for one in wanted.tolist()]
    assert rows[found].tolist() == [one // 3 for one in wanted.tolist() if one % 3 == 0]


@pytest.mark.parametrize("home", [0, 1 << 31, (1 << 32) - 1])
def test_keys_that_all_have_one_home(home: int) -> None:
    """The last home as well: the run then goes on behind all homes."""
    keys = integers_of_hashes([home << 32 | tag for tag in range(2000)])
    assert set((hash_words(key_words(keys)) >> np.uint64(32)).tolist()) == {home}
    stored, left_out = keys[::2].copy(), keys[1::2].copy()
    assert build_slots(stored)[-1] == 0
    assert find(stored, np.concatenate([left_out, stored])) == [None] * 1000 + list(range(1000))


def test_keys_that_all_have_one_hash() -> None:
    """Home and tag are the same, so that the keys themselves have to tell."""
    seconds = [int.from_bytes(b"%08d" % number, "little") for number in range(600)]
    squared = MULTIPLIER * MULTIPLIER
    firsts = [fold((123456789 - fold(second) * squared) * INVERSE % TWO_64) for second in seconds]
    words = np.array([firsts, seconds], dtype=np.uint64).T
    assert len(set(hash_words(words).tolist())) == 1
    keys = np.sort(np.ascontiguousarray(words).view("S16").reshape(-1))
    assert find(keys[::2].copy(), keys) == [row // 2 if row % 2 == 0 else None for row in range(600)]


def test_the_same_keys_give_the_same_slots() -> None:
    assert build_slots(MILLION).tobytes() == build_slots(MILLION.copy()).tobytes()
    np.testing.assert_array_equal(build_slots(np.zeros(0, dtype=np.int64)), [0])


@pytest.mark.parametrize("keys", [MILLION[:5000] * 7, np.sort(np.char.add(b"id-", MILLION[:5000].astype("S13")))])
@pytest.mark.parametrize("damage", ["zeros", "ones", "noise", "shifted", "other rows", "rows out of range"])
def test_damaged_slots_never_give_a_wrong_row(keys: NDArray[Any], damage: str) -> None:
    sound = build_slots(keys)
    low = np.uint64(2**32 - 1)
    damaged = {
        "zeros": np.zeros_like(sound),
        "ones": np.full_like(sound, 2**64 - 1),
        "noise": np.random.default_rng(0).integers(0, 2**64, len(sound), dtype=np.uint64),
        "shifted": np.roll(sound, 3),
        "other rows": sound & ~low | np.random.default_rng(0).permutation(sound & low),
        "rows out of range": sound | low,
    }[damage]
    rows = find(keys, keys, damaged)
    assert all(row in (None, expected) for expected, row in enumerate(rows))


@pytest.fixture
def folder(tmp_path: Path, random_arrays: Callable[..., Arrays]) -> Path:
    arrays = random_arrays(LAYOUT, 3)
    write_table(tmp_path, [1, 2, 3], lambda rows: {array: values[rows] for array, values in arrays.items()}, LAYOUT)
    return tmp_path


def test_a_table_without_slots_says_what_to_do(folder: Path) -> None:
    (folder / "slots.npy").unlink()
    with pytest.raises(ReleaseError) as caught:
        LocalTable(folder, LAYOUT)
    text = f"{folder}/slots.npy: missing; the table is of an older version, run ranktower precompute again"
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        (np.zeros(13, dtype="<i8"), "slots.npy: dtype <i8, 1 axes; expected uint64 and one axis"),
        (np.zeros((13, 1), dtype="<u8"), "slots.npy: dtype <u8, 2 axes; expected uint64 and one axis"),
        (np.zeros(12, dtype="<u8"), "slots.npy: 12 slots; 3 ids need more than 12"),
    ],
)
def test_slots_of_another_shape(slots: NDArray[Any], text: str, folder: Path) -> None:
    np.save(folder / "slots.npy", slots)
    with pytest.raises(ReleaseError) as caught:
        LocalTable(folder, LAYOUT)
    assert str(caught.value) == f"{folder}/{text}"


def test_slots_that_are_no_numpy_file(folder: Path) -> None:
    (folder / "slots.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(ReleaseError, match=r"slots\.npy: not a NumPy file: "):
        LocalTable(folder, LAYOUT)


def test_keys_that_are_not_whole_words(folder: Path) -> None:
    np.save(folder / "ids.npy", np.array([b"1", b"2", b"3"], dtype="S5"))
    with pytest.raises(ReleaseError, match=r"ids\.npy: keys of 5 bytes; expected a multiple of 8$"):
        LocalTable(folder, LAYOUT)
