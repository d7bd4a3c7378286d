"""Writes the figures in README.md, docs/method.md, docs/load-testing.md, docs/native.md and docs/adr/0030-api-keys.md,
the pages docs/performance.md and docs/budgets.md, their plots, and the constants of ``ranktower size``, from the newest
results.

Run: ``python benchmarks/figures.py``; with ``--check`` it only says whether they are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from budget_page import BUDGET_SECTIONS, budget_page, draw_budgets
from native_page import draw_roofline, native_quality, native_times
from page_parts import place, table
from performance_page import SECTIONS, page
from performance_plots import PLOTS
from report import plot as plot_peers
from result_file import find_result, latest_result
from sizing import all_costs
from stack_page import draw_stack_run, generator, stack_run
from targets import Results, best_rate

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COSTS = ROOT / "service" / "reference_costs.json"


def main() -> int:
    """Rewrite the pages between their markers; the exit status of ``--check`` is 1 where that would change one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    results = _results()
    contents = {
        "README.md": {"figures": figures(results), "request": request()},
        "docs/method.md": {"choices": choices(), "directions": directions()},
        "docs/load-testing.md": {
            "generator": generator(results.get("locust_generator")),
            "stack-run": stack_run(results.get("stack_run")),
        },
        "docs/native.md": {
            "native": native_times(results.get("native_scorer")),
            "native-quality": native_quality(results.get("native_quality")),
        },
        "docs/adr/0030-api-keys.md": {"auth": keys(latest_result("auth"))},
    }
    written = {ROOT / "docs" / "performance.md": page(results), ROOT / "docs" / "budgets.md": budget_page(results)}
    if "request_stages" in results:
        costs = all_costs(results)
        written[COSTS] = json.dumps(costs, indent=2) + "\n"
    for name, blocks in contents.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for marker, content in blocks.items():
            text = _between(text, marker, content)
        written[ROOT / name] = text
    stale = [path for path, text in written.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)}: not the newest results\n")
        return int(bool(stale))
    for path in stale:
        path.write_text(written[path], encoding="utf-8")
    _draw(results)
    return 0


def _results() -> Results:
    """The newest result of every benchmark on the generated pages that has one."""
    names = [name for _, name, _ in (*SECTIONS, *BUDGET_SECTIONS)]
    found = {
        name: find_result(name) for name in (*names, "locust_generator", "stack_run", "native_scorer", "native_quality")
    }
    return {name: result for name, result in found.items() if result is not None}


def _draw(results: Results) -> None:
    IMAGES.mkdir(exist_ok=True)
    others = {"budgets": draw_budgets, "stack_run": draw_stack_run, "peers": plot_peers, "native_scorer": draw_roofline}
    for name, draw in {**PLOTS, **others}.items():
        if name in results:
            draw(results[name], IMAGES / f"{name}.svg")


def figures(results: Results) -> str:
    """Quality, parity and speed as Markdown."""
    demo = latest_result("demo_quality")
    return "\n\n".join([_quality(demo), _parity(demo), *_speed(results)])


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
        f"({place(result)}).",
        "",
        f"| | Recall@{rows[0]['k']} | NDCG@{rows[0]['k']} |",
        "|---|---|---|",
    ]
    lines += [f"| {row['choice']} | {row['recall']:.4f} | {row['ndcg']:.4f} |" for row in rows]
    return "\n".join(lines)


def directions() -> str:
    """What each distillation loss asks of a list's scores."""
    result = latest_result("distillation_directions")
    head = ["cosine with", "up, all impressions alike", "the teacher's order", "scores closer together"]
    rows = [
        [
            loss.replace("_", " ").replace("logloss", "log loss"),
            *(f"{round(cosine, 2) + 0:.2f}" for cosine in of.values()),
        ]
        for loss, of in result["directions"].items()
    ]
    lists = result["lists"]
    return (
        f"{table(head, rows)}\n\n"
        f"Within a list the soft labels have a standard deviation of {lists['deviation_of_soft_labels']:.2f}, the"
        f" scores one of {lists['deviation_of_scores']:.2f} ({place(result)})."
    )


def keys(result: dict[str, Any]) -> str:
    """What a request pays for its API key."""
    one, several = result["us"]["one process"], result["us"]["one of several workers"]
    return (
        f"Finding and comparing a key takes {one['find']:.1f} µs of a request, {one['hash']:.1f} µs of it for hashing."
        f" All that is done for a key takes {one['key']:.1f} µs, metrics included, and {several['key']:.1f} µs in one"
        f" of several workers; a limit takes {one['limit']:.1f} µs more, over several workers {several['limit']:.1f}"
        f" µs; the headers of an answer take {one['headers']:.1f} µs ({result['num_keys']} keys; {place(result)})."
    )


def _quality(demo: dict[str, Any]) -> str:
    rows = demo["quality"]
    lines = [
        f"`make demo` on {demo['data']}, test split, {rows[0]['num_users']:,} users, one seed; "
        f"the demo itself took {demo['demo_s']:.0f} s ({place(demo)}).",
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


def _speed(results: Results) -> list[str]:
    """Throughput and latency by store, and against other servers; what has no result is left out."""
    blocks = []
    if (result := results.get("throughput")) is not None:
        rows = [
            [name, f"{best_rate(of):.0f}", *(f"{of['1'][key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms"))]
            for name, of in result["stores"].items()
        ]
        head = ["rows from", "requests/s", "p50 ms", "p90 ms", "p99 ms"]
        text = (
            f"`/v1/score` with {result['num_candidates']:,} candidates, {result['num_rows']:,} users and items stored,"
            f" the service on one core; latencies are of one connection ({place(result)})."
        )
        blocks += [text, table(head, rows)]
    if (peers := results.get("peers")) is not None:
        ours = max(peers["ratios"], key=lambda name: max(peers["ratios"][name].values(), default=0.0))
        ratios = ", ".join(f"{ratio:.1f}× {name}" for name, ratio in peers["ratios"][ours].items())
        blocks.append(f"Throughput to other servers with the same job: {ratios} ({place(peers)}).")
    return [*blocks, "More, and how it was measured: [docs/performance.md](docs/performance.md)."]


def _between(text: str, marker: str, content: str) -> str:
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    start, end = text.index(opening) + len(opening), text.index(closing)
    return f"{text[:start]}\n{content}\n{text[end:]}"


if __name__ == "__main__":
    sys.exit(main())
