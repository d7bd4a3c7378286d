"""Paired tests, against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit

from offline.experiment.significance import difference


def test_the_t_test_is_students() -> None:
    generator = np.random.default_rng(0)
    others = generator.random(50)
    values = others + generator.normal(0.02, 0.1, 50)
    d = values - others
    error = d.std(ddof=1) / math.sqrt(50)
    found = difference(values, others)
    assert found.mean == pytest.approx(d.mean())
    assert found.p_t == pytest.approx(2 * stdtr(49, -abs(d.mean() / error)))
    half = stdtrit(49, 0.975) * error
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))


def test_wilcoxon_is_the_normal_approximation_of_the_signed_ranks() -> None:
    d = np.random.default_rng(1).normal(0.3, 1.0, 40)
    ranks = np.argsort(np.argsort(np.abs(d))) + 1
    mean, variance = 40 * 41 / 4, 40 * 41 * 81 / 24
    smaller = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    z = (smaller - mean) / math.sqrt(variance)
    assert difference(d, np.zeros(40)).p_wilcoxon == pytest.approx(math.erfc(-z / math.sqrt(2)))


def test_equal_models_do_not_differ() -> None:
    values = np.random.default_rng(0).random(10)
    found = difference(values, values)
    assert (found.mean, found.low, found.high, found.p_t, found.p_wilcoxon) == (0, 0, 0, 1, 1)


def test_other_users_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="tested on 3 and 4 users"):
        difference(np.zeros(3), np.zeros(4))
