"""The hidden truth of a simulation: latent factors of users and items, and the features that carry part of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.simulator.options import SimulatorOptions

FIRST_USER_ID = 1
FIRST_ITEM_ID = 1_000_001

# Of a latent vector's variance, the part that its cluster explains; the rest no feature but the id can tell.
_CLUSTER_SHARE = 0.5
_MISSING_SHARE = 0.03
_NUM_VALUES = 3

SPEC = FeatureSpec(
    user_features=(
        Feature(name="user_id", kind="categorical"),
        Feature(name="segment", kind="categorical"),
        Feature(name="region", kind="categorical"),
        Feature(name="age", kind="continuous"),
        Feature(name="interests", kind="multi_categorical", max_length=_NUM_VALUES),
    ),
    item_features=(
        Feature(name="item_id", kind="categorical"),
        Feature(name="category", kind="categorical"),
        Feature(name="price", kind="continuous"),
        Feature(name="rating", kind="continuous"),
        Feature(name="tags", kind="multi_categorical", max_length=_NUM_VALUES),
    ),
    feedback={"click": 1.0, "conversion": 1.0},
)


@dataclass(frozen=True, eq=False)
class World:
    """Latent factors.

    Attributes:
        user_factors: float32 [num_users, num_interests, latent_size].
        item_factors: float32 [num_items, latent_size].
        quality: float32 [num_items], what an item is worth to everybody.
        taste: float32 [num_users, num_categories], how near a user's nearest interest is to each cluster.
        segment: int [num_users], the cluster of each user's first interest.
        category: int [num_items], the cluster of each item.
        popularity: float64 [num_items], weights of recall, sum 1.
    """

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    quality: NDArray[np.float32]
    taste: NDArray[np.float32]
    segment: NDArray[np.int64]
    category: NDArray[np.int64]
    popularity: NDArray[np.float64]

    def affinity(self, user_rows: NDArray[np.integer], item_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """True affinity ``max <u, v> / sqrt(latent_size) + quality`` of pairs, over the user's interests ``u``; the two
        shapes broadcast."""
        items = self.item_factors[item_rows]
        # One interest at a time: the pairs of a whole log take their memory once.
        interests = (self.user_factors[:, k] for k in range(self.user_factors.shape[1]))
        products = (np.einsum("...d,...d->...", factors[user_rows], items) for factors in interests)
        scale = np.float32(items.shape[-1] ** -0.5)
        affinity: NDArray[np.float32] = reduce(np.maximum, products) * scale + self.quality[item_rows]
        return affinity


def make_world(options: SimulatorOptions, rng: np.random.Generator) -> World:
    """Draw users and items around common clusters, and the items' popularity, which follows quality in part."""
    centres = rng.standard_normal((options.num_categories, options.latent_size), dtype=np.float32)
    segments = rng.integers(options.num_categories, size=(options.num_users, options.num_interests))
    category = rng.integers(options.num_categories, size=options.num_items)
    users, items = _around(centres[segments], rng), _around(centres[category], rng)
    quality = 0.5 * rng.standard_normal(options.num_items, dtype=np.float32)
    fame = quality + 0.5 * rng.standard_normal(options.num_items, dtype=np.float32)
    weights = np.empty(options.num_items)
    weights[np.argsort(-fame, kind="stable")] = np.arange(1, options.num_items + 1) ** -float(
        options.popularity_exponent
    )
    taste = (users @ centres.T * np.float32(options.latent_size**-0.5)).max(axis=1)
    return World(users, items, quality, taste, segments[:, 0], category, weights / weights.sum())


def _around(centres: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    own = rng.standard_normal(centres.shape, dtype=np.float32)
    return np.float32(_CLUSTER_SHARE**0.5) * centres + np.float32((1 - _CLUSTER_SHARE) ** 0.5) * own


def user_table(world: World, rng: np.random.Generator) -> pl.DataFrame:
    """``segment`` is the first interest's cluster, ``interests`` the nearest categories with noise, ``age`` one
    direction of the first interest with noise; ``region`` carries nothing, as some features of real data do.
    """
    num_users = len(world.user_factors)
    interests = _nearest(world.taste, rng)
    age = np.clip(40 + 12 * _direction(world.user_factors[:, 0], rng) + 4 * rng.standard_normal(num_users), 13, 99)
    return pl.DataFrame(
        {
            "user_id": np.arange(FIRST_USER_ID, FIRST_USER_ID + num_users),
            "segment": _names("s", world.segment),
            "region": _names("r", rng.integers(12, size=num_users)),
            "age": _with_gaps(np.round(age, 1), rng),
            "interests": _name_lists("c", interests),
        }
    )


def item_table(world: World, options: SimulatorOptions, rng: np.random.Generator) -> pl.DataFrame:
    """``category`` is the item's cluster, ``tags`` the nearest of random directions with noise, ``price`` one direction
    of the latent vector and ``rating`` the quality, both with noise.
    """
    directions = rng.standard_normal((options.num_tags, options.latent_size), dtype=np.float32)
    tags = _nearest(world.item_factors @ directions.T * np.float32(options.latent_size**-0.5), rng)
    price = np.exp(3 + 0.8 * _direction(world.item_factors, rng) + 0.3 * rng.standard_normal(options.num_items))
    rating = 3 + world.quality + 0.3 * rng.standard_normal(options.num_items)
    return pl.DataFrame(
        {
            "item_id": np.arange(FIRST_ITEM_ID, FIRST_ITEM_ID + options.num_items),
            "category": _names("c", world.category),
            "price": np.round(price, 2),
            "rating": _with_gaps(np.round(np.clip(rating, 1, 5), 2), rng),
            "tags": _name_lists("t", tags),
        }
    )


def _direction(factors: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Projection of the factors on one random unit vector: variance about 1."""
    vector = rng.standard_normal(factors.shape[1], dtype=np.float32)
    projected: NDArray[np.float32] = factors @ (vector / np.linalg.norm(vector))
    return projected


def _nearest(scores: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """The few best columns of each row under noise, best first."""
    noisy = scores + 0.5 * rng.standard_normal(scores.shape, dtype=np.float32)
    best: NDArray[np.int64] = np.argsort(-noisy, axis=1, kind="stable")[:, :_NUM_VALUES]
    return best


def _names(letter: str, codes: NDArray[np.int64]) -> pl.Series:
    return letter + pl.Series(codes).cast(pl.String)


def _name_lists(letter: str, codes: NDArray[np.int64]) -> pl.Series:
    width = codes.shape[1]
    return _names(letter, codes.reshape(-1)).reshape((-1, width)).arr.to_list()


def _with_gaps(values: NDArray[np.floating], rng: np.random.Generator) -> pl.Series:
    missing = rng.random(len(values)) < _MISSING_SHARE
    return pl.Series(values, dtype=pl.Float64).set(pl.Series(missing), None)
