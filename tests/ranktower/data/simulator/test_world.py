"""The hidden truth: affinities by the formula, and features that carry part of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ranktower.data.simulator.options import SimulatorOptions
from ranktower.data.simulator.world import SPEC, World, item_table, make_world, user_table

OPTIONS = SimulatorOptions(num_users=3000, num_items=4000, seed=11)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(OPTIONS, np.random.default_rng(5))


@pytest.fixture(scope="module")
def users(world: World) -> pl.DataFrame:
    return user_table(world, np.random.default_rng(6))


@pytest.fixture(scope="module")
def items(world: World) -> pl.DataFrame:
    return item_table(world, OPTIONS, np.random.default_rng(7))


def small_world() -> World:
    return World(
        user_factors=np.array([[[1, 2, 0, 0]], [[0, 0, 3, 1]]], dtype=np.float32),
        item_factors=np.array([[2, 1, 0, 0], [0, 0, 0, 4], [1, 1, 1, 1]], dtype=np.float32),
        quality=np.array([0.5, -1.0, 0.0], dtype=np.float32),
        taste=np.zeros((2, 1), dtype=np.float32),
        segment=np.zeros(2, dtype=np.int64),
        category=np.zeros(3, dtype=np.int64),
        popularity=np.full(3, 1 / 3),
    )


def test_affinity_by_hand() -> None:
    # <(1,2,0,0), (2,1,0,0)> = 4, over sqrt(4) = 2, plus 0.5; and <(0,0,3,1), (0,0,0,4)> = 4, 2, minus 1.
    affinity = small_world().affinity(np.array([0, 1]), np.array([0, 1]))
    assert affinity.tolist() == [2.5, 1.0]
    assert affinity.dtype == np.float32


def test_of_several_interests_the_best_counts() -> None:
    world = small_world()
    both = replace(world, user_factors=world.user_factors.reshape(1, 2, 4))
    items = np.arange(3)
    single = world.affinity(np.arange(2)[:, None], items[None, :])
    assert both.affinity(np.array([0]), items).tolist() == single.max(axis=0).tolist()


def test_several_interests_lie_in_several_clusters() -> None:
    world = make_world(replace(OPTIONS, num_interests=3), np.random.default_rng(5))
    assert world.user_factors.shape == (3000, 3, OPTIONS.latent_size)
    far = np.linalg.norm(world.user_factors[:, 0] - world.user_factors[:, 1], axis=1)
    assert float(np.median(far)) > 4  # sqrt(2 d) = 5.7 apart, as independent ones are
    of_one = make_world(OPTIONS, np.random.default_rng(5))
    assert (world.taste > 1.5).sum() > 2 * (of_one.taste > 1.5).sum()


def test_affinity_broadcasts_to_all_pairs() -> None:
    affinity = small_world().affinity(np.arange(2)[:, None], np.arange(3)[None, :])
    assert affinity.tolist() == [[2.5, -1.0, 1.5], [0.5, 1.0, 2.0]]


def test_scale_of_affinities(world: World) -> None:
    # <u, v> / sqrt(d) of independent unit-variance entries has variance 1 or, with common clusters, a little more;
    # quality adds 0.25.
    rng = np.random.default_rng(0)
    pairs = world.affinity(rng.integers(3000, size=50_000), rng.integers(4000, size=50_000))
    assert abs(float(pairs.mean())) < 0.2
    assert 0.9 < float(pairs.std()) < 1.7


def test_tables_have_what_the_specification_names(users: pl.DataFrame, items: pl.DataFrame) -> None:
    assert users.columns == [feature.name for feature in SPEC.user_features]
    assert items.columns == [feature.name for feature in SPEC.item_features]
    assert users["user_id"].to_list() == list(range(1, 3001))
    assert items["item_id"].to_list() == list(range(1_000_001, 1_004_001))
    assert users["interests"].list.len().unique().to_list() == [3]
    assert items["tags"].list.len().unique().to_list() == [3]


def test_some_values_are_missing(users: pl.DataFrame, items: pl.DataFrame) -> None:
    assert 0.02 < users["age"].null_count() / users.height < 0.04
    assert 0.02 < items["rating"].null_count() / items.height < 0.04
    assert items["price"].null_count() == 0


def test_users_like_items_of_their_segment_more(world: World) -> None:
    same = world.segment[:, None] == world.category[None, :1000]
    affinity = world.affinity(np.arange(3000)[:, None], np.arange(1000)[None, :])
    # A shared centre c gives share * |c|^2 / sqrt(d), about 0.5 * sqrt(16) = 2.
    assert 1.3 < float(affinity[same].mean() - affinity[~same].mean()) < 2.7


def test_interests_name_categories_that_the_user_likes(world: World, users: pl.DataFrame) -> None:
    interests = users["interests"].list.to_struct(fields=["a", "b", "c"]).struct.unnest()
    codes = np.stack([interests[name].str.slice(1).cast(pl.Int64).to_numpy() for name in "abc"], axis=1)
    taste = np.take_along_axis(world.taste, codes, axis=1)
    assert float(taste[:, 0].mean()) > float(taste[:, 2].mean()) > float(world.taste.mean()) + 0.5


def variance_explained(values: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of ``values`` [n] (or [n, d]) between the groups [n]."""
    total = ((values - values.mean(axis=0)) ** 2).sum()
    within = sum(((values[groups == g] - values[groups == g].mean(axis=0)) ** 2).sum() for g in np.unique(groups))
    return float(1 - within / total)


