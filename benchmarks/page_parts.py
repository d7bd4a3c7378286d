"""The parts that the generated pages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every row has as many cells as the head."""
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"rows: {len(row)} cells in {list(row)}, the head has {len(head)}")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def place(result: dict[str, Any]) -> str:
    """When, where and how a result was measured."""
    machine = result["machine"]
    return f"{result['date']}, {machine['num_cores']} cores of {machine['cpu']}, `{result['command']}`"


def note(result: dict[str, Any]) -> str:
    """``place`` as the line under a table."""
    return f"*{place(result)}*"


def missing(name: str) -> str:
    """What a section says that has no result."""
    return f"No result yet: `{command_of(name)}` makes one."


def command_of(name: str) -> str:
    """What makes the result of a benchmark."""
    return "make bench-peers" if name == "peers" else f"python benchmarks/{name}.py"
