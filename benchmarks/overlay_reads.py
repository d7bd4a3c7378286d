"""What an overlay in front of a table costs a request: 1,000 candidates found and read, with and without one.

Run: ``taskset -c 1 python benchmarks/overlay_reads.py``. The table has 200,000 items with rows of the reference shape;
the overlay has 1,000, of which 800 replace rows of the table and 200 are new. Every call has candidates of its own, and
all are timed in turns. The result goes to ``benchmarks/results/overlay_reads-<date>.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from result_file import write_result
from timing import in_turns

from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.local import LocalTable, RowTable
from ranktower.embedding_store.overlay import TIMES_FILE, OverlaidTable, OverlayTable
from ranktower.embedding_store.table_writer import write_table

LAYOUT = RowLayout(heads=4, width=32, attention_width=32, dtype="float16", tag=b"overlays", kind="projected")
NUM_CHANGED, NUM_NEW = 800, 200
CHOSEN = {
    "none of them": (0, 0),
    "10 changed": (10, 0),
    "200 changed": (200, 0),
    "10 new": (0, 10),
    "200 new": (0, 200),
}
"""How many of a request's candidates are in the overlay: changed, new. Without it the new ones are missing."""


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    figures = measure(options.rows, options.candidates, options.repeats)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "repeats": options.repeats}
    write_result("overlay_reads", settings | {"microseconds": figures}, "numpy")


def measure(num_rows: int, num_candidates: int, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Median and p99 in microseconds without and with the overlay, by what of the candidates it has.

    Args:
        num_rows: of the table, enough for the changed ones and a request's others.
        num_candidates: of a request.
        repeats: turns.
    """
    stored = np.random.default_rng(0).permutation(np.arange(num_rows, dtype=np.int64))
    changed, others = stored[:NUM_CHANGED], stored[NUM_CHANGED:]
    new = num_rows + np.arange(NUM_NEW)
    with tempfile.TemporaryDirectory() as folder:
        table = LocalTable(_written(Path(folder) / "table", stored), LAYOUT)
        over = _written(Path(folder) / "overlay", np.concatenate([changed, new]))
        np.save(over / TIMES_FILE, np.ones(NUM_CHANGED + NUM_NEW, dtype=np.int64))
        tables = {"without": table, "with": OverlaidTable(table, OverlayTable(over, LAYOUT))}
        found: dict[str, dict[str, dict[str, float]]] = {}
        for name, (num_changed, num_new) in CHOSEN.items():
            parts = ((changed, num_changed), (new, num_new), (others, num_candidates - num_changed - num_new))
            calls = {
                # Candidates of their own, or the second would find in the caches what the first has read.
                which: _reading(of, [_candidates(parts, (number, turn)) for turn in range(repeats)])
                for number, (which, of) in enumerate(tables.items())
            }
            found[name] = in_turns(calls, repeats)
    return found


def _candidates(parts: Sequence[tuple[NDArray[np.int64], int]], seed: tuple[int, int]) -> list[int]:
    """So many ids of each part, in random order."""
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([generator.choice(ids, count, replace=False) for ids, count in parts])
    ids: list[int] = generator.permutation(drawn).tolist()
    return ids


def _reading(table: RowTable, requests: Sequence[Sequence[int]]) -> Callable[[int], object]:
    return lambda turn: table.locate(requests[turn]).whole()


def _written(folder: Path, ids: NDArray[np.int64]) -> Path:
    """A table of these ids; what stands in its rows does not matter here."""

    def compute(positions: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        row = np.zeros((1, LAYOUT.heads, LAYOUT.width), dtype=np.float32)
        return dict.fromkeys(LAYOUT.arrays, np.repeat(row, len(positions), axis=0))

    write_table(folder, ids, compute, LAYOUT)
    return folder


if __name__ == "__main__":
    main()
