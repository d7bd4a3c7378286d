"""What docs/load-testing.md says of the generator and of the run through the compose stack, from the newest results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page_parts import missing, note, place, table
from performance_plots import figure_file

_OUTCOMES = {
    "degraded": ("degraded", "#9ecae1"),
    "status_429": ("429", "#c0392b"),
    "status_504": ("504", "#9a9a9a"),
    "failed": ("failed", "#000000"),
}


def generator(result: Any) -> str:
    """What one request takes of the generator, and so what one process can send."""
    if result is None:
        return missing("locust_generator")
    most = int(10 / result["cpu_ms"]) * 100
    return (
        f"A request of the usual mix takes {result['cpu_ms']:.2f} ms of a core, so that a process with a core of its"
        f" own makes at most some {most:,} a second ({place(result)})."
    )


def stack_run(result: Any) -> str:
    """What was done to the stack, and what clients saw by phase; how to find out, where there is no result."""
    if result is None:
        return missing("stack_run")
    killed, redis, whole = result["killed"], result["redis_restarted"], result["whole"]
    searched = ", half of the highest that a short search found to be held" if result["is_rate_searched"] else ""
    text = (
        f"{result['rate_per_s']} requests/s{searched}, for {result['seconds']:,} s, through the proxy to"
        f" {result['replicas']} replicas; the stack and the generator share the machine. After {killed['at_s']:.0f} s a"
        f" replica was killed (SIGKILL); {killed['both_ready_s']:.1f} s later both served, the killed one started again"
        f" by {_by(killed['revived_by'])}. After {redis['at_s']:.0f} s Redis was restarted, which took"
        f" {redis['took_s']:.1f} s. Last failed request: {_after(killed)} the kill, {_after(redis)} the restart."
    )
    rows = [_row(name, of) for name, of in {**result["phases"], "whole run": whole}.items()]
    head = ["", "requests", "a second", "p50 ms", "p99 ms", "longest ms", "inside the budget"]
    head += ["degraded", "429", "504", "failed", "of them 503"]
    errors = ", ".join(f"{count} × {error}" for error, count in whole["errors"].items()) or "none"
    plot = "![Latency and what was not a full answer, by time](images/stack_run.svg)"
    return "\n\n".join([text, plot, table(head, rows), f"Failures: {errors}.", note(result)])


def draw_stack_run(result: Any, path: Path) -> None:
    """Latencies, and shares of what was not a full answer, by windows."""
    windows = result["windows"]
    middles = [of["start_s"] + result["window_s"] / 2 for of in windows]
    with figure_file(path, width=9, height=5) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        for key, label, style in (("p50_ms", "p50", "-"), ("p99_ms", "p99", "--")):
            latencies = [float("nan") if of[key] is None else of[key] for of in windows]
            above.plot(middles, latencies, style, color="#1f6fb4", label=label)
        above.set_yscale("log")
        above.set_ylabel("ms")
        for key, (label, colour) in _OUTCOMES.items():
            below.plot(middles, [of[key] / max(of["requests"], 1) for of in windows], color=colour, label=label)
        below.set_ylabel("share of requests")
        below.set_xlabel("seconds")
        for event, words in (("killed", "replica killed"), ("redis_restarted", "Redis restarted")):
            for axes in (above, below):
                axes.axvline(result[event]["at_s"], color="#e6550d", linewidth=0.8)
            above.annotate(words, (result[event]["at_s"], 1.02), xycoords=("data", "axes fraction"))
        for axes in (above, below):
            axes.legend(frameon=False, loc="upper left")


def _row(name: str, of: Any) -> list[str]:
    latencies = ["" if of[key] is None else f"{of[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms")]
    inside = "" if of["inside_share"] is None else f"{of['inside_share']:.1%}"
    counts = [f"{of[key]:,}" for key in (*_OUTCOMES, "status_503")]
    return [name, f"{of['requests']:,}", f"{of['offered_per_s']:.1f}", *latencies, inside, *counts]


def _by(revived_by: str) -> str:
    return "its restart policy" if revived_by == "restart policy" else "the benchmark"


def _after(event: Any) -> str:
    return "none after" if event["last_failure_s"] is None else f"{event['last_failure_s']:.1f} s after"
