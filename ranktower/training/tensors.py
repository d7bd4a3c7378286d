"""From the encoder's numpy arrays to what the towers take."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.data.encoder import EncodedFeatures, SideEncoder

# A side's bags, by place, of which entries are hidden in training, each with its probability.
Thinned = tuple[tuple[int, float], ...]


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


def history_bags(dataset: PreparedDataset, dropout: float) -> Thinned:
    """The user's histories, by their places among the bags; none where ``dropout`` is 0."""
    if not dropout:
        return ()
    bags = [field for field in dataset.encoder.user.fields if field.is_bag]
    return tuple((place, dropout) for place, field in enumerate(bags) if field.kind == "history")


def thin_bags(features: SideFeatures, thinned: Thinned) -> SideFeatures:
    """The features with entries of the named bags left out at random, by torch's generator.

    The entries that stay keep no order, which a mean-pooled bag does not have.
    """
    bags, counts = list(features.bag_values), list(features.bag_lengths)
    for bag, dropout in thinned:
        values = bags[bag]
        valid = torch.arange(values.shape[1], device=values.device) < counts[bag].unsqueeze(1)
        kept = valid & (torch.rand(values.shape, device=values.device) >= dropout)
        order = torch.argsort(kept.to(torch.int8), dim=1, descending=True)
        bags[bag], counts[bag] = torch.gather(values, 1, order), kept.sum(dim=1)
    return SideFeatures(features.codes, tuple(bags), tuple(counts))


def to_device(features: SideFeatures, device: torch.device) -> SideFeatures:
    """The same features on a device."""
    return SideFeatures(
        features.codes.to(device),
        tuple(values.to(device) for values in features.bag_values),
        tuple(lengths.to(device) for lengths in features.bag_lengths),
    )


def _int64(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype("int64"))
