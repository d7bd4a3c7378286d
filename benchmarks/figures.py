"""Writes the figures in README.md and docs/method.md from the newest result files.

Run: ``python benchmarks/figures.py``; with ``--check`` it only says whether they are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from result_file import latest_result

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Rewrite the pages between their markers; the exit status of ``--check`` is 1 where that would change one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    contents = {"README.md": {"figures": figures(), "request": request()}, "docs/method.md": {"choices": choices()}}
    stale = False
    for page, blocks in contents.items():
        before = after = (ROOT / page).read_text(encoding="utf-8")
        for marker, content in blocks.items():
            after = _between(after, marker, content)
        stale |= before != after
        if not options.check:
            (ROOT / page).write_text(after, encoding="utf-8")
    return int(stale and options.check)


def figures() -> str:
    """Quality, parity and latency as Markdown."""
    demo, latency = latest_result("demo_quality"), latest_result("score_latency")
    blocks = [_quality(demo), _parity(demo), _latency(latency)]
    return "\n\n".join(blocks)


def request() -> str:
    """The demo's request and its answer."""
    demo = latest_result("demo_quality")
    return f"```sh\n{demo['request']}\n```\n\n```json\n{json.dumps(demo['answer'])}\n```"


def choices() -> str:
    """The demo's training choices, each undone alone."""
    result = latest_result("training_choices")
    rows = result["results"]
    lines = [
        f"{result['epochs']} epochs, one seed, {rows[0]['num_users']:,} validation users, full corpus",
        f"({_place(result)}).",
        "",
        f"| | Recall@{rows[0]['k']} | NDCG@{rows[0]['k']} |",
        "|---|---|---|",
    ]
    lines += [f"| {row['choice']} | {row['recall']:.4f} | {row['ndcg']:.4f} |" for row in rows]
    return "\n".join(lines)


def _quality(demo: dict[str, Any]) -> str:
    rows = demo["quality"]
    lines = [
        f"`make demo` on {demo['data']}, test split, {rows[0]['num_users']:,} users, one seed; "
        f"the demo itself took {demo['demo_s']:.0f} s ({_place(demo)}).",
        "",
        f"| pool | model | Recall@{rows[0]['k']} | NDCG@{rows[0]['k']} |",
        "|---|---|---|---|",
    ]
    for row in rows:
        lines.append(f"| {row['pool'].replace('_', ' ')} | {row['model']} | {row['recall']:.4f} | {row['ndcg']:.4f} |")
    return "\n".join(lines)


def _parity(demo: dict[str, Any]) -> str:
    lines = ["| largest difference to torch in float32 | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value:.1e} |" for name, value in demo["parity"].items()]
    for pool, change in demo["float16_ndcg_change"].items():
        lines.append(f"| NDCG@100 that float16 rows move, {pool.replace('_', ' ')} | {change:.1e} |")
    return "\n".join(lines)


def _latency(latency: dict[str, Any]) -> str:
    lines = [
        f"`/v1/score` with {latency['num_candidates']:,} candidates, {latency['num_rows']:,} users and items stored, "
        f"one connection, the service on one core ({_place(latency)}).",
        "",
        "| rows from | p50 ms | p90 ms | p99 ms |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {ms['p50']:.2f} | {ms['p90']:.2f} | {ms['p99']:.2f} |" for name, ms in latency["ms"].items()]
    return "\n".join(lines)


def _place(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{result['date']}, {machine['num_cores']} cores of {machine['cpu']}, `{result['command']}`"


def _between(text: str, marker: str, content: str) -> str:
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    start, end = text.index(opening) + len(opening), text.index(closing)
    return f"{text[:start]}\n{content}\n{text[end:]}"


if __name__ == "__main__":
    sys.exit(main())
