from __future__ import annotations

import math

import pytest
import torch

from ranktower.blocks import FieldEmbedding, FieldSizes, SideFeatures, embedding_width


@pytest.mark.parametrize("cardinality", [1, 2, 16, 65_535, 65_536, 131_071, 131_072, 262_143, 10_000_000])
def test_width_is_the_papers_formula(cardinality: int) -> None:
    assert embedding_width(cardinality) == max(math.floor(math.log2(cardinality)), 16)


def test_concatenates_fields_and_averages_bags() -> None:
    layer = FieldEmbedding(FieldSizes(single={"a": 5, "b": 3}, bags={"tags": 7}))
    features = SideFeatures(
        torch.tensor([[4, 2], [0, 1]]), (torch.tensor([[6, 3, 5], [1, 2, 2]]),), (torch.tensor([2, 3]),)
    )
    a, b, tags = layer.single[0].weight, layer.single[1].weight, layer.bags[0].weight
    expected = torch.stack(
        [
            torch.cat([a[4], b[2], (tags[6] + tags[3]) / 2]),
            torch.cat([a[0], b[1], (tags[1] + tags[2] + tags[2]) / 3]),
        ]
    )
    torch.testing.assert_close(layer(features), expected)
    assert layer.output_width == 48


def test_padding_slots_have_no_influence() -> None:
    layer = FieldEmbedding(FieldSizes(single={}, bags={"tags": 4}))
    codes = torch.zeros(1, 0, dtype=torch.int64)
    with torch.no_grad():
        layer.bags[0].weight[3] = float("nan")
    out = layer(SideFeatures(codes, (torch.tensor([[1, 3, 3]]),), (torch.tensor([1]),)))
    torch.testing.assert_close(out[0], layer.bags[0].weight[1])
    out.sum().backward()
    gradient = layer.bags[0].weight.grad
    assert gradient is not None
    assert gradient[3].abs().sum() == 0


def test_an_empty_bag_is_zero() -> None:
    layer = FieldEmbedding(FieldSizes(single={}, bags={"tags": 4}))
    out = layer(SideFeatures(torch.zeros(1, 0, dtype=torch.int64), (torch.tensor([[1, 2]]),), (torch.tensor([0]),)))
    assert out.abs().sum() == 0


def test_a_given_width_replaces_the_papers() -> None:
    sizes = FieldSizes(single={"a": 9, "b": 5}, bags={"c": 7}, given_widths={"b": 3, "c": 4})
    assert sizes.widths == (16, 3, 4)
    embedding = FieldEmbedding(sizes)
    assert [table.weight.shape[1] for table in (*embedding.single, *embedding.bags)] == [16, 3, 4]
    assert embedding(
        SideFeatures(torch.zeros(2, 2, dtype=torch.int64), (torch.ones(2, 1).long(),), (torch.ones(2).long(),))
    ).shape == (2, 23)
