"""From the encoder's numpy arrays to what the towers take."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.data.encoder import EncodedFeatures, SideEncoder


def field_sizes(encoder: SideEncoder) -> FieldSizes:
    """The cardinalities of one side's fields, in the order in which they are encoded."""
    sizes = encoder.cardinalities
    return FieldSizes(
        single={name: sizes[name] for name in encoder.single_fields},
        bags={name: sizes[name] for name in encoder.bag_fields},
    )


def side_features(encoded: EncodedFeatures) -> SideFeatures:
    """Encoded features of n rows as int64 tensors."""
    return SideFeatures(
        _int64(encoded.codes),
        tuple(_int64(values) for values in encoded.bags.values()),
        tuple(_int64(lengths) for lengths in encoded.lengths.values()),
    )


def take(features: SideFeatures, rows: Tensor) -> SideFeatures:
    """The features of the given rows, ``rows`` int64 ``[n]``."""
    return SideFeatures(
        features.codes[rows],
        tuple(values[rows] for values in features.bag_values),
        tuple(lengths[rows] for lengths in features.bag_lengths),
    )


def to_device(features: SideFeatures, device: torch.device) -> SideFeatures:
    """The same features on a device."""
    return SideFeatures(
        features.codes.to(device),
        tuple(values.to(device) for values in features.bag_values),
        tuple(lengths.to(device) for lengths in features.bag_lengths),
    )


def _int64(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype("int64"))
