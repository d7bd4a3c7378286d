from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models import EncodedLists, PreRanker

USERS = FieldSizes(single={"user_id": 50, "age": 7}, bags={"history": 30})
ITEMS = FieldSizes(single={"item_id": 30, "price": 33}, bags={"tags": 9, "genres": 5})


@pytest.fixture
def user_sizes() -> FieldSizes:
    return USERS


@pytest.fixture
def item_sizes() -> FieldSizes:
    return ITEMS


def features(sizes: FieldSizes, n: int, seed: int, *, slots: int = 4) -> SideFeatures:
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(size, (n,), generator=generator) for size in sizes.single.values()]
    return SideFeatures(
        torch.stack(codes, dim=1),
        tuple(torch.randint(size, (n, slots), generator=generator) for size in sizes.bags.values()),
        tuple(torch.randint(slots + 1, (n,), generator=generator) for _ in sizes.bags),
    )


@pytest.fixture
def user_features() -> SideFeatures:
    return features(USERS, 6, 1)


@pytest.fixture
def item_features() -> SideFeatures:
    return features(ITEMS, 11, 2)


@pytest.fixture
def encode(user_features: SideFeatures, item_features: SideFeatures) -> Callable[..., EncodedLists]:
    """``encode(model, places, labels, mask)``: lists of the six users and eleven items behind a model's towers."""

    def run(
        model: PreRanker, places: Tensor, labels: Tensor, mask: Tensor, *, stage: Tensor | None = None
    ) -> EncodedLists:
        return EncodedLists(
            users=model.encode_users(user_features),
            items=model.encode_items(item_features),
            user_features=user_features,
            item_features=item_features,
            places=places,
            labels=torch.where(mask, labels, 0),
            stage=torch.zeros_like(places) if stage is None else stage,
            mask=mask,
        )

    return run
