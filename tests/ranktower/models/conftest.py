from __future__ import annotations

import pytest
import torch

from ranktower.blocks import FieldSizes, SideFeatures

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
