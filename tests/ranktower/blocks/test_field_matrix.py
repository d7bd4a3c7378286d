from __future__ import annotations

import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.blocks.field_matrix import FieldMatrix

SIZES = FieldSizes(single={"id": 2**17, "age": 7}, bags={"tags": 9})
FEATURES = SideFeatures(
    torch.tensor([[100_000, 3], [5, 0]]), (torch.tensor([[1, 8, 0], [4, 4, 4]]),), (torch.tensor([2, 0]),)
)


def test_a_field_of_the_common_width_is_its_embedding() -> None:
    matrix = FieldMatrix(SIZES, 16)
    with torch.no_grad():
        fields = matrix(FEATURES)
        plain = matrix.embedding(FEATURES)
    assert matrix.widths == [17, 16, 16]
    assert fields.shape == (2, 3, 16)
    assert torch.equal(fields[:, 1:].flatten(1), plain[:, 17:])
    assert not fields[1, 2].any(), "an empty bag stays zero"


def test_another_width_goes_through_the_fields_own_map() -> None:
    matrix = FieldMatrix(SIZES, 16)
    ((name, weight),) = matrix.maps.named_parameters()
    assert name == "0.weight"
    with torch.no_grad():
        expected = matrix.embedding(FEATURES)[:, :17].double() @ weight.double().T
        torch.testing.assert_close(matrix(FEATURES)[:, 0].double(), expected, rtol=1e-5, atol=1e-6)


def test_every_field_is_mapped_to_a_width_that_none_has() -> None:
    matrix = FieldMatrix(SIZES, 8)
    assert [tuple(weight.shape) for weight in matrix.maps.parameters()] == [(8, 17), (8, 16), (8, 16)]
    assert matrix(FEATURES).shape == (2, 3, 8)
