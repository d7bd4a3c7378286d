"""What is asked: bodies that the service's own schema takes, in the shares that were asked for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from population import Population
from traffic import KINDS, Habits, Request, Traffic, parse_budgets, parse_mix

from ranktower.errors import ConfigError

ITEMS = 4000
HABITS = Habits(mix={"score": 1.0}, budgets={None: 1.0})


def drawn(count: int = 2000, **changes: Any) -> list[Request]:
    keys = {"mix": HABITS.mix, "budgets": HABITS.budgets} | changes
    users, items = (Population(np.arange(size), exponent=1.0) for size in (100, ITEMS))
    traffic = Traffic({"user": users, "item": items}, Habits(**keys), seed=5)
    return [traffic.draw() for _ in range(count)]


def body(request: Request) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(request.body)
    return content


def test_kinds_come_in_their_shares() -> None:
    requests = drawn(4000, mix={"score": 3.0, "rank": 1.0, "bad": 0.0})
    counts = Counter(request.kind for request in requests)
    assert set(counts) == {"score", "rank"}
    assert counts["rank"] / len(requests) == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize(
    ("kind", "path", "keys"),
    [
        ("score", "/v1/score", {"user_id", "candidate_ids"}),
        ("rank", "/v1/rank", {"user_id", "candidate_ids", "top_k"}),
        ("retrieve", "/v1/rank", {"user_id", "num_candidates", "top_k"}),
        ("explain", "/v1/explain", {"user_id", "candidate_ids"}),
    ],
)
def test_each_kind_has_its_fields(kind: str, path: str, keys: set[str]) -> None:
    for request in drawn(20, mix={kind: 1.0}):
        assert (request.kind, request.path, request.expected, request.budget_ms) == (kind, path, 200, None)
        assert set(body(request)) == keys


def test_numbers_of_candidates_are_log_normal_and_cut() -> None:
    sizes = [len(body(request)["candidate_ids"]) for request in drawn(median_candidates=300, max_candidates=900)]
    assert 1 <= min(sizes) < 150
    assert max(sizes) == 900
    assert np.median(sizes) == pytest.approx(300, rel=0.06)
    # ln of the quartiles is 0.6745 standard deviations from ln of the median.
    assert np.log(np.percentile(sizes, 75) / np.percentile(sizes, 25)) == pytest.approx(2 * 0.6745 * 0.6, rel=0.1)


def test_no_candidate_comes_twice_and_some_are_unknown() -> None:
    bodies = [body(request) for request in drawn(300, unknown_items=0.1, unknown_users=0.3)]
    assert all(len(set(one["candidate_ids"])) == len(one["candidate_ids"]) for one in bodies)
    ids = [one for each in bodies for one in each["candidate_ids"]]
    assert sum(isinstance(one, str) for one in ids) / len(ids) == pytest.approx(0.1, abs=0.01)
    assert sum(isinstance(one["user_id"], str) for one in bodies) / 300 == pytest.approx(0.3, abs=0.1)
    assert all(one.startswith("unknown-") for one in ids if isinstance(one, str))


def test_budgets_come_in_their_shares_and_stand_in_the_body() -> None:
    requests = drawn(3000, budgets={10.0: 1.0, None: 1.0})
    assert Counter(body(request).get("budget_ms") for request in requests) == Counter(
        request.budget_ms for request in requests
    )
    assert sum(request.budget_ms is None for request in requests) / 3000 == pytest.approx(0.5, abs=0.05)


def test_bad_requests_are_bad_in_three_ways() -> None:
    seen = set()
    for request in drawn(60, mix={"bad": 1.0}, too_many=50):
        assert request.budget_ms is None
        try:
            content = body(request)
        except ValueError:
            seen.add(("no JSON", request.expected))
            continue
        what = "too many" if len(content["candidate_ids"]) == 50 else f"user {content['user_id']}"
        seen.add((what, request.expected))
    assert seen == {("no JSON", 422), ("too many", 413), ("user 1.5", 422)}


def test_arrivals_have_the_distances_of_a_poisson_process() -> None:
    """Exponential: mean and standard deviation are both 1 / rate."""
    population = Population(np.arange(2), exponent=1.0)
    traffic = Traffic({"user": population, "item": population}, HABITS, seed=1)
    gaps = [traffic.next_gap_s(4.0) for _ in range(10_000)]
    assert np.mean(gaps) == pytest.approx(0.25, rel=0.05)
    assert np.std(gaps) == pytest.approx(0.25, rel=0.05)


def test_weights_are_read() -> None:
    assert parse_mix("score=84, bad=2") == {"score": 84.0, "bad": 2.0}
    assert parse_budgets("7.5=1,none=2") == {7.5: 1.0, None: 2.0}
    assert set(parse_mix("score=84,rank=5,retrieve=8,explain=1,bad=2")) == set(KINDS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("score=x", "--mix score=x: 'x' is no number"),
        ("score=inf", "--mix score=inf: 'inf' is not finite"),
        ("score=nan", "--mix score=nan: 'nan' is not finite"),
        ("score=-1", "--mix score=-1: expected name=weight,..., each name once, got 'score=-1'"),
        ("score=1,score=2", "--mix score=1,score=2: expected name=weight,..., each name once, got 'score=2'"),
        ("score=0", "--mix score=0: all weights are 0"),
        ("scores=1", "--mix scores=1: 'scores' is none of score, rank, retrieve, explain, bad"),
    ],
)
def test_a_wrong_mix_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mix(text)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("text", "told"), [("0=1", "--budgets-ms 0=1: 0 must be above 0"), ("a=1", "--budgets-ms a=1: 'a' is no number")]
)
def test_a_wrong_budget_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_budgets(text)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unknown_users": 1.5}, "--unknown-users 1.5: must be a share, 0 to 1"),
        ({"unknown_items": -0.1}, "--unknown-items -0.1: must be a share, 0 to 1"),
        ({"median_candidates": 0}, "--candidates 0, --max-candidates 2000: must be at least 1"),
        (
            {"max_candidates": 100},
            "--candidates 500, --max-candidates 100: must be at least 1",
        ),
    ],
)
def test_habits_that_cannot_be_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        drawn(1, **changes)
    assert str(caught.value).startswith(told)
