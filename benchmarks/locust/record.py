"""The file with one line a request, for whoever looks at a run afterwards."""

from __future__ import annotations

import csv
from pathlib import Path

from arrivals import Sent

COLUMNS = ("due_s", "kind", "status", "outcome", "error", "inside", "waited_for", "latency_ms", "lag_ms")


class Record:
    """A CSV file; an earlier one is replaced."""

    def __init__(self, path: Path) -> None:
        """Write the head; OSError where that cannot be done."""
        # By lines: whoever watches the run reads them while it goes on.
        self._file = path.open("w", encoding="utf-8", newline="", buffering=1)
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)

    def add(self, sent: Sent) -> None:
        """Write one line; flags as 1 and 0, ``inside`` empty without a budget."""
        outcome = sent.outcome
        inside = "" if outcome.inside is None else int(outcome.inside)
        what = [f"{sent.due_s:.3f}", sent.request.kind, sent.answer.status, outcome.name, outcome.error, inside]
        self._writer.writerow([*what, int(outcome.is_waited_for), f"{sent.latency_ms:.3f}", f"{sent.lag_ms:.3f}"])

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()
