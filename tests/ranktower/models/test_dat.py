from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.errors import ConfigError
from ranktower.models import DAT, DATConfig, EncodedLists
from ranktower.models.dat import category_alignment_loss

Build = Callable[..., DAT]


@pytest.fixture
def build(user_sizes: FieldSizes, item_sizes: FieldSizes) -> Build:
    def make(**options: object) -> DAT:
        torch.manual_seed(0)
        config = DATConfig.model_validate({"width": 12, "hidden": (20,), "initial_tau": 0.2} | options)
        return DAT(config, user_sizes, item_sizes).double()

    return make


@pytest.fixture
def make_lists(encode: Callable[..., EncodedLists]) -> Callable[[DAT], EncodedLists]:
    """Of six users with up to five of eleven items; labels 0 to 3."""

    def make(model: DAT) -> EncodedLists:
        generator = torch.Generator().manual_seed(5)
        mask = torch.arange(5) < torch.tensor([5, 3, 0, 4, 1, 2]).unsqueeze(1)
        labels = torch.randint(4, (6, 5), generator=generator).double()
        return encode(model, torch.randint(11, (6, 5), generator=generator), labels, mask)

    return make


def auxiliary(model: DAT, lists: EncodedLists) -> torch.Tensor:
    return model.auxiliary_loss(lists, model.score_pairs(lists.users, lists.item_lists()))


def test_the_augmented_vector_of_the_id_is_part_of_the_towers_input(build: Build, user_features: SideFeatures) -> None:
    model = build()
    tower = model.user_tower
    with torch.no_grad():
        embedded, row = tower.embedding(user_features), model.encode_users(user_features)[0]
        own = torch.stack([tower.augmented.weight[code] for code in user_features.codes[:, 0].tolist()])
        expected = tower.network(torch.cat([embedded, own], dim=1))
    torch.testing.assert_close(row, expected / expected.norm(dim=1, keepdim=True))


def test_a_score_is_the_cosine_over_tau(build: Build, user_features: SideFeatures, item_features: SideFeatures) -> None:
    model = build()
    users, items = model.encode_users(user_features)[0], model.encode_items(item_features)[0]
    scores = model.score_pairs((users,), (items.expand(6, 11, 12),))
    torch.testing.assert_close(scores, torch.einsum("bw,nw->bn", users, items) / 0.2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("above", [0.0, 1.0])
def test_mimic_loss_is_the_distance_to_the_other_side_over_positive_pairs(
    above: float, build: Build, make_lists: Callable[[DAT], EncodedLists]
) -> None:
    model = build(mimic_weight=3.0, mimic_above=above)
    lists = make_lists(model)
    p_users, p_items = (rows[0].detach().numpy() for rows in (lists.users, lists.items))
    a_users = model.user_tower.augmented.weight.detach().numpy()[lists.user_features.codes[:, 0]]
    a_items = model.item_tower.augmented.weight.detach().numpy()[lists.item_features.codes[:, 0]]
    distances = []
    for user, item_places in enumerate(lists.places.tolist()):
        for column, item in enumerate(item_places):
            if lists.mask[user, column] and lists.labels[user, column] > above:
                to_item = float(np.linalg.norm(a_users[user] - p_items[item]))
                to_user = float(np.linalg.norm(a_items[item] - p_users[user]))
                distances.append(to_item**2 + to_user**2)
    assert 3 < len(distances) < int(lists.mask.sum())
    assert auxiliary(model, lists).item() == pytest.approx(3 * np.mean(distances), rel=1e-12)


def test_mimic_loss_moves_the_augmented_vectors_alone(build: Build, make_lists: Callable[[DAT], EncodedLists]) -> None:
    model = build()
    auxiliary(model, make_lists(model)).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"user_tower.augmented.weight", "item_tower.augmented.weight"}


@pytest.mark.parametrize("options", [{}, {"category_field": "price"}, {"mimic_weight": 0}])
def test_a_batch_without_a_positive_mimics_nothing(
    options: dict[str, object], build: Build, make_lists: Callable[[DAT], EncodedLists]
) -> None:
    model = build(**options)
    lists = make_lists(model)
    lists = replace(lists, labels=torch.zeros_like(lists.labels), mask=torch.zeros_like(lists.mask))
    loss = auxiliary(model, lists)
    assert loss.item() == 0
    if loss.requires_grad:
        loss.backward()
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_alignment_loss_compares_covariances_with_the_largest_categorys() -> None:
    generator = np.random.default_rng(2)
    categories = np.array([4, 2, 0, 2, 4, 7, 2, 9, 9, 0, 4, 2, 0, 0, 0])
    vectors = generator.standard_normal((15, 6))
    covariances = {code: np.cov(vectors[categories == code], rowvar=False) for code in (2, 4, 9)}
    expected = sum(np.linalg.norm(covariances[2] - covariances[code], "fro") ** 2 for code in (4, 9))
    loss = category_alignment_loss(torch.from_numpy(vectors), torch.from_numpy(categories))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("categories", [[], [1, 2, 3], [0, 0, 0], [5, 5, 1]])
def test_alignment_loss_needs_two_categories_of_two_items(categories: list[int]) -> None:
    vectors = torch.randn(len(categories), 4, requires_grad=True)
    loss = category_alignment_loss(vectors, torch.tensor(categories, dtype=torch.int64))
    assert loss.item() == 0


def test_alignment_loss_takes_the_items_of_the_lists_and_its_weight(
    build: Build, make_lists: Callable[[DAT], EncodedLists]
) -> None:
    model = build(mimic_weight=0, category_field="price", alignment_weight=0.5)
    lists = make_lists(model)
    codes = lists.item_features.codes.clone()
    codes[:, 1] = 1 + torch.arange(11) % 2
    lists = replace(lists, item_features=lists.item_features._replace(codes=codes))
    real = sorted(set(lists.places[lists.mask].tolist()))
    assert len(real) < 11, "an item that stands in padding alone must be among the cases"
    expected = 0.5 * category_alignment_loss(lists.items[0][real], codes[real, 1])
    loss = auxiliary(model, lists)
    torch.testing.assert_close(loss, expected)
    assert loss > 0
    loss.backward()
    assert model.item_tower.network.layers[0].weight.grad.any()


def test_the_gradient_of_the_alignment_loss_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    categories = torch.tensor([1, 2, 2, 1, 1, 3, 3, 0])
    vectors = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: category_alignment_loss(v, categories), (vectors,))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"user_id_field": "uid"}, r"model\.user_id_field: 'uid' is no single-valued feature; there are user_id, age"),
        ({"item_id_field": "tags"}, r"model\.item_id_field: 'tags' is no .*; there are item_id, price"),
        ({"category_field": "genre"}, r"model\.category_field: 'genre' is no .*; there are item_id, price"),
    ],
)
def test_a_missing_field_is_named(options: dict[str, object], expected: str, build: Build) -> None:
    with pytest.raises(ConfigError, match=expected):
        build(**options)
