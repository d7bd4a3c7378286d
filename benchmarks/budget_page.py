"""docs/budgets.md: what too little time, too many requests and changing releases cost, from the newest result files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from page_parts import missing, note, table
from performance_plots import figure_file
from targets import Results, Target

_INTRODUCTION = """# Inside the budget

Written by `python benchmarks/figures.py` from the newest files in `benchmarks/results`; do not
edit it. Where nothing else is said, a request has 1,000 candidates, 200,000 users and items are stored, Hu = Hi = 4 and
D = A = 32, the service has one core, and the load generator the other. How it is done: [ADR 26](adr/0026-the-ladder.md)
for the levels, [ADR 29](adr/0029-turns.md) for the queue.
"""
_BUDGET = "10"
_COLOURS = {"5": "#9ecae1", "10": "#1f6fb4", "20": "#08306b"}
# What became of the requests: share in the result file, words, colour.
_OUTCOMES = (
    ("full_inside_share", "full, inside", "#1f6fb4"),
    ("degraded_inside_share", "degraded, inside", "#9ecae1"),
    ("late_share", "late", "#fdae6b"),
    ("shed_share", "shed", "#c0392b"),
    ("out_of_time_share", "out of time (504)", "#9a9a9a"),
)


def budget_page(results: Results) -> str:
    """The whole page. A benchmark without a result is named with the command that makes it."""
    rows = [target.row(results) for target in BUDGET_TARGETS]
    reached = table(["figure", "wanted", "measured", "reached"], rows)
    worst = "A figure that names no store is the worst over the local store and Redis, and over all cases and rounds."
    sections = [_INTRODUCTION.strip(), f"## What was to be reached\n\n{worst}\n\n{reached}"]
    for title, name, write in BUDGET_SECTIONS:
        result = results.get(name)
        sections.append(f"## {title}\n\n{missing(name) if result is None else write(result)}")
    return "\n\n".join(sections) + "\n"


def ladder(result: Any) -> str:
    """What each level is worth on real data."""
    kept = {name.removesuffix(" (kept)"): of for name, of in result["levels"].items() if name.endswith("(kept)")}
    mixed = {
        f"full for the best {float(share.split()[0]):.0%}, the others by maxsim": choices[name]
        for share, choices in result["mixed"].items()
        for name in choices
        if name.endswith("(kept)")
    }
    full = result["levels"]["full"]
    rows = [
        [name, *(f"{of[key]:.4f}" for key in ("ndcg", "recall")), f"{of['ndcg'] / full['ndcg']:.1%}"]
        + [f"{of[key]:.1%}" for key in ("ndcg_to_full", "recall_to_full")]
        for name, of in ({"full": full} | mixed | kept).items()
    ]
    k = result["k"]
    head = ["level", f"NDCG@{k}", f"Recall@{k}", "NDCG relative to full", "NDCG against full", "Recall against full"]
    text = (
        f"The demo's model on {result['data']}, validation users that no calibration was fitted on; the candidates are"
        f" {result['num_candidates']:,} items that the retrieval model puts first. The first columns are against what"
        f" the users did, the last two take full scoring's first {k} as the truth: an answer's `expected_ndcg` and"
        " `expected_recall`."
    )
    return "\n\n".join([text, table(head, rows), note(result)])


def costs(result: Any) -> str:
    """What each level costs."""
    full = result["levels"]["scorer.onnx"]["median_us"]
    rows = [[name, f"{of['median_us']:.0f}", f"{of['median_us'] / full:.0%}"] for name, of in result["levels"].items()]
    explain = result["explain"]
    text = (
        f"Median of one run over {result['num_candidates']:,} candidates, one thread, rows in the caches. With its"
        f" outputs for explain, which a run for scores alone does not ask for, `scorer.onnx` takes"
        f" {explain['with_to_without']:.3f} times what it takes without: medians of {len(explain['with_us'])} sessions"
        f" each, timed in turns, of which the slowest of one graph takes"
        f" {explain['largest_to_smallest_of_one_graph']:.3f} times what the fastest does."
    )
    return "\n\n".join([text, table(["graph or step", "µs", "of full scoring"], rows), note(result)])


def budgets(result: Any) -> str:
    """Goodput and what became of the requests, by budget and load."""
    blocks = [
        "Open loop, requests at random times (Poisson), loads as multiples of the rate at which a closed loop without"
        " budgets saturates the service with full scoring. A request is inside if its answer, 200, was there within the"
        " budget after the moment it was due: the generator's own lateness counts against the service. Goodput is those"
        " a second. The other columns are shares of all requests; late answers came with 200.",
        "![Requests inside the budget against load](images/budgets.svg)",
    ]
    for name, of in result["stores"].items():
        rows = []
        for budget_ms, found in of["budgets_ms"].items():
            for load, run in found["loads"].items():
                rows.append(
                    [budget_ms, f"{float(load):g}×", f"{run['offered_per_s']:.0f}", f"{run['goodput_per_s']:.0f}"]
                    + [f"{run[key]:.1%}" for key, _, _ in _OUTCOMES]
                    + [f"{run['p50_ms']:.2f}", f"{run['p99_ms']:.2f}", f"{run['lag_p99_ms']:.2f}"]
                )
        head = ["budget ms", "load", "offered/s", "goodput/s", *(words for _, words, _ in _OUTCOMES)]
        head += ["p50 ms", "p99 ms", _LATE]
        blocks.append(f"{name}, saturated at {of['saturation_per_s']:.0f} requests/s:\n\n{table(head, rows)}")
        if name == "Redis":
            blocks.append(_REDIS)
    return "\n\n".join([*blocks, note(result)])


def overload(result: Any) -> str:
    """What comes before, during and after."""
    blocks = [
        f"Half of the saturation rate, then three times as much as that rate, then half again; every request with"
        f" {result['budget_ms']:g} ms. Recovered: the first window of 200 ms from which on, over a second, no more"
        " requests are outside the budget and no more answers degraded than before, but for one in a hundred and three"
        " standard errors of a second's share."
    ]
    for name, of in result["stores"].items():
        rows = [
            [str(number), *(f"{run[part]['goodput_per_s']:.0f}" for part in ("before", "overload", "after"))]
            + ["never" if run["recovery_s"] is None else f"{run['recovery_s']:.1f}"]
            + [f"{run[key]:.0f}" for key in ("peak_rss_mb", "rss_mb")]
            + [f"{run['overload']['lag_p99_ms']:.2f}"]
            for number, run in enumerate(of["rounds"], start=1)
        ]
        head = [
            "round",
            "goodput/s before",
            "during",
            "after",
            "recovered after s",
            "RSS MB, peak",
            "RSS MB, after",
            _LATE,
        ]
        shed = of["shed"]
        told = (
            f"{name}; RSS before: {of['rss_before_mb']:.0f} MB. {shed['requests']:,} requests were refused, on average"
            f" {shed.get('mean_ms', 0):.2f} ms after they had been read, 99% of them within"
            f" {shed.get('p99_at_most_ms', 0):g} ms."
        )
        blocks.append(f"{told}\n\n{table(head, rows)}")
        if name == "Redis":
            blocks.append(_REDIS)
    return "\n\n".join([*blocks, note(result)])


def swaps(result: Any) -> str:
    """Releases that flip under load."""
    names = {"open": "between two that are open", "loading": "among three, so that each is loaded"}
    rows = []
    for name, of in result["cases"].items():
        latencies = [of["before"]["p99_ms"], of["during"]["p99_ms"], of["during"]["max_ms"]]
        ratios = [of["p99_during_to_before"], of["max_during_to_p99_before"]]
        row = [names[name], f"{of['rate_per_s']:.0f}", *(f"{one:.2f}" for one in latencies)]
        rows.append([*row, *(f"{ratio:.2f}×" for ratio in ratios), str(of["failed"])])
    head = ["releases flip", "requests/s", "p99 ms before", "p99 ms during", "longest ms during"]
    head += ["p99 to p99 before", "longest to p99 before", "failed"]
    text = (
        f"{result['num_flips']} flips, one every {result['interval_s']:g} s, at half of the saturation rate. That no"
        " answer mixes releases is held by a test, `tests/service/test_consistency.py`: it compares every answer with"
        " torch's scores of the release it names."
    )
    return "\n\n".join([text, table(head, rows), note(result)])


def deltas(result: Any) -> str:
    """From the job to the answer."""
    rows = [
        [name, f"{int(size):,}", *(f"{of[key]['median']:.2f}" for key in _DELTA), f"{of['end_to_served_s']['max']:.2f}"]
        for name, sizes in result["stores"].items()
        for size, of in sizes.items()
    ]
    head = ["rows in", "new items", "command s", "start to served s", "end to served s", "end to served s, longest"]
    text = (
        "`ranktower precompute --delta` beside a service that goes on: seconds until an answer has scores for the new"
        f" items. The service looks for overlays every {result['poll_ms']} ms; rows in Redis need no look, and are"
        " served before the command has ended."
    )
    return "\n\n".join([text, table(head, rows), note(result)])


_DELTA = ("command_s", "start_to_served_s", "end_to_served_s")
_LATE = "generator late, p99 ms"
_REDIS = f"Redis shares its core with the generator, whose lateness (*{_LATE}*) counts against the service."

BUDGET_SECTIONS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("What a level is worth", "level_choices", ladder),
    ("What a level costs", "level_graphs", costs),
    ("Budgets and load", "budgets", budgets),
    ("Overload that comes and goes", "overload", overload),
    ("Releases that change under load", "release_swap", swaps),
    ("New rows in a served release", "delta", deltas),
)
"""Title, benchmark, text."""


def _goodput(store: str | None = None, budget: str | None = None) -> Callable[[Any], float]:
    """Of one store and budget, or the least over all; 0 where nothing was inside at saturation."""
    return lambda result: min(
        float(found["goodput_3x_to_saturation"] or 0)
        for name, of in result["stores"].items()
        for budget_ms, found in of["budgets_ms"].items()
        if name == (store or name) and budget_ms == (budget or budget_ms)
    )


def _recovery(result: Any) -> float:
    return max(
        float("inf") if run["recovery_s"] is None else float(run["recovery_s"])
        for of in result["stores"].values()
        for run in of["rounds"]
    )


def _shed_mean(result: Any) -> float:
    return max(float(of["shed"].get("mean_ms", 0.0)) for of in result["stores"].values())


def _growth(result: Any) -> float:
    """Of the last round's memory over the first's: what a round costs would add up."""
    return max(float(of["rounds"][-1]["rss_mb"] / of["rounds"][0]["rss_mb"]) for of in result["stores"].values())


def _swap(key: str) -> Callable[[Any], float]:
    return lambda result: max(float(of[key]) for of in result["cases"].values())


def _delta(result: Any) -> float:
    return max(float(of["end_to_served_s"]["max"]) for sizes in result["stores"].values() for of in sizes.values())


_GOODPUT = "goodput at 3× saturation to that at saturation"

BUDGET_TARGETS = (
    *(
        Target(f"{_GOODPUT}, {where}", "budgets", measure, 0.8, "×", at_least=True)
        for where, measure in (
            (f"local store, {_BUDGET} ms", _goodput("local", _BUDGET)),
            (f"Redis, {_BUDGET} ms", _goodput("Redis", _BUDGET)),
            ("worst of all budgets and stores", _goodput()),
        )
    ),
    Target("recovery after 3× saturation", "overload", _recovery, 2, " s"),
    Target("from reading a request to its refusal, mean", "overload", _shed_mean, 1, " ms"),
    Target("memory after the last overload to after the first", "overload", _growth, 1.05, "×"),
    Target("failed requests in 50 flips", "release_swap", _swap("failed"), 0, ""),
    Target("p99 during flips to p99 before", "release_swap", _swap("p99_during_to_before"), 5, "×"),
    Target("longest answer during flips to p99 before", "release_swap", _swap("max_during_to_p99_before"), 5, "×"),
    Target("from the end of a delta to its rows being served, longest", "delta", _delta, 5, " s"),
)


def draw_budgets(result: dict[str, Any], path: Path) -> None:
    """Goodput and what became of the requests, against load; local store."""
    found = result["stores"]["local"]["budgets_ms"]
    with figure_file(path, width=11, height=3.6) as figure:
        left, right = figure.subplots(1, 2)
        for budget_ms, of in found.items():
            loads = [float(load) for load in of["loads"]]
            inside = [run["goodput_per_s"] for run in of["loads"].values()]
            left.plot(loads, inside, marker="o", color=_COLOURS[budget_ms], label=f"budget {budget_ms} ms")
        left.axhline(result["stores"]["local"]["saturation_per_s"], color="#9a9a9a", linewidth=0.8)
        left.set_ylim(0)
        left.set_ylabel("answers inside the budget, a second")
        left.legend(frameon=False)
        runs = found[_BUDGET]["loads"]
        loads = [float(load) for load in runs]
        keys, labels, colours = zip(*_OUTCOMES, strict=True)
        right.stackplot(loads, [[run[key] for run in runs.values()] for key in keys], labels=labels, colors=colours)
        right.set_ylim(0, 1)
        right.set_ylabel(f"share of the requests, budget {_BUDGET} ms")
        right.legend(loc="lower left", frameon=True)
        for axes in (left, right):
            axes.set_xlabel("load, multiples of saturation with full scoring (line)")
