"""Who asks and for what: the popularity of ids follows Zipf, and no item comes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from population import Population, release_populations

from ranktower.errors import ConfigError
from ranktower.registry import Registry

DRAWS = 20_000


def shares(population: Population, *, exponent: float) -> tuple[list[float], list[float]]:
    """Drawn and expected shares by rank, most popular first."""
    random = np.random.default_rng(1)
    counts: dict[str | int, int] = {}
    for _ in range(DRAWS):
        one = population.draw(random)
        counts[one] = counts.get(one, 0) + 1
    weights = [rank**-exponent for rank in range(1, len(population) + 1)]
    return sorted((n / DRAWS for n in counts.values()), reverse=True), [w / sum(weights) for w in weights]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_ids_are_drawn_by_zipf(exponent: float) -> None:
    """Within five standard errors of the largest share, at a fixed seed."""
    drawn, expected = shares(Population(np.arange(20) + 100, exponent=exponent), exponent=exponent)
    assert drawn == pytest.approx(expected, abs=5 * (0.25 / DRAWS) ** 0.5)


def test_the_popular_ids_are_the_same_everywhere_and_not_the_first() -> None:
    first = [Population(np.arange(1000), exponent=2.0).draw(np.random.default_rng(seed)) for seed in range(50)]
    again = [Population(np.arange(1000), exponent=2.0).draw(np.random.default_rng(seed)) for seed in range(50)]
    assert first == again
    assert max(set(first), key=first.count) != 0


def test_distinct_ids_are_drawn_by_popularity_from_the_rest() -> None:
    """Of three ids with weights 1, 1/2 and 1/3, the second is the most popular one's neighbour: P(first = rank k) is
    its weight over all, as for one id, and the order of a list is the order in which it was drawn."""
    population = Population(np.arange(6), exponent=1.0)
    random = np.random.default_rng(3)
    lists = [population.draw_distinct(random, 3) for _ in range(5000)]
    assert all(len(set(one)) == 3 for one in lists)
    firsts = sorted((sum(one[0] == item for one in lists) / 5000 for item in range(6)), reverse=True)
    weights = [1 / rank for rank in range(1, 7)]
    assert firsts == pytest.approx([weight / sum(weights) for weight in weights], abs=0.035)


@pytest.mark.parametrize(("stored", "asked", "given"), [(1, 1, 1), (1, 500, 1), (300, 300, 150), (7500, 2000, 2000)])
def test_at_most_half_of_the_ids_are_given(stored: int, asked: int, given: int) -> None:
    drawn = Population(np.arange(stored), exponent=1.0).draw_distinct(np.random.default_rng(0), asked)
    assert len(drawn) == len(set(drawn)) == given


def test_string_ids_are_text() -> None:
    population = Population(np.array(["ключ".encode()], dtype="S16"), exponent=1.0)
    assert population.draw(np.random.default_rng(0)) == "ключ"
    assert Population(np.array([12]), exponent=1.0).draw_distinct(np.random.default_rng(0), 1) == [12]


def test_a_registry_without_a_promoted_release_is_named(tmp_path: Path) -> None:
    Registry(tmp_path)
    with pytest.raises(ConfigError, match=f"--registry {tmp_path}: no promoted release of model 'demo'"):
        release_populations(tmp_path, "demo", exponent=1.0)
