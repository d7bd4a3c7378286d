"""Paired tests, against the formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit

from offline.experiment.protocol import SignificanceOptions
from offline.experiment.significance import Difference, bootstrap, corrected, difference, holm

OPTIONS = SignificanceOptions(num_draws=100)


def test_the_t_test_is_students() -> None:
    generator = np.random.default_rng(0)
    others = generator.random(50)
    values = others + generator.normal(0.02, 0.1, 50)
    d = values - others
    error = d.std(ddof=1) / math.sqrt(50)
    # Two seeds that are as far above it as below: their mean is what is tested.
    found = difference(np.stack([values + 0.1, values - 0.1]), np.stack([others, others]), OPTIONS)
    assert found.mean == pytest.approx(d.mean())
    assert found.relative == pytest.approx(d.mean() / others.mean())
    assert found.p_t == pytest.approx(2 * stdtr(49, -abs(d.mean() / error)))
    half = stdtrit(49, 0.975) * error
    assert found.over_users == pytest.approx((d.mean() - half, d.mean() + half))


def test_wilcoxon_is_the_normal_approximation_of_the_signed_ranks() -> None:
    d = np.random.default_rng(1).normal(0.3, 1.0, 40)
    ranks = np.argsort(np.argsort(np.abs(d))) + 1
    mean, variance = 40 * 41 / 4, 40 * 41 * 81 / 24
    smaller = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    z = (smaller - mean) / math.sqrt(variance)
    assert difference(d[None], np.zeros((1, 40)), OPTIONS).p_wilcoxon == pytest.approx(math.erfc(-z / math.sqrt(2)))


def test_equal_models_do_not_differ() -> None:
    values = np.random.default_rng(0).random((2, 10))
    found = difference(values, values, OPTIONS)
    assert (found.mean, found.over_users, found.over_both, found.p_t, found.p_wilcoxon) == (0, (0, 0), (0, 0), 1, 1)


def test_other_users_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"tested on \(1, 3\) and \(1, 4\) seeds and users"):
        difference(np.zeros((1, 3)), np.zeros((1, 4)), OPTIONS)


def test_the_bootstrap_has_the_variance_of_users_and_of_seeds() -> None:
    """Where a difference is a seed's effect and a user's, the two means are drawn apart, and their variances add up."""
    generator = np.random.default_rng(2)
    seeds, users = generator.normal(0.0, 0.05, 20), generator.normal(0.3, 1.0, 400)
    both = bootstrap(seeds[:, None] + users, SignificanceOptions(num_draws=8000))
    error = math.sqrt(seeds.var() / 20 + users.var() / 400)
    center = seeds.mean() + users.mean()
    assert both == pytest.approx((center - 1.96 * error, center + 1.96 * error), abs=0.1 * error)
    one = bootstrap(users[None], SignificanceOptions(num_draws=8000))
    assert one[1] - one[0] == pytest.approx(2 * 1.96 * users.std() / 20, rel=0.05)


def test_the_bootstrap_is_the_same_every_time() -> None:
    values = np.random.default_rng(0).random((3, 30))
    assert bootstrap(values, OPTIONS) == bootstrap(values, OPTIONS)
    assert bootstrap(values, OPTIONS) != bootstrap(values, SignificanceOptions(num_draws=100, seed=1))


def test_holms_correction_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_both_tests_are_corrected() -> None:
    one = Difference(0.1, 0.2, (0.0, 0.2), (0.0, 0.2), 0.01, 0.02)
    found = corrected({"a": one, "b": replace(one, p_t=0.5)})
    assert {name: (of.p_t, of.p_wilcoxon) for name, of in found.items()} == {"a": (0.02, 0.04), "b": (0.5, 0.04)}
