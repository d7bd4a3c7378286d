"""Calls in turns, and the benchmarks of single calls on a few candidates."""

from __future__ import annotations

import operator_costs
import pytest
import scorer_profile
import scorer_variants
import session_options
from scorer_inputs import make_inputs, varied_model
from timing import in_turns, summary

from model_export.scorer_graph import build_scorer


def test_every_call_has_its_turn_in_every_round() -> None:
    seen: list[tuple[str, int]] = []
    calls = {name: lambda turn, name=name: seen.append((name, turn)) for name in ("a", "b")}
    times = in_turns(calls, 2)
    # Two rounds that do not count, with the number of the first.
    assert seen == [("a", 0), ("b", 0)] * 3 + [("a", 1), ("b", 1)]
    assert set(times) == {"a", "b"}
    seen.clear()
    in_turns(calls, 1, warmed=["b"])
    assert seen[-3:] == [("a", 0), ("b", 0), ("b", 0)]


def test_a_summary_has_the_median_and_the_99th_percentile() -> None:
    """Of 0 to 100 the quantile q is 100 q."""
    assert summary([float(number) for number in range(101)]) == {"median_us": 50.0, "p99_us": 99.0}


def test_all_variants_agree_with_torch() -> None:
    figures = scorer_variants.measure(num_candidates=9, repeats=1)
    assert scorer_variants.KEPT in figures
    assert all(of["max_difference"] < 1e-5 for of in figures.values()), figures


def test_the_profile_has_every_node_that_ran() -> None:
    nodes = scorer_profile.profile("projected", 9, 2)
    assert sum(node["share"] for node in nodes) == pytest.approx(1.0, abs=0.01)
    turned = next(node for node in nodes if node["node"] == "i_turned")
    assert (turned["operator"], turned["output"]) == ("Transpose", [[644, 9]])
    assert nodes[-1]["node"] == "scores"


@pytest.mark.parametrize("operator", operator_costs.OPERATORS, ids=lambda one: f"{one.group}: {one.name}")
def test_operators_run(operator: operator_costs.Operator) -> None:
    (first, *_) = operator_costs.call(operator)(0)
    assert first.ndim == operator.rank


def test_options_and_blocks_change_no_score() -> None:
    model = varied_model()
    content = build_scorer(model, kind="projected", dtype="float16").SerializeToString()
    inputs = make_inputs(model, 300, kind="projected", dtype="float16")
    calls = {**session_options.settings(content, inputs), **session_options.blocks(content, inputs, 300)}
    for name, call in {**calls, **session_options.threads(content, inputs)}.items():
        scores = call(0)
        scores = scores[0] if isinstance(scores, list) else scores
        assert scores == pytest.approx(inputs.expected, abs=1e-4), name
