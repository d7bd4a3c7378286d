"""The page of budgets made of small results that are written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from budget_page import (
    BUDGET_SECTIONS,
    BUDGET_TARGETS,
    budget_page,
    budgets,
    costs,
    deltas,
    draw_budgets,
    overload,
    swaps,
)
from page_parts import command_of

PLACE = {
    "date": "2026-01-02",
    "command": "python benchmarks/some.py",
    "machine": {"cpu": "a processor", "num_cores": 2},
}
SHARES = {"full_inside": 0.3, "degraded_inside": 0.2, "late": 0.1, "shed": 0.25, "out_of_time": 0.15}
RUN = {f"{name}_share": share for name, share in SHARES.items()} | {
    "offered_per_s": 1000.0,
    "goodput_per_s": 500.0,
    "p50_ms": 4.0,
    "p99_ms": 9.0,
    "lag_p99_ms": 2.5,
}
REDIS = "Redis shares its core with the generator"


def budgets_result(*, local: tuple[float | None, ...], redis: tuple[float | None, ...]) -> dict[str, Any]:
    """Goodput at 3x to that at saturation, of 5, 10 and 20 ms."""
    stores = {}
    for name, ratios in (("local", local), ("Redis", redis)):
        found = {
            budget: {"loads": {"1": RUN, "3": RUN}, "goodput_3x_to_saturation": ratio}
            for budget, ratio in zip(("5", "10", "20"), ratios, strict=True)
        }
        stores[name] = {"saturation_per_s": 400.0, "budgets_ms": found}
    return PLACE | {"stores": stores}


def swaps_result() -> dict[str, Any]:
    case = {
        "rate_per_s": 200.0,
        "before": {"p99_ms": 4.0},
        "during": {"p99_ms": 6.0, "max_ms": 24.0},
        "p99_during_to_before": 1.5,
        "max_during_to_p99_before": 6.0,
        "failed": 0,
    }
    other = case | {"p99_during_to_before": 1.0, "max_during_to_p99_before": 2.0}
    return PLACE | {"num_flips": 50, "interval_s": 2.0, "cases": {"open": case, "loading": other}}


def measured(source: str, result: dict[str, Any]) -> list[list[str]]:
    """What, measured and reached of the targets of one benchmark."""
    rows = [target.row({source: result}) for target in BUDGET_TARGETS if target.source == source]
    return [[row[0], *row[2:]] for row in rows]


def test_a_page_without_results_says_what_makes_them() -> None:
    text = budget_page({})
    for title, name, _ in BUDGET_SECTIONS:
        assert f"## {title}\n\nNo result yet: `{command_of(name)}` makes one." in text
    assert text.count("no result yet") == len(BUDGET_TARGETS)


def test_goodput_is_held_by_each_store_and_by_the_worst() -> None:
    words = "goodput at 3× saturation to that at saturation"
    assert measured("budgets", budgets_result(local=(0.9, 1.1, 2.0), redis=(0.2, 0.85, 1.5))) == [
        [f"{words}, local store, 10 ms", "1.10×", "yes"],
        [f"{words}, Redis, 10 ms", "0.85×", "yes"],
        [f"{words}, worst of all budgets and stores", "0.20×", "**no**"],
    ]
    # Nothing was inside at saturation.
    (*_, worst) = measured("budgets", budgets_result(local=(None, 1.1, 2.0), redis=(0.9, 0.9, 0.9)))
    assert worst[1:] == ["0.00×", "**no**"]


def test_the_longest_answer_counts_too() -> None:
    assert measured("release_swap", swaps_result()) == [
        ["failed requests in 50 flips", "0.00", "yes"],
        ["p99 during flips to p99 before", "1.50×", "yes"],
        ["longest answer during flips to p99 before", "6.00×", "**no**"],
    ]
    assert "| 200 | 4.00 | 6.00 | 24.00 | 1.50× | 6.00× | 0 |" in swaps(swaps_result())


def test_the_other_targets_take_the_worst_store() -> None:
    def store(recovery_s: float | None, mean_ms: float, rss_mb: float) -> dict[str, Any]:
        rounds = [{"recovery_s": 0.2, "rss_mb": 100.0}, {"recovery_s": recovery_s, "rss_mb": rss_mb}]
        return {"rounds": rounds, "shed": {"requests": 1, "mean_ms": mean_ms}}

    result = {"stores": {"local": store(0.4, 0.3, 120.0), "Redis": store(None, 2.0, 101.0)}}
    assert [row[1:] for row in measured("overload", result)] == [
        ["inf s", "**no**"],
        ["2.00 ms", "**no**"],
        ["1.20×", "**no**"],
    ]
    served = {name: {"10": {"end_to_served_s": {"max": seconds}}} for name, seconds in (("local", 0.4), ("Redis", 6.0))}
    assert measured("delta", {"stores": served})[0][1:] == ["6.00 s", "**no**"]


def test_the_table_tells_what_became_of_the_requests_and_of_the_generator() -> None:
    text = budgets(budgets_result(local=(1.0, 1.0, 1.0), redis=(1.0, 1.0, 1.0)))
    assert "| 5 | 3× | 1000 | 500 | 30.0% | 20.0% | 10.0% | 25.0% | 15.0% | 4.00 | 9.00 | 2.50 |" in text
    assert text.index("Redis, saturated") < text.index(REDIS)
    assert text.count(REDIS) == 1


def test_what_explaining_costs_stands_beside_what_sessions_differ_by() -> None:
    explain = {"with_us": [1.0] * 5, "with_to_without": 1.0042, "largest_to_smallest_of_one_graph": 1.0111}
    levels = {"scorer.onnx": {"median_us": 1000.0}, "maxsim.onnx": {"median_us": 150.0}}
    text = costs(PLACE | {"num_candidates": 1000, "levels": levels, "explain": explain})
    assert "| maxsim.onnx | 150 | 15% |" in text
    assert "takes 1.004 times what it takes without: medians of 5 sessions each" in text
    assert "takes 1.011 times what the fastest does" in text


def test_an_overload_tells_when_the_generator_was_late() -> None:
    one = {"recovery_s": None, "peak_rss_mb": 210.0, "rss_mb": 205.0} | dict.fromkeys(
        ("before", "overload", "after"), RUN
    )
    shed = {"requests": 1234, "mean_ms": 0.2, "p99_at_most_ms": 0.5}
    of = {"rss_before_mb": 200.0, "rounds": [one], "shed": shed}
    text = overload(PLACE | {"budget_ms": 10.0, "stores": {"local": of, "Redis": of}})
    assert "| 1 | 500 | 500 | 500 | never | 210 | 205 | 2.50 |" in text
    assert "1,234 requests were refused, on average 0.20 ms" in text
    assert text.count(REDIS) == 1


def test_a_delta_has_a_row_for_each_store_and_size() -> None:
    spread = {"median": 1.5, "max": 2.5}
    of = dict.fromkeys(("command_s", "start_to_served_s", "end_to_served_s"), spread)
    text = deltas(PLACE | {"poll_ms": 500, "stores": {"local": {"10000": of}}})
    assert "| local | 10,000 | 1.50 | 1.50 | 1.50 | 2.50 |" in text


def test_the_plot_is_the_same_file_each_time(tmp_path: Path) -> None:
    result = budgets_result(local=(1.0, 1.0, 1.0), redis=(1.0, 1.0, 1.0))
    first, second = tmp_path / "first" / "budgets.svg", tmp_path / "second" / "budgets.svg"
    for path in (first, second):
        draw_budgets(result, path)
    assert first.read_bytes() == second.read_bytes()
