from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models import RankTower, RankTowerConfig

SHAPES = [(4, 4, 32, 32), (2, 3, 16, 8), (1, 1, 8, 8), (5, 2, 8, 24)]


def build(shape: tuple[int, int, int, int], users: FieldSizes, items: FieldSizes) -> RankTower:
    torch.manual_seed(3)
    config = RankTowerConfig(
        num_user_heads=shape[0], num_item_heads=shape[1], width=shape[2], attention_width=shape[3], hidden=(24, 20)
    )
    model = RankTower(config, users, items)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # the initial 1 and 0 would hide a swapped LayerNorm
                parameter.normal_(1.0, 0.3)
            if "cross_attention" in name and parameter.dim() == 2:  # so that attention is far from uniform
                parameter.mul_(4)
    return model


def score_all(model: RankTower, users: SideFeatures, items: SideFeatures) -> torch.Tensor:
    rows = model.encode_items(items)
    lists = tuple(array.expand(len(users.codes), *array.shape) for array in rows)
    return model.score_pairs(model.encode_users(users), lists)


@pytest.mark.parametrize("shape", SHAPES)
def test_decoupled_scores_equal_the_papers_formulas(
    shape: tuple[int, int, int, int],
    paper: ModuleType,
    user_sizes: FieldSizes,
    item_sizes: FieldSizes,
    user_features: SideFeatures,
    item_features: SideFeatures,
) -> None:
    model = build(shape, user_sizes, item_sizes)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        scores = score_all(model, user_features, item_features).numpy()
        x_users = model.user_tower.embedding(user_features).double().numpy()
        x_items = model.item_tower.embedding(item_features).double().numpy()
    expected = [[paper.paper_score(state, u, i, heads=shape[:2]) for i in x_items] for u in x_users]
    tau = model.similarity.tau.item()
    np.testing.assert_allclose(scores * tau, np.array(expected) * tau, atol=1e-5, rtol=0)
    assert np.ptp(scores) * tau > 0.05, "the scores must differ, or their agreement says nothing"


def test_a_side_runs_alone_and_gives_five_arrays(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    model = build((2, 3, 16, 8), user_sizes, item_sizes)
    users, items = model.encode_users(user_features), model.encode_items(item_features)
    assert [tuple(array.shape) for array in users] == [(6, 2, 16), (6, 2, 8), (6, 2, 8), (6, 2, 8), (6, 2, 8)]
    assert [tuple(array.shape) for array in items] == [(11, 3, 16), (11, 3, 8), (11, 3, 8), (11, 3, 8), (11, 3, 8)]


def test_a_list_scores_like_its_items_one_by_one(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    model = build((4, 4, 32, 32), user_sizes, item_sizes)
    together = score_all(model, user_features, item_features)
    users, items = model.encode_users(user_features), model.encode_items(item_features)
    for b in range(6):
        for j in range(11):
            alone = model.score_pairs(
                tuple(a[b : b + 1] for a in users), tuple(a[j : j + 1].unsqueeze(0) for a in items)
            )
            torch.testing.assert_close(alone[0, 0], together[b, j], atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    model = build((2, 3, 16, 8), user_sizes, item_sizes)
    score_all(model, user_features, item_features).sin().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_scores_and_gradients_stay_finite_at_extremes(
    value: float, user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures
) -> None:
    model = build((2, 3, 16, 8), user_sizes, item_sizes)
    embedding = torch.full((1, 4, 3, 16), value, requires_grad=True)
    items = model.cross_attention.project_items(embedding)
    users = tuple(array[:1] for array in model.encode_users(user_features))
    scores = model.score_pairs(users, items)
    scores.sum().backward()
    assert embedding.grad is not None
    assert torch.isfinite(scores).all()
    assert torch.isfinite(embedding.grad).all()


def test_config_names_an_unknown_key() -> None:
    with pytest.raises(ValidationError, match="num_heads"):
        RankTowerConfig.model_validate({"num_heads": 4})


def test_a_zero_output_begins_as_maximum_similarity_of_layer_normed_towers(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    model = RankTower(RankTowerConfig(zero_output=True), user_sizes, item_sizes).eval()
    users, items = model.encode_users(user_features), model.encode_items(item_features)
    lists = tuple(array.expand(6, *array.shape) for array in items)
    expected = torch.zeros(6, 11)
    for u, i in itertools.product(range(6), range(11)):
        a, b = (torch.nn.functional.layer_norm(side.embedding[row], (32,)) for side, row in ((users, u), (items, i)))
        expected[u, i] = torch.cosine_similarity(a[:, None], b[None], dim=-1).amax(dim=1).sum() / model.similarity.tau
    torch.testing.assert_close(model.score_pairs(users, lists), expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_drawn_in_training_alone(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures
) -> None:
    model = RankTower(RankTowerConfig(dropout=0.5), user_sizes, item_sizes)
    assert not torch.equal(model.encode_users(user_features)[0], model.encode_users(user_features)[0])
    model.eval()
    assert torch.equal(model.encode_users(user_features)[0], model.encode_users(user_features)[0])
