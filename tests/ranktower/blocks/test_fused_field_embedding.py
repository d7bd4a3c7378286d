from __future__ import annotations

import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.blocks.fused_field_embedding import FusedFieldEmbedding

USERS = FieldSizes(single={"country": 3, "age": 4}, bags={"interests": 5})
ITEMS = FieldSizes(single={"genre": 6}, bags={"tags": 7})
# Where each field's rows begin in the table: its own order is user, item, user bags, item bags.
COUNTRY, AGE, GENRE, INTERESTS, TAGS = 0, 3, 7, 13, 18


def test_every_field_has_its_own_rows_and_bags_are_means() -> None:
    layer = FusedFieldEmbedding(USERS, ITEMS, 2)
    assert (layer.num_fields, layer.weight.shape) == (5, (25, 2))
    users = SideFeatures(torch.tensor([[2, 0], [1, 3]]), (torch.tensor([[4, 1], [3, 0]]),), (torch.tensor([2, 1]),))
    items = SideFeatures(torch.tensor([[5], [0]]), (torch.tensor([[6, 2], [1, 1]]),), (torch.tensor([1, 0]),))
    table = layer.weight
    expected = torch.stack(
        [
            torch.stack(
                [
                    table[COUNTRY + 2],
                    table[AGE + 0],
                    table[GENRE + 5],
                    (table[INTERESTS + 4] + table[INTERESTS + 1]) / 2,
                    table[TAGS + 6],
                ]
            ),
            torch.stack([table[COUNTRY + 1], table[AGE + 3], table[GENRE + 0], table[INTERESTS + 3], torch.zeros(2)]),
        ]
    )
    torch.testing.assert_close(layer(users, items), expected)


def test_a_side_without_bags_and_one_without_single_fields() -> None:
    users, items = FieldSizes(single={"id": 3}, bags={}), FieldSizes(single={}, bags={"tags": 2})
    layer = FusedFieldEmbedding(users, items, 4)
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    fields = layer(
        SideFeatures(torch.tensor([[2]])), SideFeatures(nothing, (torch.tensor([[1]]),), (torch.tensor([1]),))
    )
    torch.testing.assert_close(fields[0], torch.stack([layer.weight[2], layer.weight[4]]))


def test_offsets_are_no_weights() -> None:
    assert list(FusedFieldEmbedding(USERS, ITEMS, 2).state_dict()) == ["weight"]
