from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ranktower.blocks import SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.training.tensors import History, hide_items, histories

CPU = torch.device("cpu")
# The first bag lists items by codes that are their rows, the second by other codes.
FEATURES = SideFeatures(
    torch.tensor([[1], [2], [3]]),
    (torch.tensor([[5, 6, 7, 8], [9, 1, 0, 0], [0, 0, 0, 0]]), torch.tensor([[1, 2], [3, 0], [4, 5]])),
    (torch.tensor([4, 2, 0]), torch.tensor([2, 1, 2])),
)
SHOWN = History(0, torch.arange(10), 10, 0.25)
LIKED = History(1, torch.tensor([0, 7, 5, 9, 2, 3]), 10, 0.25)


def entries(features: SideFeatures, bag: int) -> list[list[int]]:
    rows = zip(features.bag_values[bag], features.bag_lengths[bag], strict=True)
    return [values[:length].tolist() for values, length in rows]


def test_each_entry_stays_with_its_probability_and_padding_never_appears() -> None:
    torch.manual_seed(0)
    kept = torch.zeros(10)
    for _ in range(2000):
        for left, whole in zip(entries(hide_items(FEATURES, [SHOWN]), 0), entries(FEATURES, 0), strict=True):
            assert len(set(left)) == len(left)
            assert set(left) <= set(whole)
            kept[left] += 1
    assert kept[[0, 2, 3, 4]].sum() == 0
    assert kept[[1, 5, 6, 7, 8, 9]] / 2000 == pytest.approx(0.75, abs=0.05)


def test_entries_of_one_user_are_hidden_independently() -> None:
    torch.manual_seed(0)
    both = sum({5, 6} <= set(entries(hide_items(FEATURES, [SHOWN]), 0)[0]) for _ in range(2000))
    assert both / 2000 == pytest.approx(0.75**2, abs=0.05)


def test_an_item_is_hidden_from_all_histories_of_a_user_or_from_none() -> None:
    torch.manual_seed(0)
    hidden = 0
    for _ in range(200):
        features = hide_items(FEATURES, [SHOWN, LIKED])
        shown, liked = entries(features, 0), entries(features, 1)
        for user, item, code in ((0, 7, 1), (0, 5, 2), (1, 9, 3)):
            assert (item in shown[user]) == (code in liked[user])
            hidden += item not in shown[user]
    assert hidden > 0


def test_what_is_no_history_stays() -> None:
    features = hide_items(FEATURES, [replace(SHOWN, dropout=0.9)])
    assert torch.equal(features.codes, FEATURES.codes)
    assert torch.equal(features.bag_values[1], FEATURES.bag_values[1])
    assert torch.equal(features.bag_lengths[1], FEATURES.bag_lengths[1])
    assert hide_items(FEATURES, ()) is FEATURES


def test_histories_are_found_by_their_kind_and_know_their_items(simulated: PreparedDataset) -> None:
    user = simulated.encoder.user
    bags = [field.name for field in user.fields if field.is_bag]
    liked = tuple(simulated.items.ids[[7, 2]])
    fields = tuple(
        replace(field, kind="history", vocabulary=liked) if field.name == bags[-1] else field for field in user.fields
    )
    with_history = replace(simulated, encoder=replace(simulated.encoder, user=replace(user, fields=fields)))
    (history,) = histories(with_history, 0.5, CPU)
    assert (history.place, history.dropout) == (len(bags) - 1, 0.5)
    assert history.item_rows[0] == 0
    assert tuple(simulated.items.ids[history.item_rows[1:]]) == liked
    assert histories(with_history, 0.0, CPU) == histories(simulated, 0.5, CPU) == ()
