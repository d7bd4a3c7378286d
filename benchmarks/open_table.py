"""How long opening a table of ten million rows takes, and the first thousand ids fetched from it.

Run: ``taskset -c 0 python benchmarks/open_table.py``. The rows are a sparse file, so the disk needs room for the ids
and their slots alone; opening reads no row either way. The result goes to
``benchmarks/results/open_table-<date>.json``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from result_file import write_result

from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.local import IDS_FILE, ROWS_FILE, SLOTS_FILE, LocalTable
from ranktower.embedding_store.slots import build_slots

LAYOUT = RowLayout(heads=4, width=32, attention_width=32, dtype="float16", tag=b"\0" * 8)  # a hole is a row of zeros


def main() -> int:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    keys = np.arange(arguments.rows, dtype=np.int64)
    tables = {"integer ids": keys, "string ids": np.char.add(b"item-", keys.astype("S11"))}
    result: dict[str, Any] = {
        "num_rows": arguments.rows,
        "row_size_bytes": LAYOUT.row_size,
    }
    for name, table in tables.items():
        result[name] = _measure(np.sort(table), arguments.repeats)
    write_result("open_table", result, "numpy")
    return 0


def _measure(keys: NDArray[np.generic], repeats: int) -> dict[str, float]:
    """Median times in milliseconds. The ids are in the page cache; the rows fetched are touched for the first time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / IDS_FILE, keys)
        np.save(folder / SLOTS_FILE, build_slots(keys))
        with (folder / ROWS_FILE).open("wb") as file:
            file.truncate(len(keys) * LAYOUT.row_size)
        open_ms, fetch_ms = [], []
        for seed in range(repeats):
            positions = np.random.default_rng(seed).integers(0, len(keys), 1000)
            ids = [one.decode() if isinstance(one, bytes) else one for one in keys[positions].tolist()]
            start = time.perf_counter()
            table = LocalTable(folder, LAYOUT)
            opened = time.perf_counter()
            found = table.fetch(ids)
            fetch_ms.append((time.perf_counter() - opened) * 1e3)
            open_ms.append((opened - start) * 1e3)
            if not found.present.all():
                raise RuntimeError("an id was not found")
    return {
        "open_median_ms": round(statistics.median(open_ms), 3),
        "open_largest_ms": round(max(open_ms), 3),
        "fetch_1000_first_median_ms": round(statistics.median(fetch_ms), 3),
    }


if __name__ == "__main__":
    raise SystemExit(main())
