from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ranktower.blocks import FieldSizes
from ranktower.data.dataset import PreparedDataset
from ranktower.data.sampling import FullStageSampler, SamplingOptions
from ranktower.losses import neural_sort_loss, ranknet_loss, relaxed_recall_loss
from ranktower.models import ARF, ARFConfig, EncodedLists, TwoTower, TwoTowerConfig
from ranktower.training.loop import DeviceFeatures, encode_lists
from ranktower.training.tensors import field_sizes, side_features


@pytest.fixture
def make(
    user_sizes: FieldSizes, item_sizes: FieldSizes, encode: Callable[..., EncodedLists]
) -> Callable[[ARFConfig], tuple[ARF, EncodedLists]]:
    def build(config: ARFConfig) -> tuple[ARF, EncodedLists]:
        torch.manual_seed(4)
        model = ARF(config, user_sizes, item_sizes)
        mask = torch.arange(9) < torch.tensor([9, 5, 1, 8, 0, 7]).unsqueeze(1)
        lists = encode(model, torch.randint(11, (6, 9)), torch.randint(3, (6, 9)).float(), mask)
        return model, lists

    return build


@pytest.mark.parametrize("global_term", ["neural_sort", "ranknet"])
def test_the_objective_weighs_its_two_terms_by_their_uncertainty(
    global_term: str, make: Callable[[ARFConfig], tuple[ARF, EncodedLists]]
) -> None:
    """Kendall et al.: a term of standard deviation sigma counts 1 / (2 sigma^2) and costs log sigma."""
    model, lists = make(
        ARFConfig.model_validate({"num_kept": 4, "num_relevant": 3, "temperature": 0.5, "global_term": global_term})
    )
    with torch.no_grad():
        model.log_uncertainties.copy_(torch.tensor([2.0, 0.5]).log())
        scores = model.score_pairs(lists.users, lists.item_lists())
        value = model.auxiliary_loss(lists, scores).item()
        relaxed = relaxed_recall_loss(
            scores, lists.labels, mask=lists.mask, num_kept=4, num_relevant=3, temperature=0.5
        ).item()
        if global_term == "ranknet":
            whole = ranknet_loss(scores, lists.labels, mask=lists.mask, per_pair=True).item()
        else:
            whole = neural_sort_loss(scores, lists.labels, mask=lists.mask, temperature=0.5).item()
    expected = relaxed / (2 * 2.0**2) + math.log(2.0) + whole / (2 * 0.5**2) + math.log(0.5)
    assert value == pytest.approx(expected, rel=1e-5)


def test_the_uncertainty_is_learned_where_the_terms_balance_it(
    make: Callable[[ARFConfig], tuple[ARF, EncodedLists]],
) -> None:
    # d/ds (exp(-2 s) / 2 L + s) = 0 at s = log(L) / 2.
    model, lists = make(ARFConfig(global_term="neural_sort"))
    scores = model.score_pairs(lists.users, lists.item_lists()).detach()
    terms = [relaxed_recall_loss(scores, lists.labels, mask=lists.mask).item()]
    terms.append(neural_sort_loss(scores, lists.labels, mask=lists.mask).item())
    with torch.no_grad():
        model.log_uncertainties.copy_(torch.tensor(terms).log() / 2)
    model.auxiliary_loss(lists, scores).backward()
    assert model.log_uncertainties.grad is not None
    assert model.log_uncertainties.grad.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_neither_term_drowns_the_other_at_the_start(simulated: PreparedDataset) -> None:
    """On lists of the experiments' size, of about 140 items and 3,000 pairs that have an order."""
    torch.manual_seed(4)
    model = ARF(ARFConfig(), field_sizes(simulated.encoder.user), field_sizes(simulated.encoder.item))
    features = DeviceFeatures(side_features(simulated.users.features), side_features(simulated.items.features))
    sampling = SamplingOptions(max_impressions=40, num_candidates=20, num_random=80)
    lists = encode_lists(model, features, next(FullStageSampler(simulated, sampling, None).epoch(0, 32)))
    assert lists.mask.sum(dim=1).float().mean() > 120
    scores = model.score_pairs(lists.users, lists.item_lists())
    towers = [parameter for name, parameter in model.named_parameters() if name != "log_uncertainties"]

    def gradient_norm(weights: Tensor) -> float:
        """Of the objective in which one term counts as it is and the other not at all."""
        with torch.no_grad():
            model.log_uncertainties.copy_(-0.5 * weights.log())
        found = torch.autograd.grad(model.auxiliary_loss(lists, scores), towers, retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in found]).norm().item()

    relaxed, whole = gradient_norm(torch.tensor([1.0, 1e-30])), gradient_norm(torch.tensor([1e-30, 1.0]))
    assert 0.1 < relaxed / whole < 10


def test_scores_are_those_of_two_towers(
    make: Callable[[ARFConfig], tuple[ARF, EncodedLists]], user_sizes: FieldSizes, item_sizes: FieldSizes
) -> None:
    model, lists = make(ARFConfig(width=12, hidden=(20,), initial_tau=0.3))
    plain = TwoTower(TwoTowerConfig(width=12, hidden=(20,), initial_tau=0.3), user_sizes, item_sizes)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key != "log_uncertainties"})
    users, items = plain.encode_users(lists.user_features), plain.encode_items(lists.item_features)
    assert torch.equal(users[0], lists.users[0])
    assert torch.equal(items[0], lists.items[0])
    scores = model.score_pairs(lists.users, lists.item_lists())
    assert torch.equal(plain.score_pairs(lists.users, lists.item_lists()), scores)
