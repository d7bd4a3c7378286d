"""What is timed has the candidates that its name says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import overlay_reads
import pytest


def test_the_candidates_are_changed_new_or_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def look(calls: Mapping[str, Any], repeats: int) -> dict[str, dict[str, float]]:
        found = {name: call(repeats - 1) for name, call in calls.items()}
        seen.append((len(found["without"]), len(found["with"])))
        return {name: {} for name in calls}

    monkeypatch.setattr(overlay_reads, "in_turns", look)
    figures = overlay_reads.measure(2000, 300, repeats=2)
    assert figures.keys() == overlay_reads.CHOSEN.keys()
    assert seen == [(300 - new, 300) for _, new in overlay_reads.CHOSEN.values()]
    monkeypatch.undo()
    assert set(overlay_reads.measure(2000, 300, repeats=1)["10 new"]) == {"without", "with"}
