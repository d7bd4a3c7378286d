from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ranktower.blocks import SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.training.tensors import history_bags, thin_bags

FEATURES = SideFeatures(
    torch.tensor([[1], [2], [3]]),
    (torch.tensor([[5, 6, 7, 8], [9, 1, 0, 0], [0, 0, 0, 0]]), torch.tensor([[1, 2], [3, 0], [4, 5]])),
    (torch.tensor([4, 2, 0]), torch.tensor([2, 1, 2])),
)


def test_a_thinned_bag_keeps_each_entry_with_its_probability_and_nothing_else() -> None:
    torch.manual_seed(0)
    kept = torch.zeros(10)
    for _ in range(2000):
        thinned = thin_bags(FEATURES, ((0, 0.25),))
        for row, (values, length) in enumerate(zip(thinned.bag_values[0], thinned.bag_lengths[0], strict=True)):
            entries = values[:length].tolist()
            whole = FEATURES.bag_values[0][row, : FEATURES.bag_lengths[0][row]].tolist()
            assert len(set(entries)) == len(entries)
            assert set(entries) <= set(whole)
            kept[entries] += 1
    assert kept[[2, 3, 4]].sum() == kept[0] == 0  # padding is never taken for an entry
    assert kept[[1, 5, 6, 7, 8, 9]] / 2000 == pytest.approx(0.75, abs=0.05)


def test_what_is_not_named_stays() -> None:
    thinned = thin_bags(FEATURES, ((0, 0.9),))
    assert torch.equal(thinned.codes, FEATURES.codes)
    assert torch.equal(thinned.bag_values[1], FEATURES.bag_values[1])
    assert torch.equal(thinned.bag_lengths[1], FEATURES.bag_lengths[1])
    assert thin_bags(FEATURES, ()) == FEATURES


def test_histories_are_found_by_their_kind(simulated: PreparedDataset) -> None:
    user = simulated.encoder.user
    bags = [field.name for field in user.fields if field.is_bag]
    fields = tuple(replace(field, kind="history") if field.name == bags[-1] else field for field in user.fields)
    with_history = replace(simulated, encoder=replace(simulated.encoder, user=replace(user, fields=fields)))
    assert history_bags(with_history, 0.5) == ((len(bags) - 1, 0.5),)
    assert history_bags(with_history, 0.0) == ()
    assert history_bags(simulated, 0.5) == ()
