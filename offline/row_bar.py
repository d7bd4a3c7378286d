"""The progress bar of the jobs that compute or copy rows."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def row_bar(name: str, total: int) -> tqdm[Any]:
    """Shown on a terminal alone; ``total`` rows are to come."""
    return tqdm(total=total, desc=name, unit="row", unit_scale=True, disable=None)
