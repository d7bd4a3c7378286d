"""What every ranker of the teacher must do; the list comes from the union, so that a new one cannot be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models.ranker import Ranker
from ranktower.models.ranker_choice import AnyRankerConfig, build_ranker
from ranktower.training.checkpoint import load_tensors, save_tensors
from ranktower.training.tensors import take

CONFIGS = get_args(get_args(AnyRankerConfig)[0])


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_fields["name"].default)
def ranker(request: pytest.FixtureRequest, user_sizes: FieldSizes, item_sizes: FieldSizes) -> Ranker:
    return built(request.param(), user_sizes, item_sizes)


def built(config: AnyRankerConfig, users: FieldSizes, items: FieldSizes) -> Ranker:
    torch.manual_seed(0)
    return build_ranker(config, users, items)


def pairs(users: SideFeatures, items: SideFeatures) -> tuple[SideFeatures, SideFeatures]:
    """Every user with every item."""
    num_users, num_items = len(users.codes), len(items.codes)
    places = torch.arange(num_users * num_items)
    return take(users, places // num_items), take(items, places % num_items)


def test_a_pair_is_scored_alike_alone_and_among_others(
    ranker: Ranker, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    users, items = pairs(user_features, item_features)
    together = ranker(users, items)
    assert together.shape == (66,)
    alone = torch.cat([ranker(take(users, place), take(items, place)) for place in torch.arange(66).split(1)])
    torch.testing.assert_close(together, alone)
    assert together.unique().numel() == 66


def test_the_score_is_of_the_pair_not_a_sum_of_sides(
    ranker: Ranker, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    # At the first weights' scale products of embeddings are small beside their sums.
    with torch.no_grad():
        ranker.embedding.weight *= 30
    scores = ranker(*pairs(user_features, item_features)).reshape(6, 11)
    sums = scores.mean(dim=1, keepdim=True) + scores.mean(dim=0, keepdim=True) - scores.mean()
    assert (scores - sums).abs().max() > 1e-3


def test_gradients_reach_every_parameter_and_every_field(
    ranker: Ranker,
    user_sizes: FieldSizes,
    item_sizes: FieldSizes,
    user_features: SideFeatures,
    item_features: SideFeatures,
) -> None:
    ranker(*pairs(user_features, item_features)).square().sum().backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    # One table holds all fields, below one another.
    fields = {**user_sizes.single, **item_sizes.single, **user_sizes.bags, **item_sizes.bags}
    assert ranker.embedding.weight.grad is not None
    for name, part in zip(fields, ranker.embedding.weight.grad.split(list(fields.values())), strict=True):
        assert part.abs().sum() > 0, name


def test_equal_seeds_give_equal_rankers_and_files_keep_them(
    ranker: Ranker,
    request: pytest.FixtureRequest,
    user_features: SideFeatures,
    item_features: SideFeatures,
    tmp_path: Path,
) -> None:
    sizes = request.getfixturevalue("user_sizes"), request.getfixturevalue("item_sizes")
    config = request.node.callspec.params["ranker"]()
    scores = ranker(*pairs(user_features, item_features))
    assert torch.equal(built(config, *sizes)(*pairs(user_features, item_features)), scores)
    save_tensors(tmp_path / "ranker.safetensors", dict(ranker.state_dict()), {})
    torch.manual_seed(1)
    other = build_ranker(config, *sizes)
    assert not torch.equal(other(*pairs(user_features, item_features)), scores)
    other.load_state_dict(load_tensors(tmp_path / "ranker.safetensors")[0])
    assert torch.equal(other(*pairs(user_features, item_features)), scores)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_scores_are_finite_whatever_the_embeddings(
    ranker: Ranker, scale: float, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    with torch.no_grad():
        ranker.embedding.weight *= scale
    assert ranker(*pairs(user_features, item_features)).isfinite().all()
