"""Writing tables: order, duplicates, progress, and the same bytes after a SIGKILL."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.table_writer import TableWriter, write_table
from ranktower.errors import DataError, ReleaseError

Arrays = dict[str, NDArray[np.float32]]
LAYOUT = RowLayout(heads=2, width=3, attention_width=4, dtype="float16", tag=b"release1")
IDS = ["e", "b", "d", "a", "c"]

# A job as precompute is one: it writes batch after batch, slowly enough to be killed in the middle.
JOB = """
import sys, time
from pathlib import Path
import numpy as np
from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.table_writer import write_table

layout = RowLayout(heads=2, width=3, attention_width=4, dtype="float16", tag=b"release1")
ids = np.random.default_rng(0).permutation(500)

def compute(rows):
    time.sleep(float(sys.argv[2]))
    value = ids[rows].astype(np.float32)[:, None, None]
    return {array: np.broadcast_to(value, (len(rows), 2, 3 if array == "embedding" else 4))
            for array in ("embedding", "query", "key", "value", "gate")}

write_table(Path(sys.argv[1]), ids, compute, layout, batch_size=10)
"""


def select(arrays: Arrays, rows: NDArray[np.int64]) -> Arrays:
    return {array: values[rows] for array, values in arrays.items()}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def arrays(random_arrays: Callable[..., Arrays]) -> Arrays:
    return random_arrays(LAYOUT, len(IDS))


def test_rows_stand_in_the_order_of_their_ids(tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path / "items", IDS, LAYOUT) as writer:
        assert writer.rows_done == 0
        assert writer.order.tolist() == [3, 1, 4, 2, 0]
        writer.write(0, select(arrays, writer.order[:2]))
        writer.write(2, select(arrays, writer.order[2:]))
        assert writer.rows_done == 5
        writer.finish()
    assert sorted(path.name for path in (tmp_path / "items").iterdir()) == ["ids.npy", "rows.bin", "slots.npy"]
    table = LocalTable(tmp_path / "items", LAYOUT)
    np.testing.assert_array_equal(LAYOUT.decode(table.fetch(IDS).raw)["value"], arrays["value"])


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["a", "b", "a"], "items, column 'id', row 2: duplicate id 'a', also in row 0"),
        ([3, 12, 7, "12"], "items, column 'id', row 3: duplicate id '12', also in row 1"),
        (["x", "é", 5, "é"], "items, column 'id', row 3: duplicate id 'é', also in row 1"),
    ],
)
def test_duplicates_are_refused(ids: list[Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        TableWriter(Path("items"), ids, LAYOUT)
    assert str(caught.value) == text
    assert not (tmp_path / "items").exists()


def test_a_second_writer_continues_where_the_first_stopped(tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        writer.write(0, select(arrays, writer.order[:3]))
    assert not (tmp_path / "rows.bin").exists()
    computed: list[int] = []

    def compute(rows: NDArray[np.int64]) -> Arrays:
        computed.extend(rows.tolist())
        return select(arrays, rows)

    told: list[int] = []
    write_table(tmp_path, IDS, compute, LAYOUT, batch_size=1, on_batch=told.append)
    assert computed == [2, 0]
    assert told == [3, 1, 1]
    np.testing.assert_array_equal(LAYOUT.decode(LocalTable(tmp_path, LAYOUT).fetch(IDS).raw)["value"], arrays["value"])


def test_a_half_written_batch_is_written_again(tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        writer.write(0, select(arrays, writer.order[:2]))
    with (tmp_path / "rows.bin.part").open("ab") as file:
        file.write(b"torn" * 30)
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        assert writer.rows_done == 2
        writer.write(2, select(arrays, writer.order[2:]))
        writer.finish()
    assert LocalTable(tmp_path, LAYOUT).fetch(IDS).present.all()


@pytest.mark.parametrize(
    "progress", ["", "{", "[]", '{"rows_done": 2}', '{"fingerprint": "of another table", "rows_done": 2}']
)
def test_progress_that_cannot_be_used_starts_anew(progress: str, tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        writer.write(0, select(arrays, writer.order[:2]))
    (tmp_path / "progress.json").write_text(progress)
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        assert writer.rows_done == 0


def test_progress_beyond_the_rows_that_are_there_starts_anew(tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        writer.write(0, select(arrays, writer.order[:2]))
    with (tmp_path / "rows.bin.part").open("r+b") as file:
        file.truncate(LAYOUT.row_size)
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        assert writer.rows_done == 0


@pytest.mark.parametrize(
    ("ids", "layout"),
    [([*IDS[:-1], "z"], LAYOUT), (IDS[:3], LAYOUT), ([5, 4, 3, 2, 1], LAYOUT), (IDS, replace(LAYOUT, tag=b"release2"))],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_table_in_the_same_folder_starts_anew(
    ids: list[Any], layout: RowLayout, finished: bool, tmp_path: Path, arrays: Arrays
) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        writer.write(0, select(arrays, writer.order))
        if finished:
            writer.finish()
    write_table(tmp_path, ids, lambda rows: select(arrays, rows), layout)
    table = LocalTable(tmp_path, layout)
    np.testing.assert_array_equal(layout.decode(table.fetch(ids).raw)["query"], arrays["query"][: len(ids)])


def test_a_finished_table_is_not_computed_again(tmp_path: Path, arrays: Arrays) -> None:
    write_table(tmp_path, IDS, lambda rows: select(arrays, rows), LAYOUT)
    before = hashes(tmp_path)
    write_table(tmp_path, IDS, lambda rows: pytest.fail("computed again"), LAYOUT)
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("damage", [b"torn", None])
def test_a_finished_table_whose_slots_are_damaged_or_missing_is_written_again(
    damage: bytes | None, tmp_path: Path, arrays: Arrays
) -> None:
    write_table(tmp_path, IDS, lambda rows: select(arrays, rows), LAYOUT)
    before = hashes(tmp_path)
    (tmp_path / "slots.npy").unlink()
    if damage is not None:
        (tmp_path / "slots.npy").write_bytes(damage)
    write_table(tmp_path, IDS, lambda rows: select(arrays, rows), LAYOUT)
    assert hashes(tmp_path) == before


def test_the_slots_are_there_before_the_first_row(tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        writer.write(0, select(arrays, writer.order[:2]))
    before = hashes(tmp_path)
    assert set(before) == {"ids.npy", "slots.npy", "progress.json", "rows.bin.part"}
    write_table(tmp_path, IDS, lambda rows: select(arrays, rows), LAYOUT)
    after = hashes(tmp_path)
    assert (after["ids.npy"], after["slots.npy"]) == (before["ids.npy"], before["slots.npy"])


def test_keys_are_filled_up_to_whole_words(tmp_path: Path, arrays: Arrays) -> None:
    write_table(tmp_path, ["a", "bb", "123456789", "c", "é"], lambda rows: select(arrays, rows), LAYOUT)
    assert np.load(tmp_path / "ids.npy").dtype.str == "|S16"


def test_more_ids_than_slots_can_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ranktower.embedding_store.table_writer.MAX_ROWS", 4)
    with pytest.raises(DataError, match=r"items: 5 ids; a table holds at most 4$"):
        TableWriter(tmp_path / "items", IDS, LAYOUT)
    assert not (tmp_path / "items").exists()


def test_misuse_is_refused(tmp_path: Path, arrays: Arrays) -> None:
    with TableWriter(tmp_path, IDS, LAYOUT) as writer:
        with pytest.raises(ValueError, match=r"^start: 1, but 0 rows are done$"):
            writer.write(1, select(arrays, writer.order[:1]))
        writer.write(0, select(arrays, writer.order[:4]))
        with pytest.raises(ValueError, match=r"^arrays: 6 rows for 5 ids$"):
            writer.write(4, select(arrays, writer.order[:2]))
        with pytest.raises(ValueError, match=rf"^raw: shape \(1, 9\), expected \[n, {LAYOUT.row_size}\]$"):
            writer.write_rows(4, np.zeros((1, 9), dtype=np.uint8))
        with pytest.raises(ValueError, match=r"^4 of 5 rows are done$"):
            writer.finish()
        assert writer.rows_done == 4


def test_two_processes_cannot_write_one_table(tmp_path: Path) -> None:
    with (
        TableWriter(tmp_path, IDS, LAYOUT),
        pytest.raises(ReleaseError, match=r"rows\.bin\.part: another process is writing this table$"),
    ):
        TableWriter(tmp_path, IDS, LAYOUT)
    TableWriter(tmp_path, IDS, LAYOUT).close()


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", JOB, str(whole), "0"], check=True, timeout=60)
    for batches in (3, 9, 20):  # killed three times, each time a little further
        job = subprocess.Popen([sys.executable, "-c", JOB, str(killed), "0.02"])
        part, size = killed / "rows.bin.part", batches * 10 * LAYOUT.row_size
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size >= size):
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        assert not (killed / "rows.bin").exists()
    subprocess.run([sys.executable, "-c", JOB, str(killed), "0"], check=True, timeout=60)
    assert hashes(killed) == hashes(whole)
    assert set(hashes(whole)) == {"ids.npy", "rows.bin", "slots.npy"}
    values = LAYOUT.decode(LocalTable(killed, LAYOUT).fetch([499, "0", 123]).raw)["embedding"]
    assert values[:, 1, 2].tolist() == [499.0, 0.0, 123.0]