def test_clusters_explain_about_half_of_the_latent_vectors(
    world: World, users: pl.DataFrame, items: pl.DataFrame
) -> None:
    segments, categories = users["segment"].to_numpy(), items["category"].to_numpy()
    assert 0.35 < variance_explained(world.user_factors[:, 0], segments) < 0.6
    assert 0.35 < variance_explained(world.item_factors, categories) < 0.6
    assert variance_explained(world.user_factors[:, 0], users["region"].to_numpy()) < 0.01


def test_tags_carry_part_of_the_item(world: World, items: pl.DataFrame) -> None:
    first = items["tags"].list.first().to_numpy()
    shuffled = np.random.default_rng(1).permutation(first)
    explained, chance = (variance_explained(world.item_factors, tags) for tags in (first, shuffled))
    assert chance < 0.03
    assert explained > 5 * chance


def test_rating_tells_of_quality_and_price_does_not(world: World, items: pl.DataFrame) -> None:
    there = items["rating"].is_not_null().to_numpy()
    quality = world.quality[there]
    rating = items["rating"].to_numpy()[there]
    assert np.corrcoef(rating, quality)[0, 1] > 0.8
    assert abs(np.corrcoef(np.log(items["price"].to_numpy()), world.quality)[0, 1]) < 0.1


def test_popularity_is_a_zipf_law_that_follows_quality(world: World) -> None:
    assert world.popularity.sum() == pytest.approx(1)
    ranked = np.sort(world.popularity)[::-1]
    # Weight of rank r is r^-0.8, so the first over the hundredth is 100^0.8.
    assert ranked[0] / ranked[99] == pytest.approx(100**0.8)
    assert np.corrcoef(np.log(world.popularity), world.quality)[0, 1] > 0.4


def test_no_exponent_is_no_skew() -> None:
    options = SimulatorOptions(num_users=5, num_items=100, popularity_exponent=0)
    assert np.allclose(make_world(options, np.random.default_rng(0)).popularity, 0.01)


def test_few_categories_give_short_interests() -> None:
    options = SimulatorOptions(num_users=5, num_items=30, num_categories=2, num_tags=1)
    world = make_world(options, np.random.default_rng(0))
    assert user_table(world, np.random.default_rng(0))["interests"].list.len().to_list() == [2] * 5
    assert item_table(world, options, np.random.default_rng(0))["tags"].list.len().unique().to_list() == [1]
