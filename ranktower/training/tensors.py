"""From the encoder's numpy arrays to what the towers take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.data.encoder import EncodedFeatures, FeatureEncoder, SideEncoder
from ranktower.errors import ConfigError


@dataclass(frozen=True)
class History:
    """A bag of the user's that lists items, and of which entries are hidden in training.

    Attributes:
        place: among the user's bags.
        item_rows: int64 ``[cardinality]``, the item that each code stands for; 0 for the unknown code.
        num_items: of the data set.
        dropout: probability that an entry is hidden.
    """

    place: int
    item_rows: Tensor
    num_items: int
    dropout: float


def side_sizes(encoder: FeatureEncoder, widths: Mapping[str, int]) -> tuple[FieldSizes, FieldSizes]:
    """The cardinalities of the user's and the item's fields; ``widths`` are embedding widths by a field's name.

    Raises:
        ConfigError: ``widths`` names what is no feature of either side.
    """
    known = {**encoder.user.cardinalities, **encoder.item.cardinalities}
    for name, width in widths.items():
        if name not in known:
            raise ConfigError(f"embedding_widths: no feature {name!r} (= {width}); known: {', '.join(known)}")
    return field_sizes(encoder.user, widths), field_sizes(encoder.item, widths)


def field_sizes(encoder: SideEncoder, widths: Mapping[str, int] | None = None) -> FieldSizes:
    """The cardinalities of one side's fields, in the order in which they are encoded."""
    sizes = encoder.cardinalities
    return FieldSizes(
        single={name: sizes[name] for name in encoder.single_fields},
        bags={name: sizes[name] for name in encoder.bag_fields},
        given_widths=widths or {},
    )


def side_features(encoded: EncodedFeatures) -> SideFeatures:
    """Encoded features of n rows as int64 tensors."""
    return SideFeatures(
        as_int64(encoded.codes),
        tuple(as_int64(values) for values in encoded.bags.values()),
        tuple(as_int64(lengths) for lengths in encoded.lengths.values()),
    )


def take(features: SideFeatures, rows: Tensor) -> SideFeatures:
    """The features of the given rows, ``rows`` int64 ``[n]``."""
    return SideFeatures(
        features.codes[rows],
        tuple(values[rows] for values in features.bag_values),
        tuple(lengths[rows] for lengths in features.bag_lengths),
    )


def histories(dataset: PreparedDataset, dropout: float, device: torch.device) -> tuple[History, ...]:
    """The user's histories; none where ``dropout`` is 0."""
    if not dropout:
        return ()
    rows = {item_id: row for row, item_id in enumerate(dataset.items.ids.tolist())}
    bags = [field for field in dataset.encoder.user.fields if field.is_bag]
    return tuple(
        History(place, torch.tensor([0, *map(rows.__getitem__, field.vocabulary)], device=device), len(rows), dropout)
        for place, field in enumerate(bags)
        if field.kind == "history"
    )


def hide_items(features: SideFeatures, hidden_from: Sequence[History]) -> SideFeatures:
    """The features of n users with items left out of their histories at random, by torch's generator.

    An item is hidden from all of a user's histories or from none, else the one would give away what the other hides.
    The entries that stay keep no order, which a mean-pooled bag does not have.
    """
    if not hidden_from:
        return features
    bags, lengths = list(features.bag_values), list(features.bag_lengths)
    device = features.codes.device
    # One number an item, turned by one number a user: uniform for every pair, without drawing one for each.
    by_item = torch.rand(hidden_from[0].num_items, device=device)
    by_user = torch.rand(len(features.codes), 1, device=device)
    for history in hidden_from:
        values = bags[history.place]
        drawn = (by_item[history.item_rows[values]] + by_user) % 1
        valid = torch.arange(values.shape[1], device=device) < lengths[history.place].unsqueeze(1)
        kept = valid & (drawn >= history.dropout)
        order = torch.argsort(kept.to(torch.int8), dim=1, descending=True)
        bags[history.place], lengths[history.place] = torch.gather(values, 1, order), kept.sum(dim=1)
    return SideFeatures(features.codes, tuple(bags), tuple(lengths))


def to_device(features: SideFeatures, device: torch.device) -> SideFeatures:
    """The same features on a device."""
    return SideFeatures(
        features.codes.to(device),
        tuple(values.to(device) for values in features.bag_values),
        tuple(lengths.to(device) for lengths in features.bag_lengths),
    )


def as_int64(array: NDArray[Any]) -> Tensor:
    """Rows or codes as torch takes them for an index."""
    return torch.from_numpy(array.astype("int64"))
